# SPDX-License-Identifier: BSD-3-Clause
"""The priority of the worker's threads: low while the log has room, otherwise what the server has.

An unprivileged process may lower its nice value and take SCHED_IDLE, but not go back, unless RLIMIT_NICE allows it
(sched(7)). So that is tried out at the start. If there is no way back, the threads become SCHED_BATCH instead, from
which there always is one: the kernel then lets them wait a little when others wake up.

The I/O priority becomes the lowest of the best-effort class (ioprio_set(2)), for which no privilege is needed. It is
not the idle class: that may wait without limit for other users of a disk, and while it waits it can hold locks of the
file system that a commit to the log needs.
"""

import contextlib
import ctypes
import os
import platform
import threading

_IOPRIO_NUMBERS = {"x86_64": (251, 252), "aarch64": (30, 31), "riscv64": (30, 31)}
"""Numbers of ioprio_set and ioprio_get, by machine; glibc has no functions for them."""
_WHO_PROCESS = 1
_CLASS_SHIFT = 13
_BEST_EFFORT, _IDLE = 2, 3
_LOWEST = _BEST_EFFORT << _CLASS_SHIFT | 7

_libc = ctypes.CDLL(None, use_errno=True)


class Priority:
    """For one thread, which does not change its own priority. Threads that the others start inherit theirs."""

    def __init__(self) -> None:
        self._low_policy = _policy_with_a_way_back()
        self._ioprio_numbers = _IOPRIO_NUMBERS.get(platform.machine())
        self._usual_ioprio = self._ioprio_of_this_thread()
        self._is_low = False

    def set_low(self, is_low: bool) -> None:
        """Let all other threads of this process have low, or the usual, priority. What the system rejects stays as it
        is: this is a matter of speed only."""
        if is_low == self._is_low:
            return
        self._is_low = is_low
        own = threading.get_native_id()
        for thread in map(int, os.listdir("/proc/self/task")):
            if thread != own:
                # A thread may end meanwhile.
                with contextlib.suppress(OSError):
                    self._set(thread, is_low)

    def _set(self, thread: int, is_low: bool) -> None:
        """Raises OSError."""
        if self._low_policy is not None:
            os.sched_setscheduler(thread, self._low_policy if is_low else os.SCHED_OTHER, os.sched_param(0))
        # An administrator who chose the idle class gets it.
        if self._ioprio_numbers and self._usual_ioprio >> _CLASS_SHIFT != _IDLE:
            value = _LOWEST if is_low else self._usual_ioprio
            _libc.syscall(self._ioprio_numbers[0], _WHO_PROCESS, thread, value)

    def _ioprio_of_this_thread(self) -> int:
        """0, which means that nobody has chosen one, if that cannot be found out."""
        return max(int(_libc.syscall(self._ioprio_numbers[1], _WHO_PROCESS, 0)), 0) if self._ioprio_numbers else 0


def _policy_with_a_way_back() -> int | None:
    """The scheduling policy for low priority; None if an administrator has chosen one that is not the usual one."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return None
    found: list[int] = []

    def try_out() -> None:
        # This thread may have to stay as it is then.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            found.append(os.SCHED_IDLE)

    trial = threading.Thread(target=try_out, name="wbcache-trial")
    trial.start()
    trial.join()
    return found[0] if found else os.SCHED_BATCH
