# SPDX-License-Identifier: BSD-3-Clause
"""How the worker is tied to its server: it must never go on without it.

The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG in prctl(2)); that is the destager's thread,
for which it works. Signals that are meant for the server are not for it: a terminal and systemd send them to both.
"""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

from wbcache_core.device.image_claim import WORKER

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_KILLED_FIRST = 300
"""Added to oom_score_adj (proc(5)): when memory is short, better the worker, which loses nothing, than the server."""
_LARGEST_OOM_SCORE = 1000

_libc = ctypes.CDLL(None, use_errno=True)


def tie_to(parent: int) -> None:
    """Before anything is opened or changed. Ends the process if its parent has gone already. Raises OSError."""
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        value = ctypes.get_errno()
        raise OSError(value, os.strerror(value))
    if os.getppid() != parent:
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(WORKER.encode()), 0, 0, 0)
    with contextlib.suppress(OSError, ValueError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(int(score.read_text()) + _KILLED_FIRST, _LARGEST_OOM_SCORE)))
