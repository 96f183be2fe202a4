# SPDX-License-Identifier: BSD-3-Clause
"""A client that goes on when its server was killed: connects again, and sends again what got no reply."""

import random
import threading
import time

import nbd

from tests.support.stamped_blocks import sequence_in, stamped

_PATIENCE_S = 60


class Address:
    """One name for the sockets of servers that follow each other."""

    def __init__(self, folder):
        self.path = folder / "current.sock"
        self._new = folder / "next.sock"
        self.uri = f"nbd+unix:///?socket={self.path}"

    def lead_to(self, server):
        self._new.symlink_to(server.socket)
        self._new.replace(self.path)


class ReconnectingClient:
    """A thread that writes to blocks that nobody else writes, never flushes, and looks now and then whether the last
    version that was acknowledged is there."""

    def __init__(self, uri, blocks, seed):
        self._uri = uri
        self._blocks = blocks
        self._random = random.Random(seed)
        self._sequences = dict.fromkeys(blocks, 0)
        self._handle = None
        self._is_over = threading.Event()
        self.writes = self.reconnects = self.compared = 0
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self):
        """End it; raises what went wrong."""
        self._is_over.set()
        self._thread.join(2 * _PATIENCE_S)
        assert not self._thread.is_alive(), "a client hangs"
        if self.error:
            raise self.error

    def _run(self):
        try:
            while not self._is_over.is_set() or not self.reconnects + self.writes:
                self._write()
                if self._random.random() < 0.2:
                    self._compare(self._random.choice(self._blocks))
            for block in self._blocks:
                self._compare(block)
        except BaseException as error:
            self.error = error

    def _write(self):
        block = self._random.choice(self._blocks)
        sequence = self.writes + 1
        if self._random.random() < 0.1:
            kind, sequence = self._random.choice((lambda h: h.zero, lambda h: h.trim)), 0
            self._request(lambda handle: kind(handle)(block.size, block.offset))
        else:
            data = stamped(block, sequence)
            self._request(lambda handle: handle.pwrite(data, block.offset))
        self._sequences[block] = sequence
        self.writes += 1

    def _compare(self, block):
        found = sequence_in(block, self._request(lambda handle: handle.pread(block.size, block.offset)))
        wanted = self._sequences[block]
        assert found == wanted, f"{block}: write {found} is there, and {wanted} was acknowledged"
        self.compared += 1

    def _request(self, send):
        """The reply, of whichever server gives one."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return send(self._connected())
            except nbd.Error as error:
                # One that connects again may lose its connection, but an error in an answer would reach its user.
                assert not (self._handle and self._handle.aio_is_ready()), f"answered with {error}"
                self._handle = None
                if time.monotonic() > deadline:
                    raise AssertionError(f"no server answers for {_PATIENCE_S} s: {error}") from None
                time.sleep(0.005)

    def _connected(self):
        if not self._handle:
            handle = nbd.NBD()
            handle.set_strict_mode(0)
            handle.connect_uri(self._uri)
            self._handle = handle
            self.reconnects += 1
        return self._handle
