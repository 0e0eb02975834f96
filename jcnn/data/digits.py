"""Prepare the data set `digits` in the user's cache on its first use."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

from .._files import user_cache

VERSION = "1.0.0"


def prepare(*, anew: bool = False) -> Path:
    """Makes sure that `digits` is prepared; returns the folder to find it below.

    It is written to a folder of its own and moved into place when complete, so
    being killed half-way, or two processes at once, do no harm.

    Args:
        anew: whether what is there is damaged and to be replaced.

    Raises:
        OSError: the cache folder cannot be written; or a RuntimeError, where
            tensorflow-datasets found that out.

    >>> (prepare() / "digits" / VERSION / "dataset_info.json").is_file()
    True
    """
    root = user_cache() / "tfds"
    final = root / "digits" / VERSION
    if _complete(final) and not anew:
        return root
    final.parent.mkdir(parents=True, exist_ok=True)
    from .digits_builder import Digits  # takes seconds

    with tempfile.TemporaryDirectory(dir=user_cache(), prefix=".tmp-") as scratch:
        # tensorflow-datasets prints and draws progress bars.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            builder = Digits(data_dir=scratch, file_format="array_record")
            builder.download_and_prepare()
        if anew or not _complete(final):
            with contextlib.suppress(FileNotFoundError):
                os.rename(final, Path(scratch) / "damaged")
        try:
            os.rename(Path(scratch) / "digits" / VERSION, final)
        except OSError:
            if not _complete(final):  # else another process was first
                raise
    return root


def _complete(folder: Path) -> bool:
    return os.path.isfile(folder / "dataset_info.json")
