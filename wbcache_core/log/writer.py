# SPDX-License-Identifier: BSD-3-Clause
"""Puts closed segments into the log: a position for each, one vectored write, one sync.

Not thread-safe: only the leader of a commit uses it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core import clock
from wbcache_core.background import let_requests_run
from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.format.segment import Descriptor
from wbcache_core.format.shared_ring import Anchor
from wbcache_core.log.geometry import LogEnd, fit, offset_of
from wbcache_core.log.log_sync import LogSync
from wbcache_core.log.segment_encoder import SegmentEncoder
from wbcache_core.log.takeover import bury_discarded
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer


class WrittenSegment(NamedTuple):
    """A segment that is durable in the log."""

    descriptor: Descriptor
    place: int
    page_sums: list[int]

    @property
    def end_place(self) -> int:
        return self.place + self.descriptor.log_pages


class _Generation(NamedTuple):
    """Segments that are ready to be written, and where the log continues after them."""

    segments: list[WrittenSegment]
    contents: list[list[memoryview]]
    """What to write for each: views of the ring and of the compressed data."""
    end: LogEnd

    def runs(self, data_pages: int) -> Iterator[tuple[int, list[memoryview]]]:
        """The same by position, with one write for all segments that follow each other on the device."""
        run: list[memoryview] = []
        start = end = -1
        for segment, views in zip(self.segments, self.contents, strict=True):
            if segment.place != end or not segment.place % data_pages:
                if run:
                    yield start, run
                run, start = [], segment.place
            run += views
            end = segment.end_place
        yield start, run


class LogWriter:
    def __init__(
        self,
        device: Device,
        data_pages: int,
        uuid: bytes,
        ring: RingBuffer,
        end: LogEnd,
        zstd_level: int | None,
        sync: LogSync | None = None,
    ) -> None:
        """`sync` is shared by everything that writes the log."""
        self._device = device
        self._sync = sync or LogSync(device)
        self._data_pages = data_pages
        self._ring = ring
        self.end = end
        self._encoder = SegmentEncoder(uuid, ring, zstd_level)
        self._prepared: _Generation | None = None

    def close(self) -> None:
        """End the threads that compress."""
        self._encoder.close()

    @property
    def is_prepared(self) -> bool:
        """Whether there is a generation for write(). One whose write failed stays and has to be repeated unchanged."""
        return self._prepared is not None

    def prepare(self, segments: list[PendingSegment], committed: int, reclaimed_place: int) -> None:
        """Prepare closed segments, in LSN order, to be written as one generation. No other one may be prepared.

        `committed` is the cursor as it stands now. The space must be free, less than a lap beyond `reclaimed_place`:
        the caller made sure of that when it admitted their pages to the ring. They stay there until write() succeeds.
        """
        assert not self._prepared
        end = self._next_generation()
        self._encoder.begin()
        written: list[WrittenSegment] = []
        contents: list[list[memoryview]] = []
        for segment in segments:
            if written:
                let_requests_run()
            one, views = self._prepare(segment, committed, end)
            contents.append(views)
            written.append(one)
            end = end._replace(place=one.end_place, previous=one.descriptor.checksum)
        assert end.place <= reclaimed_place + self._data_pages, "the log would overwrite what is still needed"
        self._prepared = _Generation(written, contents, end)

    @property
    def prepared_first_lsn(self) -> int:
        """Where the prepared generation begins."""
        assert self._prepared
        return self._prepared.segments[0].descriptor.first_lsn

    def copies(self) -> list[tuple[Descriptor, int, bytes]]:
        """The segments of the prepared generation: descriptor, position, and what write() puts there."""
        assert self._prepared
        return [
            (segment.descriptor, segment.place, b"".join(views))
            for segment, views in zip(self._prepared.segments, self._prepared.contents, strict=True)
        ]

    def write(self) -> list[WrittenSegment]:
        """Make the prepared generation durable. If it raises DeviceError, nothing has moved: call it again.

        Each time the same bytes go to the same positions. So a failure leaves in the log what any unfinished write may
        leave there, and a crash finds nothing else, however often it is repeated. SyncFailedError is final.
        """
        prepared = self._prepared
        assert prepared
        for place, views in prepared.runs(self._data_pages):
            self._device.write(views, offset_of(place, self._data_pages))
        self._sync.sync()
        last = prepared.segments[-1].descriptor
        self._ring.journal.note_commit(Anchor(last.end_lsn, last.checksum, last.generation))
        self.end, self._prepared = prepared.end, None
        return prepared.segments

    def write_whole(self, segments: Iterator[PendingSegment], committed: int, reclaimed_place: int) -> LogEnd:
        """Like write(), for a generation of any size: after a crash all of it is there or nothing.

        Each segment is in the ring from when the iterator yields it until the next one is requested. The first one,
        without which recovery does not find the others, is written when those are durable. Whatever recovery left out
        at the end has been buried. Returns the new end. If the iterator raises, everything is as it was.
        """
        tail = self._next_generation()
        limit = reclaimed_place + self._data_pages
        held: tuple[int, memoryview] | None = None
        for segment in segments:
            self._encoder.begin()
            one, views = self._prepare(segment, committed, tail)
            tail = tail._replace(place=one.end_place, previous=one.descriptor.checksum)
            assert tail.place <= limit, "the log would overwrite what is still needed"
            offset = offset_of(one.place, self._data_pages)
            if held:
                self._device.write(views, offset)
            else:
                held = offset, aligned_buffer(sum(map(len, views)))
                held[1][:] = b"".join(views)
        assert held
        # An interrupted attempt may have left a segment that would follow the last one.
        bury_discarded(self._device, self._data_pages, tail.place, limit)
        self._device.write([held[1]], held[0])
        self._sync.sync()
        self.end = tail
        return tail

    def _next_generation(self) -> LogEnd:
        """Where it starts, with its number and its time: what the clock says, even if that is earlier than before."""
        return self.end._replace(generation=self.end.generation + 1, time=clock.read())

    def _prepare(
        self, segment: PendingSegment, committed: int, end: LogEnd
    ) -> tuple[WrittenSegment, list[memoryview]]:
        """The segment with its position, and the bytes to write."""
        descriptor, sums, views = self._encoder.encode(segment, committed, end)
        place = fit(end.place, descriptor.log_pages, self._data_pages)
        return WrittenSegment(descriptor, place, sums), views
