# SPDX-License-Identifier: BSD-3-Clause
"""One batch of the number line, ready for the origin: the newest page of each block, sorted, and ranges to clear.

A batch is an image of the line: page lsn is at (lsn - start) * 4096, as in the ring.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.background import PIECE_PAGES, let_requests_run
from wbcache_core.format.segment import PAGE, TRIM, ZERO_PAGE_SUM, Descriptor
from wbcache_core.units import PAGE_SHIFT

_RUN_PAGES = 256
"""Most pages in one write to the origin (1 MiB)."""
_REGION_SHIFT = 12


class Run(NamedTuple):
    """Consecutive blocks to write: byte offset and one view per page."""

    offset: int
    views: list[memoryview]


class Clear(NamedTuple):
    """Blocks to zero."""

    block: int
    block_count: int
    may_trim: bool

    @property
    def blocks(self) -> range:
        return range(self.block, self.block + self.block_count)


def _pieces(blocks: list[int]) -> Iterator[list[int]]:
    """The blocks, a few at a time, with pauses in between in which requests can run."""
    for start in range(0, len(blocks), PIECE_PAGES):
        if start:
            let_requests_run()
        yield blocks[start : start + PIECE_PAGES]


def _in_order(blocks: list[int]) -> Iterator[int]:
    """The blocks sorted, region by region: sorting tens of thousands at once would occupy the interpreter for long."""
    regions: dict[int, list[int]] = {}
    for piece in _pieces(blocks):
        for block in piece:
            regions.setdefault(block >> _REGION_SHIFT, []).append(block)
    since_pause = 0
    for region in sorted(regions):
        yield from sorted(regions[region])
        since_pause += len(regions[region])
        if since_pause >= PIECE_PAGES:
            since_pause = 0
            let_requests_run()


class DestageBatch:
    def __init__(self, start_lsn: int, image: memoryview, descriptors: list[Descriptor]) -> None:
        """`descriptors` of whole segments in LSN order, the first of which starts with start_lsn."""
        self.start_lsn = start_lsn
        self.end_lsn = descriptors[-1].end_lsn
        self.last = descriptors[-1]
        self._descriptors = descriptors
        self._image = image
        self._newest: dict[int, int] = {}
        self._sums = array("Q", bytes(8 * (self.end_lsn - start_lsn)))
        self._left_out: set[int] = set()
        self.clears: list[Clear] = []
        for descriptor in descriptors:
            self._add(descriptor)

    def __len__(self) -> int:
        """Pages to write."""
        return len(self._newest)

    def last_before(self, generation: int) -> Descriptor | None:
        """The last descriptor of an earlier generation, if the batch contains one."""
        earlier = (descriptor for descriptor in reversed(self._descriptors) if descriptor.generation < generation)
        return next(earlier, None)

    def _add(self, descriptor: Descriptor) -> None:
        index = descriptor.first_lsn + 1 - self.start_lsn
        end = index + descriptor.page_count
        self._sums[index:end] = array("Q", descriptor.page_sums)
        if not descriptor.has_ranges:
            self._newest.update(zip(descriptor.entry_words, range(index, end), strict=True))
            return
        for entry in descriptor.entries():
            if entry.kind == PAGE:
                self._newest[entry.block] = entry.lsn - self.start_lsn
            else:
                self._clear(Clear(entry.block, entry.blocks, entry.kind == TRIM))

    def _clear(self, clear: Clear) -> None:
        """Earlier pages within the range are superseded; later ones are written after all clears."""
        newest, inside = self._newest, clear.blocks
        for block in inside if len(inside) < len(newest) else [block for block in newest if block in inside]:
            newest.pop(block, None)
        self.clears.append(clear)

    def bad_pages(self) -> list[tuple[int, int]]:
        """(LSN, block), in LSN order, of the pages to write whose checksum does not match."""
        image, sums, newest = self._image, self._sums, self._newest
        bad: list[tuple[int, int]] = []
        for piece in _pieces(list(newest)):
            indexes = [newest[block] for block in piece]
            pages = [image[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT] for index in indexes]
            if list(map(xxh3_64_intdigest, pages)) != [sums[index] for index in indexes]:
                bad += [
                    (self.start_lsn + index, block)
                    for block, index, page in zip(piece, indexes, pages, strict=True)
                    if xxh3_64_intdigest(page) != sums[index]
                ]
        return sorted(bad)

    def has(self, block: int) -> bool:
        """Whether the batch writes or clears a block."""
        return block in self._newest or any(block in clear.blocks for clear in self.clears)

    def page(self, block: int) -> memoryview | None:
        """The content of a block in the batch; None for zeros. To be called before leave_out()."""
        index = self._newest.get(block)
        return None if index is None else self._image[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT]

    def leave_out(self, block: int) -> None:
        """Do not write a block."""
        self._newest.pop(block, None)
        self._left_out.add(block)

    def runs(self, origin_bytes: int) -> Iterator[Run]:
        """Writes in order of blocks, neighbours merged, cut at the end of the origin."""
        image, newest = self._image, self._newest
        views: list[memoryview] = []
        first = following = -1
        for block in _in_order(list(newest)):
            if block != following or len(views) == _RUN_PAGES:
                if views:
                    yield Run(first << PAGE_SHIFT, views)
                first, views = block, []
            index = newest[block]
            views.append(image[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT])
            following = block + 1
        if following << PAGE_SHIFT > origin_bytes:
            views[-1] = views[-1][: origin_bytes - (following - 1 << PAGE_SHIFT)]
        if views:
            yield Run(first << PAGE_SHIFT, views)

    def new_checksum(self) -> Callable[[int], int | None]:
        """A function from block to the checksum of what this batch leaves there, None if it does not touch the
        block."""

        def changed(block: int) -> int | None:
            if block in self._left_out:
                return None
            index = self._newest.get(block)
            if index is not None:
                return self._sums[index]
            if any(block in clear.blocks for clear in self.clears):
                return ZERO_PAGE_SUM
            return None

        return changed
