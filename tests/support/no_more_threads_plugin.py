# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit plugin: wbcache where no more threads can be started once the file in WBCACHE_TEST_NO_MORE_THREADS exists."""

import os
import threading
from pathlib import Path

_PLUGIN = Path(__file__).resolve().parents[2] / "plugin" / "wbcache.py"
_start = threading.Thread.start


def _start_or_fail(thread):
    if os.path.exists(os.environ["WBCACHE_TEST_NO_MORE_THREADS"]):
        raise RuntimeError("can't start new thread")
    _start(thread)


threading.Thread.start = _start_or_fail
__file__ = str(_PLUGIN)
exec(compile(_PLUGIN.read_text(), _PLUGIN, "exec"))
