"""The former name of `jcnn.runs`, kept for one release."""

from dataclasses import dataclass

from .runs import RunConfig as _RunConfig
from .runs import __dir__ as __dir__
from .runs import __getattr__ as __getattr__


@dataclass(frozen=True)
class RunConfig(_RunConfig):
    test_each_epoch: bool = True  # as it was
