# SPDX-License-Identifier: BSD-3-Clause
"""What can be recovered from a damaged log and what is lost, found without writing a byte.

The intact prefix of a log is the segments from `destaged` on, up to the first
that recovery could not follow. Single pages in it can be damaged; their blocks
stay as the origin has them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import LogRefusedError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, ZERO_PAGE_SUM, Descriptor
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, Superblock
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import apply_entries
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.log.survey import Segment, Survey
from wbcache_core.memory import moments
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.pairing import fingerprint, pairing
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.pairing.pairing import ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG
from wbcache_core.tools.offline_devices import ForgivingLog
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.salvage.lost_superblocks import (
    UNCERTAIN_LOG,
    Doubt,
    Start,
    find_start,
    last_whole_commit,
    told_later,
)
from wbcache_core.tools.salvage.segment_pages import damaged_pages
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT


class LostPage(NamedTuple):
    """The newest version of a block, damaged in the log. `on_origin`: the origin has it anyway."""

    lsn: int
    block: int
    generation: int
    time_ns: int
    on_origin: bool


@dataclass
class Plan:
    """See the module. LSNs: the prefix is [start_lsn, end_lsn); `known` is how far the log was durable."""

    slots: list[Superblock | None]
    superblock: Superblock | None
    survey: Survey
    uuid: bytes
    start_lsn: int
    prefix: list[Segment]
    end_lsn: int
    end_page: int
    known: int
    generation: int
    """The last commit that is complete in the prefix, and its time; 0 for none."""
    time_ns: int
    pages: list[LostPage]
    later: list[Segment]
    """Behind the damage."""
    ahead: list[LostPage]
    """Pages beyond the damage that an unfinished batch had already written to the origin."""
    doubts: list[Doubt]
    reasons: list[str]
    """What is wrong; empty for a log that needs no salvage."""
    spared_slot: int | None
    """See Start."""

    @property
    def end_offset(self) -> int:
        """Byte offset in the log of what follows the prefix."""
        return self.survey.offset_of(self.end_page)

    @property
    def next_lsn(self) -> int:
        """Higher than every LSN that was ever handed out, as far as that is known."""
        mine = self.survey.segments_of(self.uuid)
        return max([self.known, self.end_lsn, *(segment.end_lsn for segment in mine)])

    @property
    def unknown_lsns(self) -> list[range]:
        """The parts of [end_lsn, known) for which no segment was found."""
        gaps, lsn = [], self.end_lsn
        for segment in self.later:
            if segment.first_lsn > lsn:
                gaps.append(range(lsn, min(segment.first_lsn, self.known)))
            lsn = max(lsn, segment.end_lsn)
        return [gap for gap in [*gaps, range(lsn, self.known)] if gap]


def make_plan(log: ForgivingLog, origin: Device) -> Plan:
    """Raises LogRefusedError for a log that is beyond salvage or not this origin's, DeviceError."""
    slots = read_slots(log)
    superblock = newest(slots)
    data_pages = superblock.data_pages if superblock else max((log.size - DATA_START) // PAGE_BYTES, 0)
    with Progress("searching the log", data_pages << PAGE_SHIFT) as progress:
        survey = Survey(log, data_pages, progress.advance)
    if superblock is None:
        planner = _Planner(log, origin, slots, None, survey, find_start(log, origin, survey))
        plan = planner.plan()
        plan.reasons = _reasons(plan, log)
        plan.doubts += _doubts_about_pair(plan, log, origin)
        return plan
    pairing.check_size(superblock, origin, log)
    plan = _Planner(log, origin, slots, superblock, survey, _start_from(superblock, survey, None)).plan()
    reasons = _reasons(plan, log)
    told = told_later(log, survey, superblock) if reasons else None
    if told:
        # The older superblock also leads to everything, but needs more of the log to be intact.
        slot, later = told
        planner = _Planner(log, origin, slots, superblock, survey, _start_from(later, survey, slot), later)
        plan = planner.plan()
    plan.reasons = reasons
    plan.doubts += _doubts_about_pair(plan, log, origin)
    return plan


def _doubts_about_pair(plan: Plan, log: Device, origin: Device) -> list[Doubt]:
    """What the origin's mark and identity say against the pair, if the log holds anything."""
    side = OriginSide.of(origin)
    if not (plan.prefix or plan.reasons):
        return []
    doubts = []
    superblock = plan.superblock
    try:
        pairing.check_mark(side, plan.uuid, log.name, ())
    except LogRefusedError as error:
        doubts.append(Doubt(str(error), OTHER_LOG))
    for word, others in ((ORIGIN_CHANGED, (ORIGIN_MOVED,)), (ORIGIN_MOVED, (ORIGIN_CHANGED,))):
        try:
            if superblock:
                pairing.check_identity(superblock, side, log, others)
        except LogRefusedError as error:
            doubts.append(Doubt(str(error), word))
    return doubts


def _start_from(superblock: Superblock, survey: Survey, spared_slot: int | None) -> Start:
    chain = survey.chain_from(superblock)
    survey.forget_images(chain)
    return Start(
        superblock.uuid, chain, superblock.destaged, superblock.destaged_place % survey.data_pages,
        superblock.destaged_generation, superblock.destaged_time_ns, [], spared_slot,
    )  # fmt: skip


def _reasons(plan: Plan, log: ForgivingLog) -> list[str]:
    """Why the log is refused, or destaging is stalled."""
    reasons = []
    if plan.superblock is None:
        where = " and ".join(map(str, SLOT_OFFSETS))
        reasons.append(f"both superblocks, at bytes {where}, are damaged")
    elif log.size < plan.superblock.log_bytes:
        reasons.append(f"it has {log.size} bytes and was made with {plan.superblock.log_bytes}: it has been cut short")
    if plan.known > plan.end_lsn:
        reasons.append(
            f"at byte {plan.end_offset}, where LSN {plan.end_lsn} belongs, there is no sound segment, though the log "
            f"was durable up to LSN {plan.known - 1}"
        )
    if plan.pages:
        reasons.append(
            f"pages that fail their checksums: {len(plan.pages)}; destaging stops before LSN {plan.pages[0].lsn}"
        )
    if log.unreadable:
        where = ", ".join(map(str, sorted(log.unreadable)[:3])) + (", ..." if len(log.unreadable) > 3 else "")
        reasons.append(f"the device cannot be read at byte {where} ({len(log.unreadable)} pages)")
    return reasons


class _LoggedPage(NamedTuple):
    segment: Segment
    lsn: int
    block: int
    checksum: int


class _Planner:
    def __init__(
        self,
        log: ForgivingLog,
        origin: Device,
        slots: list[Superblock | None],
        superblock: Superblock | None,
        survey: Survey,
        start: Start,
        later: Superblock | None = None,
    ) -> None:
        """`later` is a damaged superblock that `start` was taken from."""
        self._log = log
        self._origin = origin
        self._slots = slots
        self._superblock = superblock
        self._later = later
        self._batch_end = max((known.batch_end for known in (superblock, later) if known), default=None)
        self._survey = survey
        self._start = start
        self._reader = LogReader(log, survey.data_pages, start.uuid)
        self._locations, self._later_locations = LocationMap(), LocationMap()
        self._damaged: list[_LoggedPage] = []

    def plan(self) -> Plan:
        """Raises WrongPairError, DeviceError."""
        start, survey = self._start, self._survey
        committed = {segment.committed for segment in survey.segments_of(start.uuid)}
        committed.add(self._superblock.committed if self._superblock else 0)
        known = max(committed)
        prefix = self._read_prefix(known)
        if self._superblock:
            pairing.check_rest_of_page(self._superblock, self._origin, self._log, self._locations)
        end_lsn, end_page = start.lsn, start.page
        if prefix:
            last = prefix[-1]
            end_lsn, end_page = last.end_lsn, (last.page + last.log_pages) % survey.data_pages
        later = [segment for segment in survey.segments_of(start.uuid) if segment.first_lsn >= end_lsn]
        goes_on = known > end_lsn and end_lsn not in committed
        generation, time_ns = last_whole_commit(prefix, later, goes_on) or (start.generation, start.time_ns)
        ahead = self._pages_ahead(later)
        doubts = [*start.doubts, *self._doubts(end_lsn), *self._doubts_about_torn(start.chain[len(prefix) :], ahead)]
        return Plan(
            self._slots, self._superblock, survey, start.uuid, start.lsn, prefix, end_lsn, end_page, known, generation,
            time_ns, self._lost_pages(), later, ahead, doubts, [], start.spared_slot,
        )  # fmt: skip

    @property
    def _is_last_superblock_valid(self) -> bool:
        return self._superblock is not None and self._later is None

    def _read_prefix(self, known: int) -> list[Segment]:
        """The chain up to a torn last write, which can only be at or above `known`; notes entries and bad pages."""
        prefix = []
        image = aligned_buffer(MAX_SEGMENT_PAGES << PAGE_SHIFT)
        chain = self._start.chain
        with Progress("verifying", sum(segment.log_pages for segment in chain) << PAGE_SHIFT) as progress:
            for segment in chain:
                descriptor = self._survey.descriptor_of(segment)
                bad = self._damaged_pages(segment, descriptor, image)
                if bad and segment.first_lsn >= known and not self._has_origin_the_rest(segment, image):
                    break
                apply_entries(descriptor, self._locations.set_page, self._locations.set_all)
                self._damaged += bad
                prefix.append(segment)
                progress.advance(segment.log_pages << PAGE_SHIFT)
        return prefix

    def _damaged_pages(self, segment: Segment, descriptor: Descriptor, image: memoryview) -> list[_LoggedPage]:
        bad = damaged_pages(self._reader, segment, descriptor, image)
        pages = [entry for entry in descriptor.entries() if entry.checksum is not None]
        return [
            _LoggedPage(segment, entry.lsn, entry.block, entry.checksum or 0)
            for entry in (pages[index] for index in bad)
        ]

    def _has_origin_the_rest(self, first: Segment, image: memoryview) -> bool:
        """Whether the origin has every page that the chain, from a segment that may be torn on, cannot give it.

        If a valid superblock was written last, its `committed` covers all that any batch took to the origin.
        """
        if self._is_last_superblock_valid:
            return False
        rest, damaged = LocationMap(), []
        for segment in self._start.chain[self._start.chain.index(first) :]:
            descriptor = self._survey.descriptor_of(segment)
            apply_entries(descriptor, rest.set_page, rest.set_all)
            damaged += self._damaged_pages(segment, descriptor, image)
        return all(self._is_on_origin(page) for page in damaged if rest.get(page.block) == page.lsn)

    def _lost_pages(self) -> list[LostPage]:
        """The damaged pages that nothing in the prefix replaces."""
        return [self._lost(page) for page in self._damaged if self._locations.get(page.block) == page.lsn]

    def _is_on_origin(self, page: _LoggedPage) -> bool:
        return fingerprint.sample_page(self._origin, page.block) == page.checksum

    def _lost(self, page: _LoggedPage) -> LostPage:
        segment = page.segment
        return LostPage(page.lsn, page.block, segment.generation, segment.time_ns, self._is_on_origin(page))

    def _pages_ahead(self, later: list[Segment]) -> list[LostPage]:
        """What an unfinished batch has written to the origin of what is beyond the damage.

        Blocks that the prefix writes again do not count, nor do pages of zeros, which may have any cause.
        """
        found: dict[int, LostPage] = {}
        for segment in later:
            if self._batch_end is not None and segment.first_lsn >= self._batch_end:
                continue
            descriptor = self._survey.descriptor_of(segment)
            apply_entries(descriptor, self._later_locations.set_page, self._later_locations.set_all)
            for entry in descriptor.entries():
                if entry.checksum in (None, ZERO_PAGE_SUM) or self._locations.get(entry.block):
                    continue
                page = self._lost(_LoggedPage(segment, entry.lsn, entry.block, entry.checksum or 0))
                if page.on_origin:
                    found[entry.block] = page
        return list(found.values())

    def _doubts(self, end_lsn: int) -> list[Doubt]:
        """What the origin's fingerprint says, and what an unfinished batch may have done to it."""
        superblock = self._superblock
        if superblock is None or self._batch_end is None:
            return [Doubt("whether later writes were on their way to the origin is not known")]
        doubts = []
        if self._log.size < superblock.log_bytes:
            doubts.append(Doubt("whether there was anything else in the part that has been cut off is not known"))
        if self._later:
            doubts.append(
                Doubt(
                    f"the superblock that was written last is damaged; that the origin has everything below LSN "
                    f"{self._later.destaged}, as what is left of it says, agrees with the segments"
                )
            )
        if self._batch_end > end_lsn:
            doubts.append(
                Doubt(
                    f"a batch up to LSN {self._batch_end - 1} was on its way to the origin: of writes beyond the "
                    "damage, only the pages listed here are known to have got there"
                )
            )
        changed = self._changed_blocks(superblock)
        if changed:
            where = ", ".join(str(block << PAGE_SHIFT) for block in changed)
            doubts.append(
                Doubt(
                    f"origin '{self._origin.name}' has changed behind its cache, at byte {where}: it was used without "
                    "it, or it is the wrong pair, or that belongs to what is lost",
                    ORIGIN_CHANGED,
                )
            )
        return doubts

    def _doubts_about_torn(self, torn: list[Segment], ahead: list[LostPage]) -> list[Doubt]:
        """Whether what the prefix leaves out of the chain is a torn write, or was on its way to the origin."""
        if self._is_last_superblock_valid or not torn:
            return []
        told_end = self._start.batch_end
        if told_end is not None and told_end <= torn[0].first_lsn:
            return []
        # A range, or a page of zeros, can be on the origin without a trace.
        clears = any(
            entry.checksum in (None, ZERO_PAGE_SUM)
            for segment in torn
            for entry in self._survey.descriptor_of(segment).entries()
        )
        if not (ahead or clears):
            return []
        return [
            Doubt(
                f"the end of the log, from LSN {torn[0].first_lsn} ({moments.words(torn[0].time_ns)}) on, is damaged "
                "or was torn by a crash, and the origin may have a part of it: then the result is no state that the "
                "volume ever had",
                UNCERTAIN_LOG,
            )
        ]

    def _changed_blocks(self, superblock: Superblock) -> list[int]:
        """Sampled blocks of the origin that are as in neither superblock."""
        changed = fingerprint.differing_blocks(
            self._origin, superblock.samples, self._is_written, superblock.origin_bytes
        )  # fmt: skip
        if self._later:
            later = self._later
            also = fingerprint.differing_blocks(self._origin, later.samples, self._is_written, later.origin_bytes)
            changed = [block for block in changed if block in also]
        return list(dict.fromkeys(changed))

    def _is_written(self, block: int) -> bool:
        return bool(self._locations.get(block) or self._later_locations.get(block))
