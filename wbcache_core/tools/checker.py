# SPDX-License-Identifier: BSD-3-Clause
"""Checks a log that no server holds, and its origin, without writing a byte.

A finding is something that no crash explains: damage, or a broken promise of
the format. A remark is something that a crash may leave and the next start
repairs: a torn last write, a torn superblock whose partner is intact.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DamagedLogError, DamagedPageError, DeviceError, LogRefusedError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, OLDEST_VERSION, Descriptor
from wbcache_core.format.superblock import SLOT_OFFSETS, Superblock
from wbcache_core.log.geometry import fit
from wbcache_core.log.reader import LogReader, page_views
from wbcache_core.log.recovery import Found, Recovered, from_oldest, recover
from wbcache_core.log.superblocks import newest
from wbcache_core.pairing import fingerprint, pairing
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.server.ring_memory import describe_uncommitted
from wbcache_core.units import PAGE_SHIFT, pages_of

_FIXED = ("log_bytes",)
_GROWING = (
    "origin_bytes", "oldest", "oldest_place", "destaged", "destaged_place", "destaged_generation", "batch_end",
    "committed",
)  # fmt: skip
"""Times are what the wall clock said, and may go back."""


@dataclass
class Report:
    """What a check found. `superblock` is None for a blank log and for one that cannot be used at all."""

    findings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    superblock: Superblock | None = None
    head: int = 0
    """Where the log ends; 0 if that is not known."""
    segment_count: int = 0
    page_count: int = 0


def examine(log: Device, origin: Device | None = None) -> Report:
    """Everything that can be said about a log and, if given, its origin. Raises only internal errors."""
    report = Report()
    try:
        slots = pairing.read_log(log)
        if slots:
            _Check(log, slots, report).run(origin)
    except (LogRefusedError, DeviceError) as error:
        report.findings.append(str(error))
    return report


def _end_place(found: Found) -> int:
    return found.place + found.descriptor.log_pages


def _last_whole_generation(segments: list[Found], lsn: int) -> tuple[int, int] | None:
    """Number and time of the last commit whose segments all end at or below lsn; None if it is not among them."""
    going_on = {found.descriptor.generation for found in segments if found.descriptor.end_lsn > lsn}
    for found in reversed(segments):
        descriptor = found.descriptor
        if descriptor.end_lsn <= lsn and descriptor.generation not in going_on:
            return descriptor.generation, descriptor.time_ns
    return None


def _groups(segments: list[Found]) -> Iterator[list[Found]]:
    """Neighbouring segments, with no more pages together than the largest segment has."""
    group: list[Found] = []
    for found in segments:
        if group and found.descriptor.end_lsn - group[0].descriptor.first_lsn > MAX_SEGMENT_PAGES:
            yield group
            group = []
        group.append(found)
    if group:
        yield group


class _Check:
    """One log that has at least one valid superblock."""

    def __init__(self, log: Device, slots: list[Superblock | None], report: Report) -> None:
        superblock = newest(slots)
        assert superblock
        self._log = log
        self._slots = slots
        self._report = report
        self._superblock = report.superblock = superblock
        self._reader = LogReader(log, superblock.data_pages, superblock.uuid)
        self._image = aligned_buffer(MAX_SEGMENT_PAGES << PAGE_SHIFT)

    def run(self, origin: Device | None) -> None:
        """Raises LogRefusedError, DeviceError for what keeps the check from going on."""
        start = self._check_slots()
        recovered, segments = self._recover(start)
        self._report.head = recovered.head
        self._report.segment_count = len(segments)
        self._report.page_count = recovered.page_count
        if recovered.discarded_lsn is not None:
            self._report.remarks.append(
                f"a last commit, from LSN {recovered.discarded_lsn} on, is incomplete: it was being written when the "
                "server ended and no flush covers it, or the log has been damaged since; the next start leaves it out"
            )
        uncommitted = describe_uncommitted(self._log.name, self._superblock, recovered)
        if uncommitted:
            self._report.remarks.append(uncommitted)
        self._check_cursors(recovered, segments)
        for before, after in pairwise(segments):
            self._check_order(before, after)
        if segments and _end_place(segments[-1]) - segments[0].place > self._superblock.data_pages:
            self._find("the segments take more than the whole log: the last ones have overwritten the first ones")
        for found in segments:
            self._check_entries(found.descriptor)
        for group in _groups(segments):
            self._check_pages(group)
        if origin:
            self._check_origin(origin, recovered)

    def _find(self, sentence: str) -> None:
        self._report.findings.append(sentence)

    def _check_slots(self) -> Superblock:
        """Compare the superblocks; returns the one from which the log can be followed from further back."""
        for slot, superblock in enumerate(self._slots):
            if superblock is None:
                self._report.remarks.append(
                    f"the superblock at byte {SLOT_OFFSETS[slot]} is not valid: torn by a crash, or damaged; "
                    "the other one is, and the next start writes both"
                )
            elif superblock.sequence % len(SLOT_OFFSETS) != slot:
                self._find(f"the superblock at byte {SLOT_OFFSETS[slot]} has sequence number {superblock.sequence}")
        new = self._superblock
        old = min((slot for slot in self._slots if slot), key=lambda slot: slot.sequence)
        if old.uuid != new.uuid:
            self._report.remarks.append("the superblocks are of two logs: a crash interrupted force=discard-log")
            return new
        if old is not new and old.sequence + 1 != new.sequence:
            self._find(f"the superblocks have sequence numbers {old.sequence} and {new.sequence}: one is missing")
        for name in _FIXED:
            if getattr(old, name) != getattr(new, name):
                self._find(f"the superblocks disagree: {name} is {getattr(old, name)} and {getattr(new, name)}")
        for name in _GROWING:
            if getattr(old, name) > getattr(new, name):
                self._find(f"{name} went back from {getattr(old, name)} to {getattr(new, name)} between superblocks")
        return old

    def _recover(self, start: Superblock) -> tuple[Recovered, list[Found]]:
        """The chain from the oldest LSN that a superblock promises, or, if that is broken, from `destaged` on.

        Raises DamagedLogError if the part that the origin needs is broken.
        """
        for superblock in (start, self._superblock):
            if superblock.oldest == superblock.destaged:
                return self._follow(superblock)
            earlier = from_oldest(self._reader, superblock)
            if earlier:
                with contextlib.suppress(DamagedLogError):
                    return self._follow(earlier)
            self._find(
                f"the clean part of the log from LSN {superblock.oldest} on is not whole, though superblock "
                f"{superblock.sequence} says so; the origin has all of it"
            )
        return self._follow(self._superblock)

    def _follow(self, superblock: Superblock) -> tuple[Recovered, list[Found]]:
        segments: list[Found] = []
        return recover(self._log, self._reader, superblock, segments), segments

    def _check_cursors(self, recovered: Recovered, segments: list[Found]) -> None:
        """Check that each cursor of each superblock is where a segment begins or the log ends, and agrees with the
        segment before it."""
        ends = {found.descriptor.end_lsn: found for found in segments}
        bounds = {found.descriptor.first_lsn for found in segments} | {recovered.head}
        for superblock in filter(None, self._slots):
            if superblock.uuid != self._superblock.uuid:
                continue
            for name in ("destaged", "batch_end", "committed"):
                lsn = getattr(superblock, name)
                if lsn > recovered.head or (lsn >= min(bounds) and lsn not in bounds):
                    self._find(f"superblock {superblock.sequence}: {name} is {lsn}, which is not the end of a segment")
            self._check_tags(superblock, segments)
            before = ends.get(superblock.destaged)
            whole = _last_whole_generation(segments, superblock.destaged)
            stated = superblock.destaged_generation, superblock.destaged_time_ns
            if superblock.batch_end > superblock.destaged and whole and stated < whole:
                # The origin lacks something that is later in the log.
                whole = None
            if before and (
                (superblock.destaged_place, superblock.destaged_previous)
                != (_end_place(before), before.descriptor.checksum)
                or (whole and stated != whole)
            ):
                self._find(
                    f"superblock {superblock.sequence} does not agree with the segment before `destaged` (LSN "
                    f"{before.descriptor.first_lsn} at {self._byte(before)}) on place, checksum, generation or time"
                )

    def _check_tags(self, superblock: Superblock, segments: list[Found]) -> None:
        """Check that each tag names a generation of the log, with the right end and time."""
        known = {superblock.destaged: (superblock.destaged_generation, superblock.destaged_time_ns)}
        for found in segments:
            known[found.descriptor.end_lsn] = (found.descriptor.generation, found.descriptor.time_ns)
        going_on = {one.descriptor.generation: one.descriptor.end_lsn for one in segments}
        for tag in superblock.tags:
            ends_there = known.get(tag.end_lsn) == (tag.generation, tag.time_ns)
            if not ends_there or going_on.get(tag.generation, tag.end_lsn) != tag.end_lsn:
                self._find(
                    f"superblock {superblock.sequence}: the tag '{tag.name}' is for generation {tag.generation}, up to "
                    f"LSN {tag.end_lsn}, which is not where a generation of that number and time ends"
                )

    def _byte(self, found: Found) -> str:
        return f"byte {self._reader.offset_of(found.place)}"

    def _check_order(self, before: Found, after: Found) -> None:
        """Check what must hold between two neighbours of the chain."""
        old, new = before.descriptor, after.descriptor
        where = f"segment with LSN {new.first_lsn} at {self._byte(after)}"
        if after.place != fit(_end_place(before), new.log_pages, self._superblock.data_pages):
            expected = self._reader.offset_of(_end_place(before))
            self._find(f"{where}: belongs at byte {expected}, behind the one before it")
        if new.generation == old.generation:
            if (new.reading, new.committed) != (old.reading, old.committed):
                self._find(f"{where}: time or `committed` differ within generation {new.generation}")
            return
        if new.generation != old.generation + 1:
            self._find(f"{where}: generation {new.generation} follows generation {old.generation}")
        if new.version < old.version:
            self._find(f"{where}: is of version {new.version}, behind one of version {old.version}")
        if new.version == OLDEST_VERSION and new.time_ns <= old.time_ns:
            self._find(f"{where}: generation {new.generation} is not later than the one before it")
        if new.committed < old.end_lsn:
            # The previous commit was synced before this one was written.
            self._find(f"{where}: says committed={new.committed}, but LSN {old.first_lsn} was committed before it")

    def _check_entries(self, descriptor: Descriptor) -> None:
        blocks = pages_of(self._superblock.origin_bytes)
        for entry in descriptor.entries():
            if entry.block + entry.blocks > blocks or entry.blocks == 0:
                self._find(
                    f"segment with LSN {descriptor.first_lsn}: an entry of {entry.blocks} blocks at block "
                    f"{entry.block} is not within the volume of {blocks} blocks"
                )

    def _check_pages(self, segments: list[Found]) -> None:
        """Check the checksums of all pages, compressed or not, of segments that fit the image."""
        start = segments[0].descriptor.first_lsn
        try:
            self._reader.load(
                [found.located for found in segments], segments[-1].descriptor.end_lsn, self._image, start
            )  # fmt: skip
        except DamagedPageError:
            if len(segments) == 1:
                self._find_bad_pages(segments[0], None)
            else:
                for found in segments:
                    self._check_pages([found])
            return
        for found in segments:
            at = found.descriptor.first_lsn + 1 - start
            self._find_bad_pages(found, self._image[at << PAGE_SHIFT : at + found.descriptor.page_count << PAGE_SHIFT])

    def _find_bad_pages(self, found: Found, pages: memoryview | None) -> None:
        """Findings for the pages of a segment that fail their checksum; all of them if it cannot be decompressed."""
        descriptor = found.descriptor
        expected = descriptor.page_sums
        sums = list(map(xxh3_64_intdigest, page_views(pages))) if pages is not None else None
        if sums == list(expected):
            return
        for index, block in enumerate(descriptor.page_blocks):
            if sums is None or sums[index] != expected[index]:
                lsn = descriptor.first_lsn + 1 + index
                # Pages below `destaged` are only copies, or were skipped because their block was written again.
                loss = "nothing needs it any more" if lsn < self._superblock.destaged else "its data is lost"
                self._find(
                    f"the page with LSN {lsn} (block {block}, in the segment at {self._byte(found)}, generation "
                    f"{descriptor.generation}) cannot be read back as it was written; {loss}"
                )

    def _check_origin(self, origin: Device, recovered: Recovered) -> None:
        """Check that the origin is as the log left it wherever the log is not going to overwrite it."""
        superblock, locations = self._superblock, recovered.locations
        pairing.check_size(superblock, origin, self._log)
        changed = fingerprint.differing_blocks(
            origin, superblock.samples, lambda block: pairing.lacks(superblock, locations, block),
            superblock.origin_bytes,
        )  # fmt: skip
        # A clean log is served anyway: it holds nothing that the origin lacks.
        told = self._find if recovered.head > superblock.destaged else self._report.remarks.append
        side = OriginSide.of(origin)
        pairing.check_mark(side, superblock.uuid, self._log.name, ())
        try:
            pairing.check_identity(superblock, side, self._log, ())
        except LogRefusedError as error:
            told(str(error))
        for block in dict.fromkeys(changed):
            told(
                f"the origin has changed behind its cache: block {block} at byte {block << PAGE_SHIFT} is not as the "
                "cache last wrote it"
            )
