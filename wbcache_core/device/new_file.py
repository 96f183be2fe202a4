# SPDX-License-Identifier: BSD-3-Clause
"""A new file made by a command, which gets its name only when it is complete."""

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wbcache_core.device.file_device import sync_folder
from wbcache_core.device.image_claim import NO_LOCKS
from wbcache_core.errors import ConfigError, DeviceError

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_ATTEMPTS = 3

_libc = ctypes.CDLL(None, use_errno=True)


def refuse_existing(target: str) -> None:
    """Raises ConfigError when there is something of that name."""
    if os.path.lexists(target):
        raise ConfigError(f"'{target}' exists already; name a file that does not")


@contextmanager
def new_file(target: str, what: str, size: int = 0) -> Iterator[int]:
    """An empty file, or a sparse one of that size, to be filled, as a descriptor. At the end it is made durable, and
    only then gets the name `target`.

    After an error it is gone, unless it is complete and cannot get its name: the message says where it is then. `what`
    is its name in messages. Raises ConfigError, DeviceError, also for an OSError in the caller.
    """
    partial = f"{target}.partial"
    try:
        fd = _create(partial)
    except OSError as error:
        raise _error(what, partial, error) from None
    try:
        try:
            os.truncate(fd, size)
            yield fd
            os.fsync(fd)
        except BaseException as error:
            _remove(partial, fd)
            if isinstance(error, OSError):
                raise _error(what, partial, error) from None
            raise
        try:
            _give_name(partial, target)
        except OSError as error:
            raise DeviceError(
                f"the {what} is complete, but cannot be renamed to '{target}': {error.strerror}; it is '{partial}', "
                "rename it",
                error.errno or errno.EIO,
            ) from None
        try:
            sync_folder(os.path.dirname(target))
        except OSError as error:
            raise DeviceError(
                f"the {what} '{target}' is complete, but a power cut could take its name away: its folder cannot be "
                f"synced: {error.strerror}",
                error.errno or errno.EIO,
            ) from None
    finally:
        os.close(fd)


def _create(partial: str) -> int:
    """A new file of that name, locked if the file system has locks. Raises ConfigError, OSError."""
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            _remove_leftover(partial)
            continue
        try:
            with _without_locks_too():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            # Somebody mistook it for a leftover in the moment before the lock, and removed it.
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
    raise _used(partial)


def _remove_leftover(partial: str) -> None:
    """Remove what a killed run left under this name. Raises ConfigError if it may be in use, OSError.

    It is not overwritten: a run that was killed at its very end left a second name of the finished file.
    """
    try:
        # So that a pipe does not block.
        fd = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"'{partial}' is in the way and is not a file; remove it, or name another file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise ConfigError(
                    f"'{partial}' exists, and its file system has no locks: remove it, unless another run is writing it"
                ) from None
            raise _used(partial) from None
        _remove(partial, fd)
    finally:
        os.close(fd)


def _used(partial: str) -> ConfigError:
    return ConfigError(f"'{partial}' is being written by another run; wait for it, or name another file")


@contextmanager
def _without_locks_too() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _remove(path: str, fd: int) -> None:
    """Remove that name of an open file, but not somebody else's file that has taken the name. Raises OSError."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(fd)):
            os.unlink(path)


def _give_name(partial: str, target: str) -> None:
    """Unlike a rename, this overwrites nothing that has appeared there meanwhile. Raises OSError."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:
        # exFAT, CIFS and some user-space file systems have no hard links.
        _rename(partial, target)
        return
    os.unlink(partial)


def _rename(partial: str, target: str) -> None:
    rename = getattr(_libc, "renameat2", None)
    if rename is None:
        value = errno.ENOSYS
    elif not rename(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        return
    else:
        value = ctypes.get_errno()
    if value not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        raise OSError(value, os.strerror(value))
    # An empty file of ours takes the name, and the rename replaces it.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        os.rename(partial, target)
    except OSError:
        os.unlink(target)
        raise


def write_all(fd: int, view: memoryview, offset: int) -> None:
    """Write a view at a byte offset. Raises OSError."""
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _error(what: str, path: str, error: OSError) -> DeviceError:
    return DeviceError(f"cannot write {what} '{path}': {error.strerror}", error.errno or 0)
