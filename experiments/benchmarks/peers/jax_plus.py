"""Plain JAX with the XLA options that were measured to help: `jcnn.compilation`'s."""

from jcnn.compilation import default_options

from . import jax_
from .workload import Model, Step


def make(model: Model, examples: int | None = None) -> Step:
    return jax_.make(model, examples, default_options())
