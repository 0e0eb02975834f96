"""Plain JAX with the XLA options that were measured to help: `jcnn.compilation`'s."""

from jcnn.compilation import default_options

from . import jax_
from .workload import Dtype, Model, Step


def make(model: Model, examples: int | None = None, dtype: Dtype = "float32") -> Step:
    return jax_.make(model, examples, dtype, default_options())
