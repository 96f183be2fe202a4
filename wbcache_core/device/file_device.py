# SPDX-License-Identifier: BSD-3-Clause
"""Files and block devices: the one place that reads and writes their content."""

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wbcache_core.device.bulk_writes import NOT_TAKEN, KernelAio
from wbcache_core.device.device import Extent, Write, aligned_buffer
from wbcache_core.device.image_claim import NO_LOCKS, claim, describe_holders, is_worth_waiting
from wbcache_core.device.image_users import identity_of, identity_of_device
from wbcache_core.device.optional_requests import BULK, MAP, TRIM, ZERO, OptionalRequests
from wbcache_core.errors import ConfigError, DeviceError, DeviceInUseError
from wbcache_core.units import MIB, PAGE_BYTES

_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024)
_BULK_DEPTH = 128
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_BLKROGET = 0x125E
_NO_FOLDER_SYNC = NO_LOCKS | {errno.EACCES, errno.EISDIR, errno.EROFS}
"""The errors of file systems that cannot sync folders (CIFS, 9p), and for users who may write to one but not read
it."""

_SYSFS = "/sys/dev/block"
_DISCARD_LIMITS = ("discard_max_bytes", "write_zeroes_max_bytes")
"""Both must be nonzero: blocks that a device merely discards may read as anything afterwards.

Documentation/ABI/stable/sysfs-block of Linux. A limit of 0 means that the device cannot do it.
"""

_log = logging.getLogger("wbcache")

# Python's os module has only posix_fallocate, which cannot punch or zero. A CDLL call releases the GIL.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def system_path(path: str) -> bytes:
    """The bytes of a path for the kernel: nbdkit passes paths as UTF-8, and Python would refuse to encode them in the C
    locale that services start in."""
    return path.encode("utf-8", "surrogateescape")


_ZEROS = aligned_buffer(MIB).toreadonly()


def _is_read_only(fd: int) -> bool:
    """Whether a block device says that it is read-only; Linux opens it for writing anyway."""
    with contextlib.suppress(OSError):
        return fcntl.ioctl(fd, _BLKROGET, bytes(4)) != bytes(4)
    return False


def can_discard(device_number: int) -> bool:
    """Whether the block device with that number can deallocate blocks so that they read as zeros from then on.

    Also True if that is not known.
    """
    try:
        return _has_discard_limits(device_number)
    except OSError:
        return True


def _has_discard_limits(device_number: int) -> bool:
    """Raises OSError if sysfs cannot be read."""
    folder = Path(_SYSFS, f"{os.major(device_number)}:{os.minor(device_number)}").resolve()
    # A partition has the limits of its disk, whose folder contains it.
    queue = next((queue for queue in (folder / "queue", folder.parent / "queue") if queue.is_dir()), None)
    return queue is None or all((queue / name).read_text().strip() != "0" for name in _DISCARD_LIMITS)


class OpenFile(NamedTuple):
    """An open FileDevice, for another process that is handed its descriptors."""

    name: str
    role: str
    fd: int
    direct_fd: int
    """-1 if there is none."""
    is_direct: bool
    size: int
    writable: bool
    can_trim: bool
    is_block_device: bool

    @property
    def descriptors(self) -> list[int]:
        """To be handed over."""
        return [fd for fd in (self.fd, self.direct_fd) if fd >= 0]

    def with_descriptors(self, numbers: Iterator[int]) -> "OpenFile":
        """The same under the numbers that the descriptors have in the other process, which are taken from the front."""
        fd = next(numbers)
        return self._replace(fd=fd, direct_fd=next(numbers) if self.direct_fd >= 0 else -1)


