# SPDX-License-Identifier: BSD-3-Clause
"""An origin whose reads and writes a test can hold up or let fail, and a way to wait for it."""

import threading
import time
from concurrent.futures import Future

from tests.support.bulk_writes import BulkWrites
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, WbcacheError

PATIENCE_S = 40


class GatedOrigin(BulkWrites, FileDevice):
    """A read is held up, after it has read, while `read_gate` is closed; a write, before it writes, by `write_gate`."""

    def __init__(self, path):
        super().__init__(str(path), "origin")
        self.read_gate, self.write_gate = threading.Event(), threading.Event()
        self.read_gate.set()
        self.write_gate.set()
        self.has_read, self.wants_to_write = threading.Event(), threading.Event()
        self.errno_of_writes = 0

    def read_into(self, view, offset):
        super().read_into(view, offset)
        self.has_read.set()
        assert self.read_gate.wait(PATIENCE_S)

    def write(self, views, offset):
        self.wants_to_write.set()
        assert self.write_gate.wait(PATIENCE_S)
        if self.errno_of_writes:
            raise DeviceError("cannot write to origin: as the test wants it", self.errno_of_writes)
        super().write(views, offset)


def in_background(function, *arguments):
    """Start a call in a thread; the Future's result(PATIENCE_S) fails the test when it hangs."""
    future = Future()

    def call():
        try:
            future.set_result(function(*arguments))
        except (WbcacheError, AssertionError) as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def wait_until(condition):
    """Fail when the condition does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)
