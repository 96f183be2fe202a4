# SPDX-License-Identifier: BSD-3-Clause
"""Has the interpreter and the C library give back memory that was freed."""

import contextlib
import ctypes
import gc
from collections.abc import Callable


def _malloc_trim() -> Callable[[int], int] | None:
    """The function of that name, which glibc has and other C libraries do not."""
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).malloc_trim
        function.argtypes = [ctypes.c_size_t]
        function.restype = ctypes.c_int
        return function
    return None


_TRIM = _malloc_trim()


def give_back() -> None:
    """Of both as much as they can. No lock held.

    Python gives back a MiB when nothing in it is in use, and keeps thousands of small objects ready for use, all over.
    Only a garbage collection lets go of these; with everything frozen there is nothing for it to look through. What is
    in use all over the place it cannot move: some MiB stay, and are what is used next.

    glibc keeps what was freed unless it lay at the very end. Its function looks through all of it, which takes a while,
    and returns whole pages to the kernel. The interpreter is free meanwhile.
    """
    gc.freeze()
    gc.collect()
    gc.unfreeze()
    if _TRIM:
        _TRIM(0)
