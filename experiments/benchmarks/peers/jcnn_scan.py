"""jcnn with several steps a call, as its experiments train."""

from . import jcnn_
from .workload import Dtype, Model, Step

STEPS = 4


def make(model: Model, examples: int | None = None, dtype: Dtype = "float32") -> Step:
    return jcnn_.make(model, examples, dtype, STEPS)
