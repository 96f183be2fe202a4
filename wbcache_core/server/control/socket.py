# SPDX-License-Identifier: BSD-3-Clause
"""The Unix socket of `control=`: created for its owner only, taken over from a killed server, removed at exit."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator

from wbcache_core.device.file_device import system_path
from wbcache_core.device.image_claim import NO_LOCKS
from wbcache_core.errors import ControlError

LONGEST_PATH = 107
"""Bytes that the kernel allows for the path of a Unix socket."""
_BACKLOG = 32
_LOCK_SECONDS = 5.0


class ControlSocket:
    """A listening socket. It has its name until close()."""

    def __init__(self, path: str) -> None:
        """Raises ControlError."""
        self._path = path
        name = system_path(path)
        if len(name) > LONGEST_PATH:
            raise ControlError(
                f"control={path}: the path has {len(name)} bytes and that of a Unix socket at most {LONGEST_PATH}; "
                "choose a shorter one"
            )
        try:
            # Two servers that start at once must not mistake each other's new socket for a stale one.
            with _locked_folder(os.path.dirname(name)):
                self._remove_stale(name)
                self.listener = _listening(name)
                self._identity = _identity(name)
        except OSError as error:
            raise ControlError(f"cannot make control socket '{path}': {error.strerror}; check the folder") from None

    def _remove_stale(self, name: bytes) -> None:
        """Remove a socket that a killed server left. Raises ControlError for anything else, OSError."""
        try:
            mode = os.lstat(name).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ControlError(f"control={self._path}: there is something that is not a socket; choose another name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            found = probe.connect_ex(name)
        if found in (0, errno.EAGAIN):
            raise ControlError(f"control={self._path}: another server listens there; choose another name")
        if found != errno.ECONNREFUSED:
            raise OSError(found, os.strerror(found))
        os.unlink(name)

    def close(self) -> None:
        """Stop listening, and remove the socket unless somebody else has put another one there. Idempotent."""
        name = system_path(self._path)
        with contextlib.suppress(OSError):
            if self.listener.fileno() >= 0 and _identity(name) == self._identity:
                os.unlink(name)
        self.listener.close()


@contextlib.contextmanager
def _locked_folder(folder: bytes) -> Iterator[None]:
    """Hold the lock of a folder, if it supports locks; that leaves no file behind. Raises OSError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # Creating a socket in a folder does not require the right to read it.
        yield
        return
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
        yield
    finally:
        os.close(fd)


def _listening(name: bytes) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # The file gets the mode of the socket, less the umask: it is never wider than this.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(name)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _identity(name: bytes) -> tuple[int, int]:
    found = os.lstat(name)
    return found.st_dev, found.st_ino
