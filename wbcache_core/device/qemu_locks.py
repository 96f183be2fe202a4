# SPDX-License-Identifier: BSD-3-Clause
"""The locks by which qemu's programs keep out of each other's images, taken and honoured in the same way.

Byte 100 + n of the file is locked, shared, by everybody who needs permission n, and byte 200 + n by everybody who
cannot share it with others. Whoever finds a lock of the opposite kind must not use the image (qemu's
block/file-posix.c, raw_check_lock_bytes). The locks are those of an open file description (fcntl(2), F_OFD_SETLK): a
fork into the background keeps them, and closing another descriptor of the same file does not release them.
"""

import fcntl
import os
import struct

_NEEDED_FROM, _NOT_SHARED_FROM = 100, 200
_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE = range(4)
_NAMES = ("consistent read", "write", "write unchanged", "resize")
"""qemu's names of the permissions, as in its messages."""
_FLOCK = struct.Struct("@hhqqi0q")
"""struct flock: type, whence, start, length, pid."""


def claim(fd: int, writes: bool) -> str | None:
    """Take the locks of a reader or a writer for as long as fd is open.

    Whoever holds a writer's locks shares only with readers that accept writers, as a virtual machine does. Returns the
    permission that somebody else's locks deny, or None; the locks are held either way. Raises OSError if the file
    system has no such locks.
    """
    needed = (_READ, _WRITE) if writes else (_READ,)
    not_shared = (_WRITE, _WRITE_UNCHANGED, _RESIZE) if writes else (_WRITE, _RESIZE)
    for start, numbers in ((_NEEDED_FROM, needed), (_NOT_SHARED_FROM, not_shared)):
        for number in numbers:
            _ask(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, start + number)
    # Take first, then look: of two that arrive at once, at least one sees the other.
    for start, numbers in ((_NOT_SHARED_FROM, needed), (_NEEDED_FROM, not_shared)):
        for number in numbers:
            if _ask(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, start + number) != fcntl.F_UNLCK:
                return _NAMES[number]
    return None


def release(fd: int) -> None:
    """Release all of them, so that others get a chance before the next attempt. Raises OSError."""
    for start in (_NEEDED_FROM, _NOT_SHARED_FROM):
        _ask(fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start, len(_NAMES))


def _ask(fd: int, command: int, kind: int, start: int, length: int = 1) -> int:
    """The kernel's answer: the kind of lock. Raises OSError."""
    answer = fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    found: int = _FLOCK.unpack(answer)[0]
    return found
