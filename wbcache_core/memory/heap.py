# SPDX-License-Identifier: BSD-3-Clause
"""Makes the interpreter and the C library return memory that was freed."""

import contextlib
import ctypes
import gc
from collections.abc import Callable


def _malloc_trim() -> Callable[[int], int] | None:
    """The function with that name, which glibc has and other C libraries do not."""
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).malloc_trim
        function.argtypes = [ctypes.c_size_t]
        function.restype = ctypes.c_int
        return function
    return None


_TRIM = _malloc_trim()


def give_back() -> None:
    """Return as much memory as both can. No lock held.

    Python returns a MiB when nothing in it is in use, and keeps thousands of small objects ready for reuse, scattered
    everywhere. Only a garbage collection releases these; with everything frozen it has nothing to traverse. Objects in
    use cannot be moved: some MiB remain, and are used next.

    glibc keeps freed memory unless it is at the very end of the heap. Its function goes through all of it, which takes
    a while, and returns whole pages to the kernel. The interpreter is free meanwhile.
    """
    gc.freeze()
    gc.collect()
    gc.unfreeze()
    if _TRIM:
        _TRIM(0)
