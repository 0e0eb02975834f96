"""Settings of glibc's allocator for large buffers."""

import ctypes

# Numbers of <malloc.h>, and what they are set to.
_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no mapping per buffer
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks
    -2: 64 << 20,  # M_TOP_PAD: it grows by this much more
    -8: 1,  # M_ARENA_MAX: one arena, since the others have 64 MiB at most
}


def keep_memory() -> bool:
    """Let this process keep the memory that it frees; call it before computing.

    By default glibc maps and unmaps a training step's buffers of hundreds of MiB at
    each step, and Linux fills their pages with zeros: on 2 cores a third to a half of
    a step. The price is that the memory of the largest step stays taken.

    Returns:
        Whether it could be done, which takes glibc.

    >>> keep_memory()  # doctest: +SKIP
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(name, value) for name, value in _SETTINGS.items()])
