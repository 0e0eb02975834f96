"""The former name of `jcnn.runs`, kept for one release."""

from .runs import __dir__ as __dir__
from .runs import __getattr__ as __getattr__
