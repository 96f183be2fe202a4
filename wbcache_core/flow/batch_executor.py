# SPDX-License-Identifier: BSD-3-Clause
"""Carries out batches: reads segments from the log, verifies them, and writes the newest of each block to the origin.

What a batch does depends on log and origin alone, and it can be repeated. Which segments it has, and every cursor and
superblock, are the destager's.
"""

import errno
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from wbcache_core.background import PIECE_PAGES, let_requests_run
from wbcache_core.device.device import aligned_buffer
from wbcache_core.errors import DamagedPageError, DeviceError
from wbcache_core.flow.batch import DestageBatch
from wbcache_core.flow.origin_writer import OriginWriter
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.segment_table import Located
from wbcache_core.pairing.fingerprint import sampled_blocks
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, format_size

_BATCH_PAGES = 32768


def batch_lsns(data_pages: int) -> int:
    """A batch is at most 128 MiB, and at most an eighth of the log so that space comes back steadily."""
    return max(min(_BATCH_PAGES, data_pages // 8), MAX_SEGMENT_PAGES)


class Loaded(NamedTuple):
    """A batch that was read, and of its last segment what a superblock says."""

    start_lsn: int
    end_lsn: int
    last_first_lsn: int
    last_log_pages: int
    last_checksum: int
    generation: int
    time_ns: int
    earlier: tuple[int, int] | None
    """Number and time of the last generation that ends before the last segment's, if one does."""
    bad_pages: list[tuple[int, int]]
    """(LSN, block), in LSN order, of the pages to write whose checksum does not match."""


class Written(NamedTuple):
    """A batch that is durable on the origin, except for what the origin rejected."""

    pages: int
    requests: int
    refused: dict[int, DeviceError]
    """Blocks that the origin rejected while it accepted others, and why; their content on the origin is not known."""
    contents: Mapping[int, bytes | memoryview | None]
    """What the batch has for those, and for the postponed blocks in it; None for zeros. Valid until the next load()."""
    tried: list[int]
    """The `watched` blocks that are in the batch."""
    sample_sums: dict[int, int]
    """New checksums of the sampled blocks (pairing/fingerprint.py) that the batch changed."""


class BatchExecutor(Protocol):
    """For one thread. One batch at a time: load(), perhaps leave_out(), write(), or load() again."""

    origin_bytes: int

    @property
    def settles_at(self) -> float:
        """See device.Device."""

    @property
    def why_here(self) -> str:
        """Why it is the server's process that carries out batches at present; empty if it is another one."""

    @property
    def check_seconds(self) -> float:
        """Seconds between calls of check_idle(); infinity if there is nothing to check."""

    def check_idle(self) -> None:
        """See device.ConnectedDevice."""

    def be_patient(self) -> None:
        """See device.ConnectedDevice."""

    def load(self, segments: list[Located], end: int) -> Loaded:
        """Read these segments, which follow each other; `end` is the LSN after the last. Raises DamagedPageError if one
        cannot be read back, DeviceError."""

    def leave_out(self, blocks: list[int]) -> None:
        """Do not write these blocks."""

    def write(self, postponed: list[int], watched: list[int], depth: int) -> Written:
        """Make the batch durable on the origin, with up to `depth` requests in flight, without the postponed blocks.
        Waits until the origin has settled.

        Raises DeviceError and, when the server stops, StoppedError; either leaves the origin with a
        part of the batch.
        """

    def sample(self, block: int) -> int | None:
        """The checksum of a block as the origin has it; None if it cannot be read."""

    def release(self) -> None:
        """Release the memory of the last batch."""

    def close(self) -> None:
        """End what it uses. No batch is in progress."""


class RecentSegments(Protocol):
    """A faster source than the log."""

    def copy_newest(self, segments: list[Located], end: int, image: memoryview) -> int:
        """Copy as many of the last segments as it has to where their LSNs are in the image, which begins with the first
        segment. Returns the number of segments before them. Not verified."""


_Verified = tuple[DestageBatch, list[tuple[int, int]]]


class DirectExecutor:
    """Does everything itself. See BatchExecutor. Not thread-safe."""

    def __init__(
        self, reader: LogReader, data_pages: int, writer: OriginWriter, recent: RecentSegments | None = None
    ) -> None:
        self._reader = reader
        self._batch_bytes = batch_lsns(data_pages) << PAGE_SHIFT
        self._writer = writer
        self._recent = recent
        self._image: memoryview | None = None
        self._batch: DestageBatch | None = None
        self.origin_bytes = writer.origin_bytes
        self.why_here = "destage-worker=off"

    @property
    def settles_at(self) -> float:
        return self._writer.settles_at

    def suspect_requests(self, ended_at: float) -> None:
        """See device.Device."""
        self._writer.suspect_requests(ended_at)

    def settle_until(self, when: float) -> None:
        """See device.ConnectedDevice."""
        self._writer.settle_until(when)

    def prepare(self, depth: int) -> None:
        """See OriginWriter."""
        self._writer.prepare(depth)

    @property
    def check_seconds(self) -> float:
        return self._writer.check_seconds

    def check_idle(self) -> None:
        self._writer.check_idle()

    def be_patient(self) -> None:
        self._writer.be_patient()

    def load(self, segments: list[Located], end: int) -> Loaded:
        self._batch = None
        batch, bad = self._with_recent(segments, end) or self._verified(segments, end, None)
        self._batch, last = batch, batch.last
        before = batch.last_before(last.generation)
        return Loaded(
            batch.start_lsn, batch.end_lsn, last.first_lsn, last.log_pages, last.checksum, last.generation,
            last.time_ns, (before.generation, before.time_ns) if before else None, bad,
        )  # fmt: skip

    def _with_recent(self, segments: list[Located], end: int) -> _Verified | None:
        """None if the faster source may be why something is damaged: the log is what has to be right. Raises
        DeviceError."""
        if self._recent is None:
            return None
        try:
            found = self._verified(segments, end, self._recent)
        except DamagedPageError:
            return None
        return None if found[1] else found

    def _verified(self, segments: list[Located], end: int, recent: RecentSegments | None) -> _Verified:
        """The segments, and their bad pages. Raises DamagedPageError, DeviceError."""
        batch = self._read(segments, end, recent)
        return batch, batch.bad_pages()

    def _read(self, segments: list[Located], end: int, recent: RecentSegments | None) -> DestageBatch:
        """The segments, their pages not verified. Raises DamagedPageError, DeviceError."""
        start = segments[0].first_lsn
        image = self._image_of(end - start)
        in_log = recent.copy_newest(segments, end, image) if recent else len(segments)
        self._reader.load(
            segments[:in_log], segments[in_log].first_lsn if in_log < len(segments) else end, image, start
        )  # fmt: skip
        return DestageBatch(start, image, self._decode(image, segments))

    def _decode(self, image: memoryview, segments: list[Located]) -> list[Descriptor]:
        """The descriptors in an image. Raises DamagedPageError."""
        found: list[Descriptor] = []
        pages, start = 0, segments[0].first_lsn
        for lsn, _, _ in segments:
            found.append(self._reader.decode(image[lsn - start << PAGE_SHIFT :][:PAGE_BYTES], lsn))
            pages += found[-1].page_count
            if pages >= PIECE_PAGES:
                pages = 0
                let_requests_run()
        return found

    def _image_of(self, lsns: int) -> memoryview:
        """Raises DeviceError if there is no memory for it now."""
        if self._image is None:
            try:
                self._image = aligned_buffer(self._batch_bytes)
            except (OSError, MemoryError):
                size = format_size(self._batch_bytes)
                raise DeviceError(f"no memory for a batch of {size}", errno.ENOMEM) from None
        return self._image[: lsns << PAGE_SHIFT]

    def leave_out(self, blocks: Iterable[int]) -> None:
        batch = self._loaded()
        for block in blocks:
            batch.leave_out(block)

    def write(self, postponed: list[int], watched: list[int], depth: int) -> Written:
        batch = self._loaded()
        avoid = [block for block in postponed if batch.has(block)]
        tried = [block for block in watched if batch.has(block)]
        contents = {block: batch.page(block) for block in avoid}
        self.leave_out(avoid)
        requests = self._writer.write(batch, depth, avoid)
        refused = self._writer.refused
        contents |= {block: batch.page(block) for block in refused}
        self.leave_out(refused)
        changed = batch.new_checksum()
        sums = {
            block: value
            for block in sampled_blocks(self.origin_bytes)
            if (value := changed(block)) is not None
        }
        return Written(len(batch), requests, refused, contents, tried, sums)

    def sample(self, block: int) -> int | None:
        return self._writer.sample(block)

    def release(self) -> None:
        self._batch = self._image = None

    def close(self) -> None:
        self.release()
        self._writer.close()

    def _loaded(self) -> DestageBatch:
        assert self._batch is not None
        return self._batch
