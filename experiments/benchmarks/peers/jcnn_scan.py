"""jcnn with several steps a call, as its experiments train."""

from . import jcnn_
from .workload import Model, Step

STEPS = 4


def make(model: Model, examples: int | None = None) -> Step:
    return jcnn_.make(model, examples, STEPS)
