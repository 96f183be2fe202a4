# SPDX-License-Identifier: BSD-3-Clause
"""Threads that write, clear and read one volume at once, where each knows what it must find.

The volume is cut into cells of any size, and chunks of neighbouring cells belong to one writer each, so that writers
share pages but no byte. The content of a cell tells where and when it was written. A read is right when each cell holds
a state between the last one acknowledged before the read began and the last one begun before it ended. Only pages
change at one moment: of a cell that lies in two of them each part has to be right.
"""

import random
import struct
import threading

from wbcache_core.units import PAGE_BYTES

_TAG = struct.Struct("<IQ")


class CellHistory:
    """The contents one cell had, in order. Its writer alone appends; others read it at any time."""

    def __init__(self, content):
        self.contents = [content]
        self.acknowledged = 0


class OwnedCells:
    def __init__(self, volume, writer_count, cell_bytes, seed):
        """The volume is zero to begin with; what is left of it behind the last cell stays so."""
        print(f"seed {seed}")
        self.volume = volume
        self.seed = seed
        self.cell_bytes = cell_bytes
        self.cells = [CellHistory(bytes(cell_bytes)) for _ in range(volume.size // cell_bytes)]
        self.failures = []
        self._stop = threading.Event()
        self.writers = writer_count
        self._chunks = self._deal(random.Random(seed), writer_count)

    def _deal(self, rng, writer_count):
        """Chunks (first cell, count) for each writer."""
        chunks = [[] for _ in range(writer_count)]
        cell = 0
        while cell < len(self.cells):
            count = min(rng.choice((1, 1, 2, 3, 7, 20, 40)), len(self.cells) - cell)
            rng.choice(chunks).append((cell, count))
            cell += count
        return chunks

    def run(self, seconds, also=()):
        """Writers, two readers and the functions in `also`, each over and over. Raises the first failure."""
        work = [self._writer(number) for number in range(self.writers)]
        work += [self._reader(random.Random(self.seed * 100 + 50 + number)) for number in range(2)]
        threads = [threading.Thread(target=self._repeat, args=(function,)) for function in [*work, *also]]
        for thread in threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _repeat(self, function):
        try:
            while not self._stop.is_set():
                function()
        except Exception as error:
            self.failures.append(error)
            self._stop.set()
            raise

    def _writer(self, number):
        rng = random.Random(self.seed * 100 + number)
        chunks = self._chunks[number]

        def write_once():
            first, count = rng.choice(chunks)
            start = rng.randrange(count)
            cells = range(first + start, first + rng.randint(start + 1, count))
            if rng.random() < 0.3:
                self.check(cells.start, len(cells))
            elif rng.random() < 0.2:
                self._clear(rng, cells)
            else:
                self._write(rng, cells)

        return write_once

    def _write(self, rng, cells):
        data = b""
        for cell in cells:
            history = self.cells[cell]
            tag = _TAG.pack(cell, len(history.contents))
            content = (tag * (self.cell_bytes // len(tag) + 1))[: self.cell_bytes]
            history.contents.append(content)
            data += content
        self.volume.write(data, cells.start * self.cell_bytes, rng.random() < 0.02)
        self._acknowledge(cells)

    def _clear(self, rng, cells):
        for cell in cells:
            self.cells[cell].contents.append(bytes(self.cell_bytes))
        offset, count = cells.start * self.cell_bytes, len(cells) * self.cell_bytes
        if rng.random() < 0.5:
            self.volume.trim(count, offset)
        else:
            self.volume.zero(count, offset, may_trim=rng.random() < 0.5)
        self._acknowledge(cells)

    def _acknowledge(self, cells):
        for cell in cells:
            history = self.cells[cell]
            history.acknowledged = len(history.contents) - 1

    def _reader(self, rng):
        def read_once():
            first = rng.randrange(len(self.cells))
            self.check(first, min(rng.choice((1, 8, 64, 512)), len(self.cells) - first))

        return read_once

    def check(self, first=0, count=None):
        """Read cells and fail unless each holds a state that it can have had in the meantime."""
        cells = self.cells[first : first + (count or len(self.cells))]
        at_least = [history.acknowledged for history in cells]
        found = bytearray(len(cells) * self.cell_bytes)
        self.volume.read_into(found, first * self.cell_bytes)
        for index, history in enumerate(cells):
            content = found[index * self.cell_bytes : (index + 1) * self.cell_bytes]
            possible = history.contents[at_least[index] :]
            if content not in possible and not self._is_mixed(first + index, content, possible):
                self._report(first + index, at_least[index], content)

    def _is_mixed(self, cell, content, possible):
        """Whether the parts of the cell in its two pages are each of a possible state."""
        cut = -cell * self.cell_bytes % PAGE_BYTES
        return any(content[:cut] == state[:cut] for state in possible) and any(
            content[cut:] == state[cut:] for state in possible
        )

    def _report(self, cell, at_least, content):
        history = self.cells[cell].contents
        known = [version for version, other in enumerate(history) if other == content]
        raise AssertionError(
            f"cell {cell} (byte {cell * self.cell_bytes}): found {bytes(content[:24]).hex()}, which is version "
            f"{known or 'unknown'}, with {at_least} acknowledged and {len(history) - 1} begun; seed {self.seed}"
        )
