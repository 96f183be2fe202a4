# SPDX-License-Identifier: BSD-3-Clause
"""Asks the system what tells an origin from its twin. Reads only, and never fails: what cannot be found is unknown.

Files: inode, time of creation and file system, if the file system keeps its
inode numbers. Block devices: what sysfs says about the disk, and the udev
database about the partition; a loop device counts as the file behind it. Device
numbers and names do not count: both change at a reboot.
"""

import contextlib
import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from wbcache_core.device.file_device import system_path
from wbcache_core.device.name import is_uri
from wbcache_core.format.origin_facts import BLOCK, FILE, NBD, NO_FACTS, OriginFacts, shortened
from wbcache_core.units import SECTOR_BYTES

_SYSFS, _UDEV = Path("/sys"), Path("/run/udev/data")

# Only on these does a file keep its inode number permanently. On vfat, exFAT, CIFS and most FUSE file systems it
# changes when the file system is mounted again, on overlayfs when the file is first written to.
_STABLE_INODES = frozenset(
    "ext2 ext3 ext4 xfs btrfs f2fs bcachefs zfs tmpfs nilfs2 jfs reiserfs ocfs2 gfs2 nfs nfs4".split()
)
# A server may report any time for these.
_NO_BIRTH_TIMES = frozenset(("nfs", "nfs4"))

_FS_IOC_GETFSUUID = 0x80111500
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO_BYTES = 232
_AT_EMPTY_PATH, _STATX_BTIME, _STATX_BYTES = 0x1000, 0x800, 256
_STATX_MASK_AT, _STATX_BTIME_AT = 0, 80

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Identity:
    """Which origin this is, and where its mark can be kept."""

    facts: OriginFacts = NO_FACTS
    key: str = ""
    """A name for the registry, the same whatever path leads to the origin; empty if there is none."""
    file: str = ""
    """The path of the file that the origin is, also behind a loop device; empty if it is not a file."""


def identify(name: str, fd: int | None) -> Identity:
    """The origin with this path or URI; fd is its open descriptor, None if it is not a file or block device on this
    host."""
    if is_uri(name) and fd is None:
        return Identity(OriginFacts(kind=NBD), _key("uri", name))
    if fd is None:
        return Identity()
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return _identify_device(fd, status.st_rdev)
    facts = _facts_of_file(fd)
    return Identity(facts, _key_of(facts), real_path(name))


def real_path(path: str) -> str:
    """Without links and relative parts, whatever the locale."""
    return os.path.realpath(system_path(path)).decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor for looking at a file or device, without its lock. Raises OSError."""
    fd = os.open(system_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _key(*parts: str) -> str:
    return xxh3_128_hexdigest("\0".join(parts).encode("utf-8", "surrogateescape"))


def _key_of(facts: OriginFacts) -> str:
    return _key(*map(str, facts._replace(kind=FILE))) if facts.is_told_from_twins else ""


def _facts_of_file(fd: int) -> OriginFacts:
    kind = _file_system_of(fd)
    if kind not in _STABLE_INODES:
        return OriginFacts(kind=FILE)
    return OriginFacts(
        kind=FILE,
        inode=os.fstat(fd).st_ino,
        birth_ns=0 if kind in _NO_BIRTH_TIMES else _birth_ns(fd),
        filesystem=_file_system_uuid(fd),
    )


def _file_system_of(fd: int) -> str:
    """Its type as mount(8) names it; empty if the kernel does not tell."""
    words = _words_of(Path("/proc/self/fdinfo") / str(fd))
    mount = words.get("mnt_id:", "")
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            if line.split(" ", 1)[0] == mount:
                fields = line.split()
                return fields[fields.index("-") + 1]
    return ""


def _words_of(path: Path, separator: str | None = None) -> dict[str, str]:
    """The lines of a small file, the first word of each as the key."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split(separator, 1) for line in lines)
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _birth_ns(fd: int) -> int:
    """0 if the file system does not keep it."""
    if not hasattr(_libc, "statx"):
        return 0
    result = ctypes.create_string_buffer(_STATX_BYTES)
    if _libc.statx(fd, b"", _AT_EMPTY_PATH, ctypes.c_uint(_STATX_BTIME), result) != 0:
        return 0
    (mask,) = struct.unpack_from("I", result, _STATX_MASK_AT)
    seconds, nanoseconds = struct.unpack_from("qI", result, _STATX_BTIME_AT)
    return max(seconds * 10**9 + nanoseconds, 0) if mask & _STATX_BTIME else 0