class FileDevice:
    """A regular file or a block device, claimed against other writers for as long as it is open.

    With direct=True writes and uncached reads use O_DIRECT if the file system
    allows it; `is_direct` tells. Falls back to read-only if the file may be
    read but not written, as nbdkit's file plugin does; with read_only=True it
    is opened that way from the start. With beside_writers=True others may have
    it open for writing, as long as they hold no claim on it.
    """

    def __init__(
        self, path: str, role: str, direct: bool = False, read_only: bool = False, beside_writers: bool = False
    ) -> None:
        """Raises ConfigError (not a file or block device), DeviceError, DeviceInUseError."""
        self.name = path
        self.role = role
        self._check_kind(path)
        self._use(*self._open(path, read_only))
        try:
            self._lock()
            claim(self._fd, f"{role} '{path}'", system_path(path), self.writable, beside_writers)
            self.size = self._measure()
            self.can_trim = not self._is_block_device or can_discard(os.fstat(self._fd).st_rdev)
            if direct:
                self._open_direct(path)
        except BaseException:
            self.close()
            raise

    def _use(self, fd: int, writable: bool, direct_fd: int = -1) -> None:
        self._fd, self.writable, self._direct_fd = fd, writable, direct_fd
        self._io_fd = fd
        """_direct_fd, if it works for more than reads of one page. Any thread may reset it to _fd, none sets it
        back."""
        self._optional = OptionalRequests()
        self._aio: KernelAio | None = None  # of the thread that uses write_bulk()
        self.is_locked = False
        """Whether no other server or tool can open it while a process has these descriptors."""

    @classmethod
    def from_open(cls, file: OpenFile) -> "FileDevice":
        """The same file in another process, which has been given its descriptors, and with them its locks."""
        device = cls.__new__(cls)
        device.name, device.role, device.size = file.name, file.role, file.size
        device.can_trim, device._is_block_device = file.can_trim, file.is_block_device
        device._use(file.fd, file.writable, file.direct_fd)
        if file.is_direct:
            device._io_fd = file.direct_fd
        return device

    def open_file(self) -> OpenFile:
        """For from_open(). Whoever has it shares the locks: they are held until both have closed the file."""
        return OpenFile(
            self.name, self.role, self._fd, self._direct_fd, self.is_direct, self.size, self.writable, self.can_trim,
            self._is_block_device,
        )  # fmt: skip

    @property
    def is_direct(self) -> bool:
        return self._io_fd != self._fd

    @property
    def is_block_device(self) -> bool:
        """Whether it is not a file of a file system."""
        return self._is_block_device

    def fileno(self) -> int:
        """The descriptor, for questions to the system about the file or device."""
        return self._fd

    def _check_kind(self, path: str) -> None:
        try:
            mode = os.stat(system_path(path)).st_mode
        except OSError as error:
            raise DeviceError(
                f"cannot open {self.role} '{path}': {error.strerror}; check the path", error.errno or errno.EIO
            ) from None
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a block device"
            raise ConfigError(f"{self.role} '{path}' is {kind}; name a block device or an image file")
        self._is_block_device = stat.S_ISBLK(mode)

    def _open(self, path: str, read_only: bool) -> tuple[int, bool]:
        """A file descriptor, and whether it is open for writing."""
        fd = None if read_only else self._open_for_writing(path)
        if fd is not None:
            return fd, True
        try:
            return os.open(system_path(path), os.O_RDONLY | os.O_CLOEXEC), False
        except OSError as error:
            raise self._error("open", error) from None

    def _open_for_writing(self, path: str) -> int | None:
        """None for a file or device that may only be read."""
        # With O_EXCL and without O_CREAT the kernel refuses a block device that is mounted or part of another one.
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if self._is_block_device else 0)
        since = time.monotonic()
        while True:
            try:
                fd = os.open(system_path(path), flags)
                break
            except OSError as error:
                if error.errno == errno.EBUSY:
                    number = os.stat(system_path(path)).st_rdev
                    if is_worth_waiting(identity_of_device(number), since):
                        continue
                    raise DeviceInUseError(
                        f"{self.role} '{path}' is in use: unmount it or stop what holds it{describe_holders(number)}"
                    ) from None
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise self._error("open", error) from None
                return None
        if not (self._is_block_device and _is_read_only(fd)):
            return fd
        os.close(fd)
        return None

    def _lock(self) -> None:
        """Take the lock between our servers and tools, if the file system has locks."""
        since = time.monotonic()
        while not self._try_lock():
            if not is_worth_waiting(identity_of(self._fd), since):
                raise DeviceInUseError(
                    f"{self.role} '{self.name}' is in use by another wbcache server or tool; stop that one first"
                )

    def _try_lock(self) -> bool:
        """False if somebody else has it."""
        # flock, because POSIX locks are dropped when nbdkit forks into the background.
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
                self.is_locked = True
                return True
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                    return False
                if error.errno not in NO_LOCKS:
                    raise self._error("lock", error) from None
                # If flock is implemented as a POSIX lock (NFS), a descriptor that cannot write can only share.
        if self.writable:
            _log.warning(
                "%s '%s': its file system has no locks: nothing prevents a second server from using it",
                self.role, self.name,
            )  # fmt: skip
        return True

    def _measure(self) -> int:
        """The size. Raises DeviceError: some files below /proc and /sys have none."""
        try:
            return os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise self._error("find the size of", error) from None

    def _open_direct(self, path: str) -> None:
        access = os.O_RDWR if self.writable else os.O_RDONLY
        try:
            fd = os.open(system_path(path), access | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.preadv(fd, [aligned_buffer(PAGE_BYTES)], 0)
        except OSError:
            os.close(fd)
            return
        self._direct_fd = self._io_fd = fd

    def _leave_direct(self, fd: int, verb: str, error: OSError) -> None:
        """Stop using O_DIRECT if that is what was rejected. Raises DeviceError for other errors."""
        if error.errno != errno.EINVAL or fd != self._direct_fd:
            raise self._error(verb, error) from None
        if self._io_fd != self._fd:
            self._io_fd = self._fd
            _log.warning("%s '%s' rejects direct I/O: the page cache is used from now on", self.role, self.name)

    def _error(self, verb: str, error: OSError) -> DeviceError:
        value = error.errno or errno.EIO
        return DeviceError(f"cannot {verb} {self.role} '{self.name}': {os.strerror(value)}", value)

    def read_into(self, view: memoryview, offset: int) -> None:
        self._read(self._fd, view, offset)

    def read_uncached_into(self, view: memoryview, offset: int) -> None:
        self._read(self._io_fd, view, offset)

    def _read(self, fd: int, view: memoryview, offset: int) -> None:
        done, length = 0, len(view)
        while done < length:
            try:
                count = os.preadv(fd, (view[done:] if done else view,), offset + done)
            except OSError as error:
                self._leave_direct(fd, "read", error)
                self._read(self._fd, view[done:], offset + done)
                return
            if count == 0:
                raise DeviceError(f"{self.role} '{self.name}' ends at byte {offset + done}: it has been truncated")
            done += count

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        fd = self._io_fd
        for start in range(0, len(views), _IOV_MAX):
            batch = views[start : start + _IOV_MAX]
            length = sum(map(len, batch))
            try:
                count = os.pwritev(fd, batch, offset)
                if count < length:
                    self._write_rest(fd, batch, offset, count)
            except OSError as error:
                self._leave_direct(fd, "write to", error)
                self.write(views[start:], offset)
                return
            offset += length

    def _write_rest(self, fd: int, views: Sequence[memoryview], offset: int, done: int) -> None:
        """Finish a write that the kernel cut short after done bytes. Raises OSError."""
        position = 0
        for view in views:
            view = view.cast("B")
            skip = min(max(done - position, 0), len(view))
            while skip < len(view):
                count = os.pwrite(fd, view[skip:], offset + position + skip)
                if count == 0:
                    raise OSError(errno.ENOSPC, "no progress")
                skip += count
            position += len(view)

    @property
    def bulk_depth(self) -> int:
        """See BulkDevice."""
        return _BULK_DEPTH if self._optional.is_wanted(BULK) else 0

    def write_bulk(self, writes: Sequence[Write]) -> list[tuple[Write, DeviceError]]:
        """See BulkDevice. For one thread at a time."""
        failed: list[tuple[Write, DeviceError]] = []
        refused = 0
        for write, done in zip(writes, self._write_at_once(writes), strict=True):
            offset, views = write
            if done == sum(map(len, views)):
                continue
            try:
                self.write(views, offset)
                refused = min(refused, done)
            except DeviceError as error:
                failed.append((write, error))
        if refused:
            self._optional.note_refusal(BULK, self._error("write in bulk to", OSError(-refused, "")))
        elif not failed:
            self._optional.note_success(BULK)
        return failed

    def _write_at_once(self, writes: Sequence[Write]) -> list[int]:
        """What KernelAio.write() returns."""
        if not self._optional.is_wanted(BULK):
            return [NOT_TAKEN] * len(writes)
        try:
            if self._aio is None:
                # Not before the server has forked into the background: the queue belongs to a process.
                self._aio = KernelAio(_BULK_DEPTH)
            return self._aio.write(self._io_fd, writes)
        except OSError:
            self._aio = None
            return [NOT_TAKEN] * len(writes)

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._error("sync", error) from None

    def zero(self, offset: int, length: int, may_trim: bool) -> None:
        optional, fallocate = self._optional, self._fallocate

        def write() -> None:
            for start in range(0, length, len(_ZEROS)):
                self.write([_ZEROS[: length - start]], offset + start)

        def zero() -> None:
            optional.attempt(ZERO, lambda: fallocate(_ZERO_RANGE | _KEEP_SIZE, offset, length), write)

        if may_trim:
            optional.attempt(TRIM, lambda: fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length), zero)
        else:
            zero()

    def _fallocate(self, mode: int, offset: int, length: int) -> None:
        while _libc.fallocate(self._fd, mode, offset, length) != 0:
            value = ctypes.get_errno()
            if value != errno.EINTR:
                verb = "deallocate blocks of" if mode & _PUNCH_HOLE else "zero"
                raise self._error(verb, OSError(value, os.strerror(value)))

    def extents(self, offset: int, length: int, most: int | None = None) -> list[Extent]:
        found = [(offset, length, False, False)]
        if self._is_block_device:
            return found

        def look() -> None:
            found[:] = self._data_and_holes(offset, offset + length, most)

        self._optional.attempt(MAP, look, lambda: None)
        return found

    def _data_and_holes(self, offset: int, end: int, most: int | None) -> list[Extent]:
        found: list[Extent] = []
        while offset < end and (most is None or len(found) < most):
            data = min(self._seek(offset, os.SEEK_DATA, end), end)
            if data > offset:
                found.append((offset, data - offset, True, True))
            offset = data
            if offset < end:
                hole = min(self._seek(offset, os.SEEK_HOLE, end), end)
                # If the destager has punched a hole here meanwhile, the next round finds it.
                if hole > offset:
                    found.append((offset, hole - offset, False, False))
                offset = hole
        return found

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            raise self._error("map", error) from None

    def prefetch(self, offset: int, length: int) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def grow(self, length: int) -> None:
        try:
            os.ftruncate(self._fd, length)
        except OSError as error:
            raise self._error("grow", error) from None
        self.size = length
        if self._direct_fd < 0:
            self._open_direct(self.name)

    @property
    def settles_at(self) -> float:
        return 0.0

    def suspect_requests(self, ended_at: float) -> None:
        """There are none: a process keeps its lock, even when killed, until its requests have ended."""

    def interrupt(self) -> None:
        """The kernel's calls cannot be cut short."""

    def is_file(self, path: str) -> bool:
        """Whether path is this file or this block device, under whatever name; also False if it does not exist."""
        mine = os.fstat(self._fd)
        try:
            other = os.stat(system_path(path))
        except OSError:
            return False
        if self._is_block_device:
            return stat.S_ISBLK(other.st_mode) and mine.st_rdev == other.st_rdev
        return os.path.samestat(mine, other)

    def close(self) -> None:
        aio, self._aio = self._aio, None
        if aio:
            with contextlib.suppress(OSError):
                aio.close()
        for fd in (self._fd, self._direct_fd):
            if fd >= 0:
                # Network and FUSE file systems report late errors here; everything that matters was synced before.
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fd = self._direct_fd = self._io_fd = -1


def sync_folder(folder: str | bytes) -> None:
    """Make new names in a folder durable, if there is a way. Raises OSError if that was tried and failed."""
    fd = -1
    try:
        fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        if fd >= 0:
            os.close(fd)
