# SPDX-License-Identifier: BSD-3-Clause
"""Files in memory that outlive the process that made them, but not the machine: one for each volume.

Only the user of the server, and root, may open them. Whoever uses one holds
its lock.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import time
from typing import NamedTuple
from uuid import UUID

from wbcache_core.errors import DeviceError, DeviceInUseError
from wbcache_core.units import format_size

_FOLDER = "/dev/shm"
_LOCK_PATIENCE_S, _LOCK_PAUSE_S = 3.0, 0.01
"""A killed process gives its locks up one after the other: that of the log perhaps a moment earlier."""


def path_of(volume: bytes) -> str:
    """The file of a volume. The environment variable WBCACHE_SHM names another folder than /dev/shm."""
    return os.path.join(os.environ.get("WBCACHE_SHM") or _FOLDER, f"wbcache-{UUID(bytes=volume)}")


def free_bytes(path: str) -> int:
    """Room in the folder of a file."""
    try:
        facts = os.statvfs(os.path.dirname(path))
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize


class ReadableFile(NamedTuple):
    """A SharedFile that may be read, but not locked or written. Open until it is closed."""

    fd: int

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill as much of view as is there; returns the number of bytes, 0 if it cannot be read.

        Reading what has no memory takes none; a look at a mapping would.
        """
        try:
            return os.preadv(self.fd, [view], offset)
        except OSError:
            return 0

    def close(self) -> None:
        os.close(self.fd)


class SharedFile:
    """Open and locked until it is closed."""

    _fd = -1

    def __init__(self, path: str, fd: int) -> None:
        """Takes fd over, also if it raises. Raises DeviceInUseError, DeviceError."""
        self._fd = fd
        self.path = path
        try:
            self._lock()
            self._check_ours()
        except BaseException:
            self.close()
            raise

    @classmethod
    def find(cls, path: str) -> "SharedFile | None":
        """The file of that name, None if there is none. Raises DeviceInUseError, DeviceError."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _error("open", path, error) from None
        return cls(path, fd)

    @classmethod
    def create(cls, path: str, size: int, room: int | None = None) -> "SharedFile":
        """A new file of zeros. All its memory is there, or, with `room`, comes as it is used, and there is room for so
        much of it now. Raises DeviceError."""
        fd, file = -1, None
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            file = cls(path, fd)
            if room is None:
                os.posix_fallocate(fd, 0, size)
            elif room > free_bytes(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            else:
                os.ftruncate(fd, size)
            return file
        except BaseException as error:
            if fd >= 0:
                os.unlink(path)
            if file:
                file.close()
            if not isinstance(error, OSError):
                raise
            if fd >= 0 and error.errno == errno.ENOSPC:
                needed = format_size(size if room is None else room)
                raise DeviceError(f"'{os.path.dirname(path)}' has no room for {needed}", error.errno) from None
            raise _error("allocate" if fd >= 0 else "create", path, error) from None

    def open_again(self) -> "ReadableFile | None":
        """To be read by another process, which does not share the lock. None if that is not possible."""
        try:
            return ReadableFile(os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def map(self, offset: int, length: int) -> mmap.mmap:
        """Raises DeviceError."""
        try:
            return mmap.mmap(self._fd, length, mmap.MAP_SHARED, offset=offset)
        except (OSError, ValueError) as error:
            raise DeviceError(f"cannot map '{self.path}': {error}") from None

    def remove(self) -> None:
        """Remove it, if that is possible, and close it. Mappings stay as they are."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """The file stays. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Mappings have descriptors of their own, which would keep the lock.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _lock(self) -> None:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeviceInUseError(f"'{self.path}' is in use by another server") from None
            except OSError as error:
                raise _error("lock", self.path, error) from None
            time.sleep(_LOCK_PAUSE_S)

    def _check_ours(self) -> None:
        """Raises DeviceError unless nobody else can have written to it."""
        facts = os.fstat(self._fd)
        is_ours = os.geteuid() in (0, facts.st_uid)
        if not (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and is_ours and not facts.st_mode & 0o077):
            raise DeviceError(f"'{self.path}' is not a file of this user alone", errno.EPERM)


def _error(verb: str, path: str, error: OSError) -> DeviceError:
    return DeviceError(f"cannot {verb} '{path}': {error.strerror}", error.errno or errno.EIO)