def _file_system_uuid(fd: int) -> bytes:
    """Zeros if the kernel does not tell. f_fsid of statfs(2) will not do: on some file systems that is a device
    number."""
    try:
        answer = fcntl.ioctl(fd, _FS_IOC_GETFSUUID, bytes(17))
    except OSError:
        return bytes(16)
    return answer[1:17] if answer[0] == 16 else bytes(16)


def _identify_device(fd: int, number: int) -> Identity:
    node = Path(os.path.realpath(_SYSFS / "dev" / "block" / _text_of(number)))
    is_partition = (node / "partition").exists()
    disk = node.parent if is_partition else node
    begin = _number_in(node / "start") * SECTOR_BYTES if is_partition else 0
    if (disk / "loop").is_dir():
        found = _identify_loop(fd, disk, begin)
        if found:
            return found
    facts = OriginFacts(
        kind=BLOCK,
        start=begin,
        hardware=_hardware_id(disk),
        serial=_serial_number(disk),
        partition=_partition_uuid(node, number) if is_partition else "",
    )
    return Identity(facts, _key_of(facts) or _key_until_reboot(disk, begin))


def _text_of(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number_in(path: Path) -> int:
    text = _read(path)
    return int(text) if text.isascii() and text.isdigit() else 0


def _identify_loop(fd: int, disk: Path, begin: int) -> Identity | None:
    """As the file behind it; None if that is not visible from here."""
    try:
        status = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_BYTES))
        number, inode, _, offset, limit = struct.unpack_from("QQQQQ", status)
        path = (disk / "loop" / "backing_file").read_bytes().rstrip(b"\n").decode("utf-8", "surrogateescape")
        with opened(path) as file:
            found = os.fstat(file)
            is_it = (found.st_ino, _as_the_kernel_has_it(found.st_dev)) == (inode, number)
            if not (is_it and stat.S_ISREG(found.st_mode)):
                return None
            facts = _facts_of_file(file)._replace(start=offset + begin)
    except (OSError, ValueError):
        return None
    whole = not (offset or limit or begin)
    identity = Identity(facts, _key_of(facts), real_path(path) if whole else "")
    return identity if identity.key or identity.file else replace(identity, key=_key_until_reboot(disk, begin))


def _as_the_kernel_has_it(number: int) -> int:
    """A device number in the kernel's own encoding."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def _hardware_id(disk: Path) -> str:
    mapped = _read(disk / "dm" / "uuid")
    if mapped.startswith("CRYPT-"):
        # CRYPT-LUKS2-uuid-name; the name is what the user chose this time. Without a header there is only the name.
        mapped = "-".join(mapped.split("-")[:3]) if mapped.startswith("CRYPT-LUKS") else ""
    if mapped:
        return shortened(mapped)
    return shortened(_read(disk / "wwid") or _read(disk / "device" / "wwid"))


def _serial_number(disk: Path) -> str:
    for place in ("serial", "device/serial", "device/cid"):
        if text := _read(disk / place):
            return shortened(text)
    with contextlib.suppress(OSError):
        # Page 0x80 of a SCSI disk: four bytes of header, then the number.
        return shortened((disk / "device" / "vpd_pg80").read_bytes()[4:].decode("ascii", "replace"))
    return ""


def _partition_uuid(node: Path, number: int) -> str:
    told = _words_of(node / "uevent", "=").get("PARTUUID", "")
    told = told or _words_of(_UDEV / f"b{_text_of(number)}", "=").get("E:ID_PART_ENTRY_UUID", "")
    return told.lower() if told.isascii() and len(told) <= 48 else ""


def _key_until_reboot(disk: Path, begin: int) -> str:
    """For a disk without a number of its own: the kernel counts the disks as it finds them."""
    sequence = _read(disk / "diskseq")
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))
    return _key("until reboot", boot, sequence, str(begin)) if sequence and boot else ""
