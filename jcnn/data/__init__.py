"""Image-classification data as NumPy arrays (needs the extra `data`).

`load` returns a data set by name, `from_arrays` makes one of your own arrays,
`load_folder` reads a folder of class folders.
"""

from .dataset import DataError as DataError
from .dataset import Dataset as Dataset
from .dataset import from_arrays as from_arrays
from .folder import Folder as Folder
from .folder import load_folder as load_folder
from .folder import split_folder as split_folder
from .loading import load as load
