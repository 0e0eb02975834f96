"""Measures on this machine which algorithm is fastest for each convolution.

The planner (`impl="auto"`) goes by rules. `tune` runs every algorithm that serves and
returns `Choices`, a value for the argument `impl`. `save` and `load` keep them in a
plain file: who reads it computes the same bits, however fast an algorithm is by then.
"""

from ..engine.choices import Choices as Choices
from .file import load as load
from .file import save as save
from .timing import Measured as Measured
from .timing import measure as measure
from .timing import tune as tune
