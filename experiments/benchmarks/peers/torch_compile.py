"""PyTorch with `torch.compile`, which needs a C++ compiler."""

import torch

from . import torch_
from .workload import Model, Step


def make(model: Model, examples: int | None = None) -> Step:
    # Otherwise the second process of a machine finds the work of the first done.
    torch.compiler.config.force_disable_caches = True
    return torch_.make(model, examples, torch.compile)
