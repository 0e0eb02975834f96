"""Weights of PyTorch, Flax and Equinox as jcnn's parameters and state, and back.

Arrays get other names and orders of axes, and nothing else. None of the libraries is
imported. Arrays of fitting shapes may still belong to another network, which pads
otherwise, say; so the outputs of both networks are compared, unless names can tell.
"""

from .equinox import from_equinox, to_equinox
from .flax import from_flax, to_flax
from .torch import from_torch, to_torch

# Without the modules: `import *` would hide the user's own torch.
__all__ = [
    "from_equinox",
    "from_flax",
    "from_torch",
    "to_equinox",
    "to_flax",
    "to_torch",
]
