# SPDX-License-Identifier: BSD-3-Clause
"""How much memory this process may use: that of the machine, or less in a container or service with a limit."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    byte_count: int
    whose: str
    """For messages."""


def available(root: str = "/") -> Memory:
    """The smallest limit of this process's control groups (version 1 or 2), otherwise the machine's memory.

    A limit that cannot be read counts as none. `root` contains proc and sys.
    """
    machine = Memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine")
    limits = [Memory(limit, "this control group (container or service)") for limit in _limits(Path(root))]
    return min([machine, *limits], key=lambda memory: memory.byte_count)


def _limits(root: Path) -> list[int]:
    mounts = root / "sys/fs/cgroup"
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                # If both versions are in use, the second has a folder of its own.
                found += _of_group(mounts, group, "memory.max") + _of_group(mounts / "unified", group, "memory.max")
            elif "memory" in controllers.split(","):
                found += _of_group(mounts / controllers, group, "memory.limit_in_bytes")
                found += _of_group(mounts / "memory", group, "memory.limit_in_bytes")
    return found


def _of_group(mount: Path, group: str, name: str) -> list[int]:
    """The limits of a group and of those above it. In a container only part of its path may be there."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    found: list[int] = []
    for depth in range(len(parts) + 1):
        with contextlib.suppress(OSError, ValueError):
            # Without a limit it is "max", or a number beyond all memory.
            found.append(int(mount.joinpath(*parts[:depth], name).read_text()))
    return found
