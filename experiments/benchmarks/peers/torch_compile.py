"""PyTorch with `torch.compile`, which needs a C++ compiler."""

import torch

from . import torch_
from .workload import Dtype, Model, Step


def make(model: Model, examples: int | None = None, dtype: Dtype = "float32") -> Step:
    # Otherwise the second process on a machine would find the first one's cache.
    torch.compiler.config.force_disable_caches = True
    return torch_.make(model, examples, dtype, torch.compile)
