"""Large buffers kept from one training step to the next."""

import ctypes

# Numbers of <malloc.h>, and what they are set to.
_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no buffer is mapped on its own and unmapped when it is freed
    -1: -1,  # M_TRIM_THRESHOLD: what is freed at the end is never handed back
    -2: 64 << 20,  # M_TOP_PAD: more is asked for than is needed
    -8: 1,  # M_ARENA_MAX: one pool for all threads, since the others' are of 64 MiB
}


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees, for as long as it runs.

    A training step needs hundreds of MiB for moments only. By default glibc maps and
    unmaps such buffers at each step, and Linux hands them out page by page, filled with
    zeros: on 2 cores a third to a half of a step. The price: the memory of the largest
    step is not there for other programs meanwhile. Pools that threads have already are
    left as they are, so call it before the first computation.

    Returns:
      Whether it could be done; outside of Linux with glibc nothing happens.

    >>> keep_memory()  # doctest: +SKIP
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(name, value) for name, value in _SETTINGS.items()])
