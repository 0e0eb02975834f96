"""Image-classification data as NumPy arrays (needs the extra `data`).

`load` returns a data set by name, `from_arrays` makes one of your own arrays,
`load_folder` reads a folder of class folders. `stream` and `stream_folder` return sets
whose images stay in their files (extra `streaming`).
"""

from .batches import Batches as Batches
from .batches import evaluation_batch_size as evaluation_batch_size
from .batches import evaluation_batches as evaluation_batches
from .dataset import DataError as DataError
from .dataset import Dataset as Dataset
from .dataset import from_arrays as from_arrays
from .folder import Folder as Folder
from .folder import load_folder as load_folder
from .folder import split_folder as split_folder
from .loading import load as load
from .stream import stream as stream
from .stream import stream_folder as stream_folder
from .streamed import StreamedImages as StreamedImages
from .streamed import View as View
from .streamed import is_streamed as is_streamed
