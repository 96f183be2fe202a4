# SPDX-License-Identifier: BSD-3-Clause
"""Stops a process, and knows when it has stopped: another processor may run it for a moment after the signal."""

import os
import signal
import time
from pathlib import Path

_LIMIT_S = 10


def stop_process(pid):
    """SIGSTOP; returns when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _LIMIT_S
    while not all(_state(task) == "T" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(task):
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
