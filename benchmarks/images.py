# SPDX-License-Identifier: BSD-3-Clause
"""Images below the temporary folder: preallocated, warm in the page cache, blank again before each turn."""

import contextlib
import os

from wbcache_core.device.shared_memory import path_of
from wbcache_core.errors import FormatError
from wbcache_core.format.superblock import SLOT_OFFSETS, decode
from wbcache_core.units import MIB, PAGE_BYTES

_PIECE = os.urandom(4 * MIB)
_ZEROS = bytes(4 * MIB)


def allocate(path, size, blank=False):
    """Write every byte of an image, so that later writes change no metadata; data unless blank. Durable."""
    piece = _ZEROS if blank else _PIECE
    with open(path, "wb", buffering=0) as image:
        for start in range(0, size, len(piece)):
            image.write(piece[: size - start])
        os.fsync(image.fileno())
    return path


def sparse(path, size):
    """An image of holes."""
    with open(path, "wb") as image:
        image.truncate(size)
    return path


def forget_log(path):
    """Take away both superblocks of a log: a start with force=discard-log then makes it a new one."""
    with open(path, "r+b") as log:
        for offset in SLOT_OFFSETS:
            log.seek(offset)
            log.write(bytes(PAGE_BYTES))
        log.flush()
        os.fsync(log.fileno())


def forget_ring(log):
    """Remove the ring that a killed server of this log left in memory: it would have up to a 16th of all there is."""
    with open(log, "rb") as image:
        for offset in SLOT_OFFSETS:
            image.seek(offset)
            with contextlib.suppress(FormatError, FileNotFoundError):
                os.unlink(path_of(decode(image.read(PAGE_BYTES)).uuid))


def settle(folder):
    """Write back what the page cache holds of the folder's files, so that one turn does not pay for another."""
    for path in folder.iterdir():
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def warm(path):
    """Have the page cache hold an image."""
    with open(path, "rb", buffering=0) as image:
        while image.read(4 * MIB):
            pass
