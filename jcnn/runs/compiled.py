"""JAX's persistent cache of compiled programs."""

import os
from pathlib import Path

import jax

from .._files import user_cache
from ..engine.onednn.support import is_default
from ..engine.processor import signature

_LEAST_SECONDS = 0.1  # of compilation: what is quicker is not kept


def keep_programs() -> Path | None:
    """Let JAX cache compiled programs in the user's cache folder.

    Call it before the first computation. JAX's own settings come first: a folder that
    is set already, or `JAX_ENABLE_COMPILATION_CACHE=false`. Where convolutions are
    oneDNN's, which cannot be cached, nothing changes.

    Returns:
        The folder; None if nothing was changed, or it cannot be written.

    >>> keep_programs()  # doctest: +SKIP
    PosixPath('/home/me/.cache/jcnn/programs/2f1c5a0d9e3b')
    """
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore
    if not enabled or jax.config.jax_compilation_cache_dir:  # pyright: ignore
        return None
    if is_default():
        return None
    try:
        folder = user_cache() / "programs" / signature()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter of `Path.home`
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return folder
