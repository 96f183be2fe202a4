# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel says of a process: CPU time, memory, wake-ups, I/O."""

import contextlib
import os
import time
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_QUIET_S = 0.7
_QUIET_SHARE = 0.02
_SETTLE_LIMIT_S = 120


def cpu_s(pid):
    """CPU seconds of all threads and child processes so far, those that have ended included."""
    ticks = sum(_times(pid))
    for child in _children(pid):
        # It may end meanwhile; the next look counts it with those that have ended.
        with contextlib.suppress(OSError):
            ticks += sum(_times(child))
    return ticks * _TICK_S


def _times(pid):
    """Clock ticks in user and system mode, and the same of children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


def _children(pid):
    found = []
    for part in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread that has just ended has no more.
        with contextlib.suppress(OSError):
            found += map(int, part.read_text().split())
    return found


def anonymous_bytes(pid, shared=False):
    """Resident memory that is not of a file on a disk; with `shared` that in /dev/shm too."""
    names = ("RssAnon:", "RssShmem:") if shared else ("RssAnon:",)
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    found = [int(words[1]) * 1024 for words in lines if words[0] in names]
    assert len(found) == len(names), f"process {pid} has no {names}"
    return sum(found)


def wake_ups(pid):
    """How often threads that are alive now gave up the CPU of their own accord."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def device_bytes(pid):
    """Bytes that it and its children had read from devices, and written to them."""
    totals = [0, 0]
    for process in (pid, *_children(pid)):
        with contextlib.suppress(OSError):
            counters = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
            totals[0] += int(counters["read_bytes"])
            totals[1] += int(counters["write_bytes"]) - int(counters["cancelled_write_bytes"])
    return totals


def wait_until_quiet(pid, at_least_s=2.0):
    """Return when background work is over: the CPU hardly used for a while, not before at_least_s seconds."""
    deadline = time.monotonic() + _SETTLE_LIMIT_S
    time.sleep(max(at_least_s - _QUIET_S, 0))
    used = cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        before, used = used, cpu_s(pid)
        if used - before <= _QUIET_SHARE * _QUIET_S:
            return
    raise AssertionError(f"process {pid} is still busy after {_SETTLE_LIMIT_S} s")
