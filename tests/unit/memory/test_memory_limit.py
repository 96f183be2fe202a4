# SPDX-License-Identifier: BSD-3-Clause
"""How much memory is left, by files as the kernel writes them."""

import os

import pytest

from wbcache_core.memory import memory_limit
from wbcache_core.units import MIB

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MEMINFO = {"proc/meminfo": "MemTotal: 99 kB\nMemFree: 5 kB\nMemAvailable:    900000 kB\n"}
AVAILABLE = 900000 * 1024


def second(folder, used, **files):
    """The files of a group of version 2."""
    place = f"sys/fs/cgroup/{folder}memory."
    return {f"{place}current": str(used)} | {f"{place}{name}": text for name, text in files.items()}


def first(folder, limit, used, reclaimable=0):
    """The files of a group of version 1."""
    place = f"sys/fs/cgroup/memory/{folder}memory."
    stat = f"inactive_file 1\ntotal_inactive_file {reclaimable}\n"
    return {f"{place}limit_in_bytes": str(limit), f"{place}usage_in_bytes": str(used), f"{place}stat": stat}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, MACHINE),
        (MEMINFO, AVAILABLE),
        ({"proc/meminfo": "MemAvailable: many kB\n\nMemAvailable:\n"}, MACHINE),
        (MEMINFO | {"proc/self/cgroup": "nonsense\n"}, AVAILABLE),
        # Version 2: limits of the group and of those above it, and the machine's memory where that is less.
        (MEMINFO | {"proc/self/cgroup": "0::/a\n"} | second("a/", 5 * MIB, max="max\n"), AVAILABLE),
        (MEMINFO | {"proc/self/cgroup": "0::/a\n"} | second("a/", 5 * MIB, max=f"{80 * MIB}\n"), 75 * MIB),
        (MEMINFO | {"proc/self/cgroup": "0::/a\n"} | second("a/", 5 * MIB, max=f"{2**50}\n"), AVAILABLE),
        (MEMINFO | {"proc/self/cgroup": "0::/a/b\n"} | second("a/", 9 * MIB, max=str(80 * MIB)), 71 * MIB),
        (
            {"proc/self/cgroup": "0::/a/b\n"}
            | second("a/", 70 * MIB, max=str(80 * MIB)) | second("a/b/", 2 * MIB, max=str(40 * MIB)),
            10 * MIB,
        ),
        ({"proc/self/cgroup": "0::/a\n"} | second("a/", 9 * MIB, max=str(80 * MIB), high=str(60 * MIB)), 51 * MIB),
        ({"proc/self/cgroup": "0::/a\n"} | second("a/", 9 * MIB, max="max", high=str(60 * MIB)), 51 * MIB),
        ({"proc/self/cgroup": "0::/a\n"} | second("a/", 90 * MIB, max=str(80 * MIB)), 0),
        (
            {"proc/self/cgroup": "0::/a\n"}
            | second("a/", 90 * MIB, max=str(100 * MIB), stat=f"anon 7\ninactive_file {30 * MIB}\nactive_file 5\n"),
            40 * MIB,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": str(80 * MIB)}, MACHINE),
        # Version 1, and both at once.
        ({"proc/self/cgroup": "4:memory:/a\n"} | first("a/", 80 * MIB, 30 * MIB), 50 * MIB),
        ({"proc/self/cgroup": "4:memory:/a\n"} | first("a/", 80 * MIB, 70 * MIB, 20 * MIB), 30 * MIB),
        ({"proc/self/cgroup": "4:memory:/a\n"} | first("a/", 2**63 - 4096, 70 * MIB), MACHINE),
        ({"proc/self/cgroup": "4:memory:/docker/x\n"} | first("", 80 * MIB, 30 * MIB), 50 * MIB),
        (
            {"proc/self/cgroup": "9:name=systemd:/x\n4:memory:/a\n0::/x\n"}
            | first("a/", 80 * MIB, 30 * MIB) | second("unified/x/", MIB, max=str(21 * MIB)),
            20 * MIB,
        ),
    ],
)  # fmt: skip
def test_what_is_left(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit.unused(str(tmp_path)) == left


def test_on_this_machine():
    assert 0 < memory_limit.unused() < MACHINE
