# SPDX-License-Identifier: BSD-3-Clause
"""A log by its path, whether it exists or is still to be created."""

import ctypes
import errno
import os
import pwd

from wbcache_core.device.file_device import FileDevice, sync_folder, system_path
from wbcache_core.errors import DeviceError

_AT_FDCWD, _AT_EACCESS = -100, 0x200
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)

# os.access() does not say why.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.faccessat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)


class LogFile(FileDevice):
    """While it does not exist it has no bytes and counts as writable; create() opens it."""

    def __init__(self, path: str, beside_writers: bool = False) -> None:
        """Raises ConfigError, DeviceError; also if it does not exist and its folder does not either."""
        self._beside_writers = beside_writers
        self.exists = False
        if os.path.lexists(system_path(path)):
            self._open_existing(path)
            return
        folder = os.path.dirname(path)
        if not os.path.isdir(system_path(folder)):
            raise DeviceError(f"cannot create log '{path}': there is no folder '{folder}'", errno.ENOENT)
        self.name, self.role = path, "log"
        self._set_missing()

    def create(self, length: int) -> bool:
        """Create it with so many bytes, or open what exists there by now; returns whether it is new.

        Raises ConfigError, DeviceError; then it does not exist yet.
        """
        is_new = not os.path.lexists(system_path(self.name))
        if is_new:
            create_file(self.name, length)
        try:
            self._open_existing(self.name)
        except BaseException:
            self._set_missing()
            raise
        return is_new

    def forget(self) -> None:
        """Close it and let it count as not existing."""
        self.close()
        self._set_missing()

    def _open_existing(self, path: str) -> None:
        super().__init__(path, "log", direct=True, beside_writers=self._beside_writers)
        self.exists = True

    def _set_missing(self) -> None:
        self.exists = False
        self.size, self.writable, self.can_trim = 0, True, True
        self._fd = self._direct_fd = self._io_fd = -1
        self._aio, self.is_locked = None, False


def create_file(path: str, length: int) -> None:
    """Create a sparse file that only its owner can read. Raises DeviceError, also if it exists; then leaves nothing
    behind."""
    try:
        fd = os.open(system_path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(fd, length)
            os.fsync(fd)
            sync_folder(system_path(os.path.dirname(path)))
        except OSError:
            os.unlink(system_path(path))
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise _refusal(path, error.errno or errno.EIO) from None


def check_creatable(path: str) -> None:
    """Raises the DeviceError that create_file() would raise, as far as can be told without changing anything.

    This is about the user that the process runs as now.
    """
    folder = os.path.join(system_path(os.path.dirname(path)), b".")
    if _libc.faccessat(_AT_FDCWD, folder, os.W_OK | os.X_OK, _AT_EACCESS) != 0:
        raise _refusal(path, ctypes.get_errno())


def _refusal(path: str, value: int) -> DeviceError:
    reason, advice = os.strerror(value), "check the folder, or name another place with log="
    if value in _NOT_ALLOWED:
        reason += f" for user {_user()}"
        advice = (
            "give that user the folder (chown), make an empty file for the log beforehand that this user may write, "
            "or name another place with log="
        )
    return DeviceError(f"cannot create log '{path}': {reason}; {advice}", value)


def _user() -> str:
    user = os.geteuid()
    try:
        return f"'{pwd.getpwuid(user).pw_name}'"
    except KeyError:
        return str(user)
