# SPDX-License-Identifier: BSD-3-Clause
"""The file of a log that does not exist yet: creating it, and finding out beforehand whether that can succeed."""

import ctypes
import errno
import os
import pwd

from wbcache_core.device.file_device import sync_folder, system_path
from wbcache_core.errors import DeviceError

_AT_FDCWD, _AT_EACCESS = -100, 0x200
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)

# os.access() does not say why.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.faccessat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)


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
