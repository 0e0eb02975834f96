"""Image-classification data as NumPy arrays (needs the extra `data`).

`load` returns a data set by name, `from_arrays` makes one of your own arrays.
"""

from .dataset import DataError as DataError
from .dataset import Dataset as Dataset
from .dataset import from_arrays as from_arrays
from .loading import load as load
