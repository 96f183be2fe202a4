# SPDX-License-Identifier: BSD-3-Clause
"""What a schedule of shipping_world.py spares itself, and what it does not: the same code does the same, faster.

A schedule recovers logs of 4 MiB twenty times, most of them to compare what a standby has in memory.
"""

import contextlib
from unittest import mock

from wbcache_core.device.device import aligned_buffer
from wbcache_core.format import segment
from wbcache_core.log import recovery, window, writer
from wbcache_core.units import MIB

_MOST_REMEMBERED = 1000


class _Decoder:
    """segment.decode(), which does not decode a page again whose bytes it has seen. Nobody changes a descriptor."""

    def __init__(self):
        self._known = {}

    def decode(self, page):
        content = bytes(page)
        known = self._known.get(content)
        if known is None:
            known = segment.decode(page)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[content] = known
        return known


class _Buffers:
    """aligned_buffer() for the windows of recovery, of which two are in use at once, at most."""

    def __init__(self):
        self._maps = [aligned_buffer(MIB) for _ in range(4)]
        self._next = 0

    def aligned(self, length):
        self._next = (self._next + 1) % len(self._maps)
        return self._maps[self._next][:length]


_buffers = _Buffers()


@contextlib.contextmanager
def quick():
    """Recovery reads into the same memory again and remembers what it has decoded, and commits do not pause for other
    threads, which there are not."""
    with (
        mock.patch.object(window, "aligned_buffer", _buffers.aligned),
        mock.patch.object(recovery, "decode", _Decoder().decode),
        mock.patch.object(writer, "let_requests_run", lambda: None),
    ):
        yield
