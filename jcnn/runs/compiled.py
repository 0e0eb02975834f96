"""Compiled programs kept from one run to the next, by JAX's persistent cache."""

import os
from pathlib import Path

import jax

from .._files import user_cache
from ..engine.onednn.support import is_default
from ..engine.processor import signature

_LEAST_SECONDS = 0.1  # of compilation: what is quicker is not kept


def keep_programs() -> Path | None:
    """Lets JAX keep what it compiles in the user's cache folder.

    The programs are the same to the bit as those compiled anew. JAX's own settings come
    first: a folder that is set already, or `JAX_ENABLE_COMPILATION_CACHE=false`. Not so
    on CPUs for which jaxlib has oneDNN: its convolutions cannot be kept, and are worth
    more than a quick start. Call it before the first computation.

    Returns:
        The folder; None if nothing was changed, also where it cannot be written or
        there is no home to hold it.

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
