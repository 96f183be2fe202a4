# SPDX-License-Identifier: BSD-3-Clause
"""A mixed load at any byte alignment with a plain bytearray as the model of what the volume must hold."""

import random
from concurrent.futures import ThreadPoolExecutor

import nbd

from tests.support import clients

CONNECTIONS = 4
PAGE = 4096


class ModelledVolume:
    """Runs requests against a server and on `content`, and compares the two.

    Requests go out in batches over four connections at once. Within a batch no byte is touched twice, so the
    outcome is certain, but pages are shared: two requests may patch the two halves of one page.
    """

    def __init__(self, content, seed):
        self.content = bytearray(content)
        self._random = random.Random(seed)

    def run(self, uri, volume_of_writes, largest=256 * 1024, block_size=1):
        """Mixed requests of at most `largest` bytes until `volume_of_writes` bytes were written.

        Requests are in units of `block_size`, or of the export's minimum where that is larger. Only what the
        export offers is asked for: a filter can take abilities away.
        """
        with clients.connections(uri, CONNECTIONS) as handles, ThreadPoolExecutor(CONNECTIONS) as pool:
            self._heed(handles[0], block_size)
            written = 0
            while written < volume_of_writes:
                batch = self._choose_batch(largest)
                written += sum(len(data) for kind, _, _, data, _ in batch if kind == "write")
                list(pool.map(self._perform, handles, batch))
                for request in batch:
                    self._apply(request)
                if self._random.random() < 0.1:
                    self._random.choice(handles).flush()

    def _heed(self, handle, block_size):
        self._block_size = max(block_size, handle.get_block_size(nbd.SIZE_MINIMUM))
        self._weights = {"write": 70, "trim": 7 * handle.can_trim(), "zero": 8 * handle.can_zero(), "read": 15}
        self._fua = handle.can_fua()
        self._fast_zero = handle.can_fast_zero()

    def compare(self, uri):
        """Fail unless every byte of the export is as modelled."""
        with clients.connection(uri) as handle:
            self._compare(clients.read_all(handle))

    def compare_origin(self, path):
        """Fail unless the origin alone is the volume."""
        self._compare(path.read_bytes())

    def _compare(self, found):
        if found == self.content:
            return
        assert len(found) == len(self.content)
        wrong = [n for n in range(0, len(found), PAGE) if found[n : n + PAGE] != self.content[n : n + PAGE]]
        first = next(n for n in range(wrong[0], len(found)) if found[n] != self.content[n])
        raise AssertionError(
            f"{len(wrong)} pages differ, the first at {wrong[0]}, byte {first}: "
            f"found {found[first : first + 16].hex()}, not {self.content[first : first + 16].hex()}"
        )

    def _choose_batch(self, largest):
        batch = []
        for _ in range(CONNECTIONS):
            request = self._choose(largest, self._place(largest, batch))
            if all(request[1] + request[2] <= offset or offset + count <= request[1] for _, offset, count, *_ in batch):
                batch.append(request)
        return batch

    def _place(self, largest, batch):
        """Somewhere, or just behind an earlier request of the batch, so that they share a page."""
        if batch and self._random.random() < 0.3:
            end = batch[-1][1] + batch[-1][2]
            if end < len(self.content):
                return end
        return self._random.randrange(len(self.content))

    def _choose(self, largest, offset):
        limit = self._random.choice((16, 600, PAGE, 5 * PAGE, 64 * 1024, largest))
        count = self._random.randint(1, limit)
        block_size = PAGE if self._random.random() < 0.4 else self._block_size
        offset -= offset % block_size
        count = min(max(block_size, count - count % block_size), len(self.content) - offset)
        kind = self._random.choices(list(self._weights), self._weights.values())[0]
        data = self._random.randbytes(count) if kind == "write" else b""
        if kind == "write" and self._random.random() < 0.3:
            data = data[:1] * count
        return kind, offset, count, data, self._choose_flags(kind)

    def _choose_flags(self, kind):
        flags = 0
        if kind != "read" and self._fua and self._random.random() < 0.1:
            flags |= nbd.CMD_FLAG_FUA
        if kind == "zero" and self._random.random() < 0.3:
            flags |= nbd.CMD_FLAG_NO_HOLE
        if kind == "zero" and self._fast_zero and self._random.random() < 0.3:
            flags |= nbd.CMD_FLAG_FAST_ZERO
        return flags

    def _perform(self, handle, request):
        kind, offset, count, data, flags = request
        if kind == "write":
            handle.pwrite(data, offset, flags)
        elif kind == "trim":
            handle.trim(count, offset, flags)
        elif kind == "zero":
            handle.zero(count, offset, flags)
        else:
            found = handle.pread(count, offset)
            assert found == self.content[offset : offset + count], f"read of {count} bytes at {offset} is wrong"

    def _apply(self, request):
        kind, offset, count, data, _ = request
        if kind == "write":
            self.content[offset : offset + count] = data
        elif kind != "read":
            self.content[offset : offset + count] = bytes(count)
