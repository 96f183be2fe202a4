# SPDX-License-Identifier: BSD-3-Clause
"""Puts closed segments into the log: checksums, descriptors, one vectored write, one sync.

Not thread-safe: only the leader of a commit uses it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core import clock
from wbcache_core.background import let_requests_run
from wbcache_core.clock import Reading
from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.format.frames import lengths_of
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, RAW, ZSTD, Descriptor, encode
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log.compressor import FrameCompressor
from wbcache_core.log.log_sync import LogSync
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, pages_of

COMMIT_PAGES = 8192
"""At most this many LSNs (32 MiB) are written between two syncs; recovery looks no further for later segments."""


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
    runs: list[tuple[int, list[memoryview]]]
    """What to write, by position: views of the ring and of the compressed data."""
    end: "LogEnd"


class LogEnd(NamedTuple):
    """Where the log continues: what recovery hands to the writer."""

    place: int
    previous: int
    generation: int
    time: Reading
    """What the clocks said when that generation was written."""


def fit(place: int, pages: int, data_pages: int) -> int:
    """The position of a segment of that many pages: `place`, or the next lap if it would wrap around the end of the
    log."""
    left = data_pages - place % data_pages
    return place if pages <= left else place + left


def next_places(place: int, data_pages: int) -> list[int]:
    """Where the segment after one that ends at `place` may be: there, or at the next lap."""
    left = data_pages - place % data_pages
    return [place] if left >= MAX_SEGMENT_PAGES else [place, place + left]


def bury_discarded(device: Device, data_pages: int, place: int, limit: int) -> None:
    """Make sure that nothing recovery left out at the end of the log can ever be mistaken for the next segment.

    A torn segment there has the LSN and the predecessor that the next one is going to have. It could be found first if
    the next one goes to the following lap, or be completed by a later write that is torn as well. So the page of its
    descriptor is overwritten at both positions that are searched, before anything is committed; with ones, because
    zeros could be exactly what a torn descriptor lacks. Positions from `limit` on are in use. Raises DeviceError.
    """
    page = aligned_buffer(PAGE_BYTES)
    page[:] = b"\xff" * PAGE_BYTES
    for candidate in next_places(place, data_pages):
        if candidate < limit:
            device.write([page], DATA_START + (candidate % data_pages << PAGE_SHIFT))
    device.sync()


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
        self._uuid = uuid
        self._ring = ring
        self.end = end
        self._compressor = FrameCompressor(zstd_level) if zstd_level is not None else None
        self._scratch = aligned_buffer(min(ring.pages, COMMIT_PAGES + MAX_SEGMENT_PAGES) * PAGE_BYTES)
        self._scratch_used = 0
        self._prepared: _Generation | None = None

    def close(self) -> None:
        """End the threads that compress."""
        if self._compressor:
            self._compressor.close()

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
        self._scratch_used = 0
        written: list[WrittenSegment] = []
        runs: list[tuple[int, list[memoryview]]] = []
        for segment in segments:
            if written:
                let_requests_run()
            one, views = self._prepare(segment, committed, end)
            if runs and one.place == end.place and one.place % self._data_pages:
                runs[-1][1].extend(views)
            else:
                runs.append((one.place, views))
            written.append(one)
            end = end._replace(place=one.end_place, previous=one.descriptor.checksum)
        assert end.place <= reclaimed_place + self._data_pages, "the log would overwrite what is still needed"
        self._prepared = _Generation(written, runs, end)

    def write(self) -> list[WrittenSegment]:
        """Make the prepared generation durable. If it raises DeviceError, nothing has moved: call it again.

        Each time the same bytes go to the same positions. So a failure leaves in the log what any unfinished write may
        leave there, and a crash finds nothing else, however often it is repeated. SyncFailedError is final.
        """
        prepared = self._prepared
        assert prepared
        for place, views in prepared.runs:
            self._device.write(views, DATA_START + (place % self._data_pages << PAGE_SHIFT))
        self._sync.sync()
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
            self._scratch_used = 0
            one, views = self._prepare(segment, committed, tail)
            tail = tail._replace(place=one.end_place, previous=one.descriptor.checksum)
            assert tail.place <= limit, "the log would overwrite what is still needed"
            offset = DATA_START + (one.place % self._data_pages << PAGE_SHIFT)
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
        """Fill the descriptor's slot in the ring; returns the segment and the bytes to write."""
        first, count = segment.first_lsn, segment.page_count
        pages = self._ring.pages_of(first + 1, count)
        sums = list(map(xxh3_64_intdigest, pages))
        encoding, payload_bytes = RAW, count << PAGE_SHIFT
        frame_lengths: tuple[int, ...] = ()
        views = self._ring.spans(first, 1 + count)
        compressed = self._compress(pages) if self._compressor and count > 1 else None
        if compressed:
            encoding, (frame_lengths, payload) = ZSTD, compressed
            payload_bytes = sum(frame_lengths)
            views = [self._ring.page(first), payload]
        descriptor = Descriptor(
            encoding, count, self._uuid, first, end.time.wall_ns, committed, end.generation, end.previous,
            payload_bytes, frame_lengths, tuple(segment.heads), tuple(segment.arguments(sums)),
            boot=end.time.boot, boot_ns=end.time.boot_ns,
        )  # fmt: skip
        encode(descriptor, self._ring.page(first))
        place = fit(end.place, descriptor.log_pages, self._data_pages)
        return WrittenSegment(descriptor, place, sums), views

    def _compress(self, pages: list[memoryview]) -> tuple[tuple[int, ...], memoryview] | None:
        """Frame lengths and padded payload in the scratch buffer, or None if that saves no page."""
        assert self._compressor
        frames = self._compressor.compress(pages)
        if frames is None:
            return None
        payload = b"".join(frames)
        padded = pages_of(len(payload)) << PAGE_SHIFT
        view = self._scratch[self._scratch_used : self._scratch_used + padded]
        view[: len(payload)] = payload
        view[len(payload) :] = bytes(padded - len(payload))
        self._scratch_used += padded
        return lengths_of(frames), view
