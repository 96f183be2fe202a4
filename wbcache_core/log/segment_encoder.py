# SPDX-License-Identifier: BSD-3-Clause
"""Turns a closed segment in the ring into the bytes that the log gets: checksums, compression, descriptor.

Not thread-safe: only the leader of a commit uses it.
"""

from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import aligned_buffer
from wbcache_core.format import answers
from wbcache_core.format.answers import Answers
from wbcache_core.format.frames import lengths_of
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, RAW, ZSTD, Descriptor, encode
from wbcache_core.log.compressor import FrameCompressor
from wbcache_core.log.geometry import COMMIT_PAGES, LogEnd
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.policy import ORIGIN
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, pages_of

_ANSWERS = (Answers(answers.RAM, answers.LOG), *[Answers(answers.LOG, answers.LOG)] * ORIGIN)
"""By the level of `ack` (memory/policy.py). Stronger than LOG is never claimed: a flush that is answered when the log
has the segment may come at any time, after `flush` was changed or all peers were left out."""


class EncodedSegment(NamedTuple):
    descriptor: Descriptor
    page_sums: list[int]
    views: list[memoryview]
    """What to write, in order: parts of the ring and of the compressed data."""


class SegmentEncoder:
    def __init__(self, uuid: bytes, ring: RingBuffer, zstd_level: int | None) -> None:
        self._uuid = uuid
        self._ring = ring
        self._compressor = FrameCompressor(zstd_level) if zstd_level is not None else None
        self._scratch = aligned_buffer(min(ring.pages, COMMIT_PAGES + MAX_SEGMENT_PAGES) * PAGE_BYTES)
        self._scratch_used = 0

    def close(self) -> None:
        """End the threads that compress."""
        if self._compressor:
            self._compressor.close()

    def begin(self) -> None:
        """What was encoded so far has been written, and the memory of its compressed pages is used again."""
        self._scratch_used = 0

    def encode(self, segment: PendingSegment, committed: int, end: LogEnd) -> EncodedSegment:
        """Fill the descriptor's slot in the ring, and compress the pages if that is wanted and saves space. The views
        are valid until begin() is called or the ring uses the slots for other segments."""
        assert end.epoch.number, "no epoch has begun"
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
            payload_bytes, frame_lengths, tuple(segment.entry_words), tuple(segment.arguments(sums)),
            boot=end.time.boot, boot_ns=end.time.boot_ns, epoch=end.epoch, answers=_ANSWERS[segment.ack],
        )  # fmt: skip
        encode(descriptor, self._ring.page(first))
        return EncodedSegment(descriptor, sums, views)

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
