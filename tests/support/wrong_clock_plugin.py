# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit plugin: wbcache with a wall clock that is wrong by as many seconds as the file in WBCACHE_TEST_CLOCK says."""

import os
import time
from pathlib import Path

_PLUGIN = Path(__file__).resolve().parents[2] / "plugin" / "wbcache.py"
_right = time.time_ns
time.time_ns = lambda: _right() + int(Path(os.environ["WBCACHE_TEST_CLOCK"]).read_text()) * 10**9
__file__ = str(_PLUGIN)
exec(compile(_PLUGIN.read_text(), _PLUGIN, "exec"))
