"""Convolutional networks as pure JAX functions.

`__all__` lists the public functions and modules; modules are imported on first use.
Within them every name without an underscore is public; of `jcnn.inspect`, those that it
imports. `jcnn.engine` and `jcnn.doctor` are semi-private: importable, but their names
may change in any release. Modules with an underscore are private.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._conv import conv, conv_transpose, depthwise_conv
from ._dense import dense, flatten
from ._dropout import dropout
from ._im2col import col2im, im2col
from .combine import frozen, parallel, remat, residual, serial
from .engine.acceleration import accelerate
from .engine.general import conv_general_dilated
from .inspect.explanation import explain
from .inspect.summary import summarize
from .layers import Layer
from .norm import batch_norm, group_norm, layer_norm
from .pool import avg_pool, global_avg_pool, global_max_pool, max_pool, min_pool

if _TYPE_CHECKING:
    from . import (
        augment,
        boxes,
        compilation,
        data,
        finite,
        initializers,
        inspect,
        layers,
        metrics,
        models,
        order,
        runs,
        train,
        weights,
    )

__version__ = "0.1.0"

__all__ = [
    "Layer",
    "accelerate",
    "augment",
    "avg_pool",
    "batch_norm",
    "boxes",
    "col2im",
    "compilation",
    "conv",
    "conv_general_dilated",
    "conv_transpose",
    "data",
    "dense",
    "depthwise_conv",
    "dropout",
    "explain",
    "finite",
    "flatten",
    "frozen",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "im2col",
    "initializers",
    "inspect",
    "layer_norm",
    "layers",
    "max_pool",
    "metrics",
    "min_pool",
    "models",
    "order",
    "parallel",
    "remat",
    "residual",
    "runs",
    "serial",
    "summarize",
    "train",
    "weights",
]

# All functions are here already, so what is asked for later is a module.
_LATER = (*__all__, "experiment")


def __getattr__(name: str) -> _ModuleType:
    if name in _LATER:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
