# SPDX-License-Identifier: BSD-3-Clause
"""A file that a command makes: new, and under its name only when it is complete."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wbcache_core.errors import ConfigError, DeviceError


def refuse_existing(target: str) -> None:
    """Raises ConfigError when there is something of that name."""
    if os.path.lexists(target):
        raise ConfigError(f"'{target}' exists already; name a file that does not")


@contextmanager
def new_file(target: str, what: str) -> Iterator[int]:
    """An empty file to be filled, as a descriptor. At the end it is made durable, and only then is it `target`.

    After an error it is gone. `what` is what messages call it. Raises DeviceError, also for an OSError of the caller's.
    """
    partial = f"{target}.partial"
    try:
        # What a killed run left under this name is written anew.
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _error(what, partial, error) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        yield fd
        os.fsync(fd)
        # Unlike a rename it overwrites nothing that has come there meanwhile.
        os.link(partial, target)
        os.unlink(partial)
        _sync_folder(target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise _error(what, partial, error) from None
        raise
    finally:
        os.close(fd)


def write_all(fd: int, view: memoryview, offset: int) -> None:
    """Write a view at a byte offset. Raises OSError."""
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _error(what: str, path: str, error: OSError) -> DeviceError:
    return DeviceError(f"cannot write {what} '{path}': {error.strerror}", error.errno or 0)


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
