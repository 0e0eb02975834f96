"""Convolutional networks as pure JAX functions.

`jcnn.data`, `jcnn.models`, `jcnn.train` and the other modules are there too: each is
imported when it is first asked for.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

from ._conv import conv as conv
from ._conv import conv_transpose as conv_transpose
from ._conv import depthwise_conv as depthwise_conv
from ._dense import dense as dense
from ._dense import flatten as flatten
from ._dropout import dropout as dropout
from ._im2col import col2im as col2im
from ._im2col import im2col as im2col
from .combine import parallel as parallel
from .combine import residual as residual
from .combine import serial as serial
from .engine.acceleration import accelerate as accelerate
from .engine.dropin import conv_general_dilated as conv_general_dilated
from .inspect.explanation import explain as explain
from .inspect.summary import summarize as summarize
from .layers import Layer as Layer
from .norm import batch_norm as batch_norm
from .norm import group_norm as group_norm
from .norm import layer_norm as layer_norm
from .pool import avg_pool as avg_pool
from .pool import global_avg_pool as global_avg_pool
from .pool import global_max_pool as global_max_pool
from .pool import max_pool as max_pool
from .pool import min_pool as min_pool

__version__ = "0.1.0"

_MODULES = (
    "augment",
    "compilation",
    "data",
    "experiment",
    "runs",
    "finite",
    "layers",
    "metrics",
    "models",
    "order",
    "train",
)


def __getattr__(name: str) -> _ModuleType:
    if name in _MODULES:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
