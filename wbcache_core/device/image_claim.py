# SPDX-License-Identifier: BSD-3-Clause
"""Claims a file or block device against everybody else who could change it, and says who is in the way."""

import errno
import logging
import os
import time

from wbcache_core.device import image_users, qemu_locks
from wbcache_core.device.image_users import Identity
from wbcache_core.errors import DeviceInUseError

NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM))
"""The errors of a file system that lacks this kind of lock, or lacks it for a descriptor that cannot write (NFS)."""

WORKER = "wbcache-worker"
"""The name of the process that writes to a server's origin (worker/lifetime.py), and shares the server's locks."""

_PATIENCE_SECONDS = 1.0
"""A program that is just ending, or only has a quick look, is gone by then."""
_PAUSE_SECONDS = 0.1
LEFT_BEHIND_SECONDS = 60.0
"""How long a start waits for the end of what a killed server has left behind."""

_log = logging.getLogger("wbcache")


def claim(fd: int, what: str, path: bytes, writes: bool, beside_writers: bool) -> None:
    """Hold the locks that keep qemu away, and make sure that nobody uses the image in another way.

    `what` is its name in messages. A reader shares with other readers, and is only warned about processes that have the
    image open for writing without any kind of claim; with beside_writers, so is a writer. Raises DeviceInUseError.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        image = image_users.identity_of(fd)
        problem = _claim_of_others(fd, image, path, writes)
        writer = _process_that_writes(image) if image and not problem else ""
        if writer and not (writes and not beside_writers):
            _log.warning("%s is open for writing in %s: it may change while it is served", what, writer)
        elif writer:
            problem = f"{writer} has it open for writing; stop that one first, or serve it all the same: force=in-use"
        if not problem:
            return
        if time.monotonic() > deadline:
            raise DeviceInUseError(f"{what} is in use: {problem}")
        time.sleep(_PAUSE_SECONDS)


def _claim_of_others(fd: int, image: Identity | None, path: bytes, writes: bool) -> str:
    """Words for a lock or a loop device in the way, otherwise nothing."""
    try:
        permission = qemu_locks.claim(fd, writes)
        if permission:
            qemu_locks.release(fd)
            return f'{_who(image)} holds its "{permission}" lock; stop that one first'
    except OSError as error:
        if error.errno not in (*NO_LOCKS, errno.EACCES, errno.EAGAIN):
            raise
    if image:
        for loop in image_users.loop_devices(image, path, os.fstat(fd).st_nlink == 1):
            if writes or loop.writes:
                return f"it is attached to {loop.path}; detach that (losetup -d {loop.path}), or name it instead"
    return ""


def _who(image: Identity | None) -> str:
    found = image_users.processes(image) if image else []
    names = ", ".join(map(str, found[:3]))
    return names or "a program of another user, container or host"


def _process_that_writes(image: Identity) -> str:
    return ", ".join(str(process) for process in image_users.processes(image)[:3] if process.writes)


def is_worth_waiting(image: Identity | None, since: float) -> bool:
    """Whether to try again to take an image that others hold, first tried at `since`; pauses before it returns True.

    What a killed server has left behind ends as soon as its last requests to the disk have. So that gets more time.
    """
    waited = time.monotonic() - since
    if waited > _PATIENCE_SECONDS and not (waited < LEFT_BEHIND_SECONDS and _is_left_behind(image)):
        return False
    time.sleep(_PAUSE_SECONDS)
    return True


def _is_left_behind(image: Identity | None) -> bool:
    """Whether only workers of servers that are gone have it open, as far as this process can see."""
    found = image_users.processes(image) if image else []
    return bool(found) and all(process.command == WORKER for process in found)


def describe_holders(device_number: int) -> str:
    """In parentheses, who has claimed the block device with that number; empty if that cannot be seen."""
    image = image_users.identity_of_device(device_number)
    found = image_users.holders(image) + [str(process) for process in image_users.processes(image)]
    return f" ({', '.join(found[:4])})" if found else ""
