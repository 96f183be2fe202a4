# SPDX-License-Identifier: BSD-3-Clause
"""How much memory this process may use, and how much of that nobody uses now: that of the machine, or less in a
container or service with a limit."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    byte_count: int
    whose: str
    """For messages."""


class _Version(NamedTuple):
    """What the files of a version of control groups are called."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: str
    """In memory.stat: page cache that was not used lately. The kernel takes it back before anything else."""


_FIRST = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Version(("memory.max", "memory.high"), "memory.current", "inactive_file")
"""Above memory.high nobody is killed, but all are slowed."""


def available(root: str = "/") -> Memory:
    """The smallest limit of this process's control groups (version 1 or 2), otherwise the machine's memory.

    A limit that cannot be read counts as none. `root` contains proc and sys.
    """
    machine = Memory(_machine(), "this machine")
    limits = [
        Memory(limit, "this control group (container or service)")
        for version, folder in _groups(Path(root))
        for limit in _numbers(folder / version.limits[0])
    ]
    return min([machine, *limits], key=lambda memory: memory.byte_count)


def unused(root: str = "/") -> int:
    """Bytes that this process could take now without making anybody give up more than page cache.

    That is the machine's MemAvailable, or less if a control group of this process has less left. What cannot be read
    limits nothing; without MemAvailable the machine counts as empty.
    """
    machine = _machine()
    found = [machine, *_of_stat(Path(root, "proc/meminfo"), "MemAvailable:", 1024)]
    for version, folder in _groups(Path(root)):
        limits = [limit for name in version.limits for limit in _numbers(folder / name) if limit < machine]
        for used in _numbers(folder / version.usage) if limits else ():
            reclaimable = sum(_of_stat(folder / "memory.stat", version.reclaimable))
            found.append(max(min(limits) - used + reclaimable, 0))
    return min(found)


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(root: Path) -> Iterator[tuple[_Version, Path]]:
    """The folders of this process's groups and of those above them, as far as they may exist."""
    mounts = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                # If both versions are in use, the second has a folder of its own.
                found = [(_SECOND, mounts), (_SECOND, mounts / "unified")]
            elif "memory" in controllers.split(","):
                found = [(_FIRST, mounts / controllers), (_FIRST, mounts / "memory")]
            else:
                continue
            for version, mount in dict.fromkeys(found):
                for folder in _upwards(mount, group):
                    yield version, folder


def _upwards(mount: Path, group: str) -> list[Path]:
    """The folders of a group and of those above it. In a container only part of its path may be there."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _numbers(path: Path) -> list[int]:
    """The number in a file. Without a limit it is "max", or a number beyond all memory."""
    with contextlib.suppress(OSError, ValueError):
        return [int(path.read_text())]
    return []


def _of_stat(path: Path, name: str, unit: int = 1) -> list[int]:
    """The number after a name in a file with one name a line."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return [int(words[1]) * unit for line in path.read_text().splitlines() if (words := line.split())[0] == name]
    return []
