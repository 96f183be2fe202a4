# SPDX-License-Identifier: BSD-3-Clause
"""Finds the processes that write to the origins of servers."""

import contextlib
from pathlib import Path


def workers_of(server):
    """Numbers of its processes, those that are ending left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            if int(parent) == server.pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
