"""Plain JAX with the XLA option that switches its slow path for convolutions off."""

from . import jax_
from .workload import Model, Step

OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def make(model: Model, examples: int | None = None) -> Step:
    return jax_.make(model, examples, OPTIONS)
