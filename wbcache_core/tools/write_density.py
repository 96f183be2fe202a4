# SPDX-License-Identifier: BSD-3-Clause
"""How much was written where and when: the segments of a log counted into a grid of times and blocks."""

from array import array
from collections import Counter
from collections.abc import Iterable

from wbcache_core.format.segment import PAGE, Descriptor


class WriteDensity:
    """`written` and `cleared` count blocks, by row and column: rows are blocks, upwards, columns are times.

    Times are in ns, both ends included; `blocks` is the range that is shown.
    """

    def __init__(self, columns: int, rows: int, times: tuple[int, int], blocks: range) -> None:
        self.columns, self.rows = columns, rows
        self._start_ns, end_ns = times
        self._span_ns = max(end_ns - self._start_ns, 1)
        self._blocks = blocks
        self.written = [array("Q", bytes(8 * columns)) for _ in range(rows)]
        self.cleared = [array("Q", bytes(8 * columns)) for _ in range(rows)]

    def add(self, descriptor: Descriptor) -> None:
        """Count a segment whose time is shown. Blocks that are not shown are left out."""
        column = min((descriptor.time_ns - self._start_ns) * self.columns // self._span_ns, self.columns - 1)
        first, total, rows = self._blocks.start, len(self._blocks), self.rows
        shown = (block for block in descriptor.page_blocks if block in self._blocks)
        for row, count in Counter((block - first) * rows // total for block in shown).items():
            self.written[row][column] += count
        for entry in descriptor.entries() if descriptor.has_ranges else ():
            if entry.kind != PAGE:
                self._clear(entry.block, entry.blocks, column)

    def _clear(self, block: int, count: int, column: int) -> None:
        first, total = self._blocks.start, len(self._blocks)
        start, end = max(block, first) - first, min(block + count, self._blocks.stop) - first
        while start < end:
            row = start * self.rows // total
            # The first block of the next row.
            stop = min(-(-(row + 1) * total // self.rows), end)
            self.cleared[row][column] += stop - start
            start = stop

    def written_at(self) -> list[int]:
        """Blocks by column."""
        return [sum(column) for column in zip(*self.written, strict=True)]


def touched_blocks(descriptors: Iterable[Descriptor]) -> range:
    """From the first block that is written or cleared to the last."""
    low, high = 2**64, 0
    for descriptor in descriptors:
        if blocks := descriptor.page_blocks:
            low, high = min(low, min(blocks)), max(high, max(blocks) + 1)
        for entry in descriptor.entries() if descriptor.has_ranges else ():
            low, high = min(low, entry.block), max(high, entry.block + entry.blocks)
    return range(low, high) if low < high else range(0)
