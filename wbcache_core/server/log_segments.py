# SPDX-License-Identifier: BSD-3-Clause
"""What is in the log of a running server, segment by segment, in pieces that fit into an answer of the control socket.

The descriptors are read from the log. Its space may be reused meanwhile: a segment below `oldest` is left out.
"""

import time
from collections.abc import Iterable, Iterator

from wbcache_core.errors import DamagedPageError, DeviceError
from wbcache_core.format.segment import PAGE, Descriptor
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.moments import iso
from wbcache_core.memory.segment_table import Located, SegmentTable
from wbcache_core.server.history import Facts
from wbcache_core.units import PAGE_SHIFT

_AT_ONCE = 32
"""Segments that are looked up under one hold of the volume lock."""
MOST_RUNS, MOST_SEGMENTS, _MOST_SECONDS = 4000, 1000, 2.0
"""An answer ends after the segment that reaches one of these."""


class LogSegments:
    """Has no state of its own, and may be used by any thread."""

    def __init__(self, line: NumberLine, table: SegmentTable, reader: LogReader, volume_bytes: int) -> None:
        """The volume lock guards `line` and `table`."""
        self._line = line
        self._table = table
        self._reader = reader
        self._volume_bytes = volume_bytes

    def page(self, start: int) -> Facts:
        """The committed segments that begin at or above an LSN, oldest first, and where the next page begins.

        Takes a few seconds at most, if the log answers. No lock held. Raises DeviceError, DamagedPageError.
        """
        found: list[Facts] = []
        runs, deadline, following = 0, time.monotonic() + _MOST_SECONDS, None
        for segment in self._from(start):
            if runs >= MOST_RUNS or len(found) >= MOST_SEGMENTS or time.monotonic() > deadline:
                following = segment.first_lsn
                break
            descriptor = self._read(segment)
            if descriptor:
                found.append(_facts(descriptor))
                runs += len(found[-1]["written"]) + len(found[-1]["cleared"])
        return {"volume_bytes": self._volume_bytes, "segments": found, "next": following}

    def _from(self, start: int) -> Iterator[Located]:
        while True:
            with self._line.lock:
                segments = self._table.some_from(max(start, self._line.oldest), _AT_ONCE)
            if not segments:
                return
            yield from segments
            start = segments[-1].first_lsn + 1

    def _read(self, segment: Located) -> Descriptor | None:
        """None if its space has been given up meanwhile."""
        try:
            return self._reader.descriptor(segment)
        except (DamagedPageError, DeviceError):
            with self._line.lock:
                if segment.first_lsn < self._line.oldest:
                    return None
            raise


def _facts(descriptor: Descriptor) -> Facts:
    ranges = descriptor.entries() if descriptor.has_ranges else ()
    return {
        "first_lsn": descriptor.first_lsn,
        "end_lsn": descriptor.end_lsn,
        "generation": descriptor.generation,
        "time": iso(descriptor.time_ns),
        "written": [_bytes(block, count) for block, count in _runs(descriptor.page_blocks)],
        "cleared": [_bytes(one.block, one.blocks) for one in ranges if one.kind != PAGE],
    }


def _bytes(block: int, count: int) -> tuple[int, int]:
    return block << PAGE_SHIFT, count << PAGE_SHIFT


def _runs(blocks: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Neighbours that follow each other, as the first and their number."""
    start, count = 0, 0
    for block in blocks:
        if count and block == start + count:
            count += 1
            continue
        if count:
            yield start, count
        start, count = block, 1
    if count:
        yield start, count
