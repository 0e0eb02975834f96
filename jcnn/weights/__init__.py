"""Weights of PyTorch, Flax and Equinox as jcnn's parameters and state, and back.

Arrays get other names and orders of axes, and nothing else. None of the libraries is
imported. Arrays of fitting shapes may still belong to another network, which pads
otherwise, say; so the outputs of both networks are compared, unless names can tell.
"""

from .equinox import from_equinox as from_equinox
from .equinox import to_equinox as to_equinox
from .flax import from_flax as from_flax
from .flax import to_flax as to_flax
from .torch import from_torch as from_torch
from .torch import to_torch as to_torch
