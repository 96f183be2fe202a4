# SPDX-License-Identifier: BSD-3-Clause
"""Who else uses a file or block device: processes that have it open, loop devices, mounts, and what is stacked on it.

Nothing here waits for a disk or a server: a file system in user space may be waiting for the very cache that is about
to start. What is not visible (other users' processes, other containers) is not found.
"""

import contextlib
import ctypes
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LONGEST_SEARCH_SECONDS = 1.0
_AT_FDCWD, _AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = -100, 0x1000, 0x4000
_STATX_TYPE_AND_INODE = 0x101
_STATX = struct.Struct("=28xH2xQ88xIIII112x")
"""struct statx: mode, inode, and the numbers of the device that it is and of that which it is on."""
_O_PATH = 0o10000000

_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """Identical for all names and descriptors of one file, or of one block device."""

    is_block_device: bool
    major: int
    minor: int
    inode: int


class Process(NamedTuple):
    pid: int
    command: str
    writes: bool
    """Whether it has it open for writing."""

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"


class LoopDevice(NamedTuple):
    path: str
    writes: bool


def identity_of(fd: int) -> Identity | None:
    """None if the system cannot tell."""
    return _statx(fd, b"", _AT_EMPTY_PATH)


def identity_of_device(number: int) -> Identity:
    """Of the block device with that number."""
    return Identity(True, os.major(number), os.minor(number), 0)


def _identity_at(path: bytes) -> Identity | None:
    return _statx(_AT_FDCWD, path, 0)


def _statx(fd: int, path: bytes, flags: int) -> Identity | None:
    """statx(2) for what Python's stat() cannot say: do not ask the server of a network or user-space file system."""
    found = ctypes.create_string_buffer(_STATX.size)
    call = getattr(_libc, "statx", None)
    if call is None or call(fd, path, flags | _AT_STATX_DONT_SYNC, _STATX_TYPE_AND_INODE, found):
        return None
    mode, inode, major, minor, on_major, on_minor = _STATX.unpack(found.raw)
    if stat.S_ISBLK(mode):
        return Identity(True, major, minor, 0)
    return Identity(False, on_major, on_minor, inode)


def processes(image: Identity) -> list[Process]:
    """Other processes that have it open, writers first. Raises nothing; gives up after a second."""
    deadline = time.monotonic() + _LONGEST_SEARCH_SECONDS
    found: list[Process] = []
    for name in _names_in("/proc"):
        if time.monotonic() > deadline:
            break
        if name.isdigit() and int(name) != os.getpid():
            # Processes end while this looks at them, and most of those of other users cannot be examined.
            with contextlib.suppress(OSError, ValueError):
                modes = list(_modes(f"/proc/{name}", image))
                if modes:
                    found.append(Process(int(name), _command(name), any(modes)))
    return sorted(found, key=lambda process: (not process.writes, process.pid))


def _names_in(folder: str) -> list[str]:
    """Nothing if it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _modes(folder: str, image: Identity) -> Iterator[bool]:
    """For each descriptor of the image in a process, whether it is open for writing. Raises OSError, ValueError."""
    for number in os.listdir(f"{folder}/fd"):
        if _identity_at(os.fsencode(f"{folder}/fd/{number}")) == image:
            fields = Path(f"{folder}/fdinfo/{number}").read_text().split()
            flags = int(fields[fields.index("flags:") + 1], 8)
            if not flags & _O_PATH:
                yield flags & os.O_ACCMODE != os.O_RDONLY


def _command(pid: str) -> str:
    """Its name, in characters that are fit for a message. Raises OSError."""
    name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return "".join(character if character.isprintable() else "?" for character in name)


def loop_devices(image: Identity, path: bytes, has_one_name: bool, sysfs: str = "/sys/block") -> list[LoopDevice]:
    """Loop devices whose backing file it is. `path` is a name of it, and the only one if has_one_name."""
    name = os.path.basename(os.path.realpath(path))
    found: list[LoopDevice] = []
    for folder in sorted(Path(sysfs).glob("loop*")):
        # Loop devices go away while this looks at them.
        with contextlib.suppress(OSError):
            backing = (folder / "loop" / "backing_file").read_bytes().rstrip(b"\n")
            # If the name already tells, no other file system is asked: it could be waiting for this very cache.
            differs = has_one_name and os.path.basename(backing) != name
            if not (differs and not image.is_block_device) and _identity_at(backing) == image:
                is_read_only = (folder / "ro").read_text().strip() == "1"
                found.append(LoopDevice(f"/dev/{folder.name}", not is_read_only))
    return found


def holders(image: Identity) -> list[str]:
    """Words for what has claimed a block device or a partition of it: mounts, swap, devices stacked on it."""
    folder = Path(f"/sys/dev/block/{image.major}:{image.minor}").resolve()
    found: list[str] = []
    numbers = [f"{image.major}:{image.minor}"]
    for part in (folder, *sorted(folder.glob(f"{folder.name}*"))):
        with contextlib.suppress(OSError):
            numbers.append((part / "dev").read_text().strip())
            found += [f"/dev/{name} is built on it" for name in sorted(os.listdir(part / "holders"))]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields = line.split()
            source = fields[fields.index("-") + 2]
            if fields[2] in numbers or _number(source) in numbers:
                found.append(f"mounted on {fields[4]}")
    with contextlib.suppress(OSError):
        for line in Path("/proc/swaps").read_text(errors="replace").splitlines()[1:]:
            if _number(line.split()[0]) in numbers:
                found.append("used for swapping")
    return list(dict.fromkeys(found))


def _number(path: str) -> str:
    """MAJOR:MINOR of a block device by its path, empty for other paths."""
    identity = _identity_at(os.fsencode(path)) if path.startswith("/dev/") else None
    return f"{identity.major}:{identity.minor}" if identity and identity.is_block_device else ""
