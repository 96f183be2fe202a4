# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache dump`: every segment and entry of a log, one line each."""

import json
import re
import uuid
from typing import Any, NamedTuple

from wbcache_core.errors import ConfigError, FormatError
from wbcache_core.format.segment import KIND_NAMES, RAW, Descriptor, Entry
from wbcache_core.format.superblock import DATA_START, MIN_LOG_BYTES, Superblock
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.log.survey import Segment, Survey
from wbcache_core.memory import moments
from wbcache_core.tools.offline_devices import ForgivingLog
from wbcache_core.tools.progress import Progress
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT

_RANGE = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")


class Filter(NamedTuple):
    """What to show. Times in ns; ranges of blocks and LSNs; None for all."""

    blocks: range | None = None
    lsns: range | None = None
    since: int | None = None
    until: int | None = None

    def wants_segment(self, segment: Segment) -> bool:
        """Whether any of it may have to be shown."""
        return (
            (self.since is None or segment.time_ns >= self.since)
            and (self.until is None or segment.time_ns <= self.until)
            and (self.lsns is None or (segment.first_lsn < self.lsns.stop and segment.end_lsn > self.lsns.start))
        )

    def wants_entry(self, lsn: int, block: int, count: int) -> bool:
        return (self.lsns is None or lsn in self.lsns) and (
            self.blocks is None or (block < self.blocks.stop and block + count > self.blocks.start)
        )

    @property
    def by_entry(self) -> bool:
        """Segments without an entry to show are not shown either."""
        return self.blocks is not None or self.lsns is not None


def parse_range(text: str) -> range:
    """`7` or `7-12`, both ends included. Raises ConfigError."""
    match = _RANGE.fullmatch(text.strip())
    if not match or int(match[1]) > int(match[2] or match[1]):
        raise ConfigError(f"'{text}' is neither a number nor a range like 7-12")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def run_dump(path: str, wanted: Filter, as_json: bool) -> int:
    """Print it; returns the exit status. Raises WbcacheError if the log cannot be examined."""
    log = ForgivingLog(path, read_only=True)
    try:
        superblock = newest(read_slots(log))
        survey = _survey(log, superblock)
        dirty: set[int] = set()
        if superblock:
            chain = survey.chain_from(superblock)
            survey.forget_images(chain)
            dirty = {segment.page for segment in chain}
        for volume in [superblock.uuid] if superblock else sorted(survey.volumes):
            for segment in survey.segments_of(volume):
                if wanted.wants_segment(segment):
                    _print_segment(survey, segment, _state(segment, superblock, dirty), wanted, as_json)
    finally:
        log.close()
    return 0


def _survey(log: ForgivingLog, superblock: Superblock | None) -> Survey:
    if superblock is None and log.size < MIN_LOG_BYTES:
        raise ConfigError(f"'{log.name}' has {log.size} bytes: too small for a wbcache log")
    data_pages = superblock.data_pages if superblock else (log.size - DATA_START) // PAGE_BYTES
    with Progress("reading", data_pages << PAGE_SHIFT) as progress:
        return Survey(log, data_pages, progress.advance)


def _state(segment: Segment, superblock: Superblock | None, dirty: set[int]) -> str:
    """`dirty` if the origin still lacks its data, `clean` if it has it, `loose` if the segment is not part of the
    chain."""
    if superblock is None:
        return "unknown"
    if segment.page in dirty:
        return "dirty"
    return "clean" if segment.end_lsn <= superblock.destaged else "loose"


def _print_segment(survey: Survey, segment: Segment, state: str, wanted: Filter, as_json: bool) -> None:
    try:
        descriptor = survey.descriptor_of(segment)
    except FormatError:
        return
    entries = [entry for entry in descriptor.entries() if wanted.wants_entry(entry.lsn, entry.block, entry.blocks)]
    if wanted.by_entry and not entries:
        return
    if as_json:
        print(json.dumps(_segment_object(segment, descriptor, state)))
        for entry in entries:
            print(json.dumps(_entry_object(segment, entry)))
    else:
        print(_segment_line(segment, descriptor, state))
        for entry in entries:
            print(_entry_line(entry))


def _segment_line(segment: Segment, descriptor: Descriptor, state: str) -> str:
    encoding = "raw" if descriptor.encoding == RAW else "zstd"
    return (
        f"segment LSN {segment.first_lsn}-{segment.end_lsn - 1} at byte {segment.offset}: {state}, generation "
        f"{segment.generation}, {moments.iso(segment.time_ns)}, {segment.page_count} pages in "
        f"{descriptor.payload_bytes} bytes {encoding}, committed {segment.committed}"
    )


def _entry_line(entry: Entry) -> str:
    if entry.checksum is not None:
        what = f"page block {entry.block}"
        checksum = f" xxh3 {entry.checksum:016x}"
    else:
        what = f"{KIND_NAMES[entry.kind]} blocks {entry.block}-{entry.block + entry.blocks - 1}"
        checksum = ""
    return f"  LSN {entry.lsn} {what} (byte {entry.block << PAGE_SHIFT}){checksum}"


def _segment_object(segment: Segment, descriptor: Descriptor, state: str) -> dict[str, Any]:
    return {
        "type": "segment",
        "volume": str(uuid.UUID(bytes=segment.uuid)),
        "first_lsn": segment.first_lsn,
        "end_lsn": segment.end_lsn,
        "offset": segment.offset,
        "state": state,
        "generation": segment.generation,
        "time": moments.iso(segment.time_ns),
        "time_ns": segment.time_ns,
        "boot": f"{descriptor.boot:08x}" if descriptor.boot else None,
        "boot_ns": descriptor.boot_ns,
        "version": descriptor.version,
        "pages": segment.page_count,
        "payload_bytes": descriptor.payload_bytes,
        "encoding": "raw" if descriptor.encoding == RAW else "zstd",
        "committed": segment.committed,
        "previous": f"{segment.previous:016x}",
        "checksum": f"{segment.checksum:016x}",
    }


def _entry_object(segment: Segment, entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": KIND_NAMES[entry.kind],
        "segment": segment.first_lsn,
        "lsn": entry.lsn,
        "block": entry.block,
        "offset": entry.block << PAGE_SHIFT,
        "blocks": entry.blocks,
    }
    if entry.checksum is not None:
        found["xxh3"] = f"{entry.checksum:016x}"
    return found
