"""Image-classification data as NumPy arrays (needs the extra `data`).

`load` reads a data set that tensorflow-datasets has prepared, without TensorFlow,
and keeps the decoded pixels in the user's cache; `from_arrays` checks your own.
"""

from .dataset import DataError as DataError
from .dataset import Dataset as Dataset
from .dataset import from_arrays as from_arrays
from .loading import load as load
