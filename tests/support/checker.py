# SPDX-License-Identifier: BSD-3-Clause
"""The project's own checker as an assertion, for after a server has ended."""

import contextlib
import os

from wbcache_core.device.file_device import FileDevice
from wbcache_core.tools.checker import examine


def check_pair(log_path, origin_path):
    """AssertionError with the findings unless log and origin are sound. No server may hold them.

    A log that does not exist is sound: none is made before the first write.
    """
    if not os.path.exists(log_path):
        return
    with contextlib.ExitStack() as stack:
        log = FileDevice(os.fspath(log_path), "log", direct=True)
        stack.callback(log.close)
        origin = FileDevice(os.fspath(origin_path), "origin")
        stack.callback(origin.close)
        findings = examine(log, origin).findings
    assert not findings, "\n".join([f"{log_path} is not sound:", *findings])
