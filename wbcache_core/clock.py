# SPDX-License-Identifier: BSD-3-Clause
"""What the clocks say: the wall clock, which can be set, and how long this machine has been up, which cannot.

Time since boot continues while the machine sleeps, and stands still while a virtual machine is paused.
"""

import time
import uuid
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OFFSETS = Path("/proc/self/timens_offsets")
_NS = 10**9
_CLOSE_NS = 1_000_000
"""Both clocks count as read at one moment if no more time than this passed."""


class Reading(NamedTuple):
    """Both clocks at one moment, in ns. `boot` identifies the boot; 0 if unknown, and then boot_ns is 0 too."""

    wall_ns: int
    boot_ns: int = 0
    boot: int = 0


def elapsed_ns(earlier: Reading, later: Reading) -> int | None:
    """The time that passed between two readings, whatever the wall clock did; None if they are not of one boot.

    A virtual machine that was reset to an earlier state has the boot of that state, and less time since then.
    """
    is_one_boot = earlier.boot and earlier.boot == later.boot and earlier.boot_ns <= later.boot_ns
    return later.boot_ns - earlier.boot_ns if is_one_boot else None


def hidden_boot_id() -> str:
    """The file that tells the boot, if this process cannot read it; otherwise empty. Then no other process can know
    that it is of the same boot."""
    return "" if _name_of_boot() else str(_BOOT_ID)


def _name_of_boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except (OSError, ValueError):
        return ""


def _this_boot() -> int:
    """4 bytes that identify this boot, never 0."""
    # Each process counts as a boot of its own where that is not known.
    name = _name_of_boot() or str(uuid.uuid4())
    return xxh3_64_intdigest(name.encode()) % (2**32 - 1) + 1


def _container_offset_ns() -> int:
    """By how much the time since boot in this time namespace differs from that of the machine."""
    try:
        lines = [line.split() for line in _OFFSETS.read_text().splitlines()]
        return next((int(line[1]) * _NS + int(line[2]) for line in lines if line[0] == "boottime"), 0)
    except (OSError, ValueError, IndexError):
        return 0


_BOOT = _this_boot()
_OFFSET_NS = _container_offset_ns()


def read() -> Reading:
    """What the clocks say now."""
    for _ in range(5):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall_ns = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if after - before <= _CLOSE_NS:
            break
    since_boot_ns = after - _OFFSET_NS
    return Reading(wall_ns, since_boot_ns, _BOOT) if since_boot_ns >= 0 else Reading(wall_ns)
