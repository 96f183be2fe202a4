# SPDX-License-Identifier: BSD-3-Clause
"""Where to begin in a log both of whose superblocks are damaged, and whether an origin seems to be its own.

The segments say where the log ends; only the superblocks said what the origin
already has. To replay that again is harmless, because everything that followed
is replayed too. The remains of a damaged superblock are believed if a segment
confirms them.
"""

import uuid
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import FormatError, SuperblockError, WrongPairError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, ZERO_PAGE_SUM
from wbcache_core.format.superblock import SLOT_OFFSETS, Superblock, decode
from wbcache_core.log.survey import Segment, Survey
from wbcache_core.memory import moments
from wbcache_core.pairing.fingerprint import sample_page, sampled_blocks
from wbcache_core.pairing.pairing import ORIGIN_CHANGED
from wbcache_core.tools.offline_devices import ForgivingLog
from wbcache_core.units import PAGE_BYTES, pages_of

UNCERTAIN_LOG = "uncertain-log"

_COMPARED_BLOCKS = 64


class Doubt(NamedTuple):
    """What is not known, as a sentence; `force` is the word that accepts it if that is required, otherwise empty."""

    sentence: str
    force: str = ""


class Start(NamedTuple):
    """Where to begin: the segments from there on, and the cursor as in a superblock.

    `page` is where in the data area the first segment is or would be. `spared_slot` is the damaged superblock that said
    so, to be overwritten last; any slot if none did, None if a valid superblock says everything.
    """

    uuid: bytes
    chain: list[Segment]
    lsn: int
    page: int
    generation: int
    time_ns: int
    doubts: list[Doubt]
    spared_slot: int | None
    batch_end: int | None = None
    """Up to where the origin can have parts of the log, if that is known without a valid superblock."""


class _Hint(NamedTuple):
    """A damaged superblock that is plausible, with nothing in it certain."""

    slot: int
    superblock: Superblock


def _read_hints(log: Device) -> list[_Hint]:
    """Raises DeviceError."""
    hints = []
    for slot, offset in enumerate(SLOT_OFFSETS):
        page = aligned_buffer(PAGE_BYTES)
        log.read_uncached_into(page, offset)
        page[-8:] = xxh3_64_intdigest(page[:-8]).to_bytes(8, "little")
        try:
            hints.append(_Hint(slot, decode(page)))
        except FormatError:
            continue
    return hints


def told_later(log: ForgivingLog, survey: Survey, superblock: Superblock) -> tuple[int, Superblock] | None:
    """(Slot, damaged superblock) that is further on than the valid one, confirmed by a segment. Raises DeviceError.

    It was written only after the origin had everything below its `destaged`.
    """
    ends = {
        (segment.end_lsn, segment.checksum, (segment.page + segment.log_pages) % survey.data_pages)
        for segment in survey.segments_of(superblock.uuid)
    }
    for slot, hint in _read_hints(log):
        end = hint.destaged, hint.destaged_previous, hint.destaged_place % survey.data_pages
        if hint.uuid == superblock.uuid and hint.destaged > superblock.destaged and end in ends:
            return slot, hint
    return None


def find_start(log: ForgivingLog, origin: Device, survey: Survey) -> Start:
    """Raises SuperblockError where there is no segment, WrongPairError, DeviceError."""
    hints = _read_hints(log)
    chain = _choose_chain(log, survey, hints)
    volume = chain[-1].uuid
    doubts = _doubts_about_volume(volume, survey.volumes - {volume}, hints)
    hints = [hint for hint in hints if hint.superblock.uuid == volume]
    doubts += _doubts_about_origin(log, origin, survey, chain, hints)
    told = _told_start(chain, hints)
    doubts += [_doubt_about_start(log, survey, chain, told is not None), _doubt_about_end(chain, hints)]
    index, slot = told or (0, 0)
    generation, time_ns = last_whole_commit(chain[:index], chain[index:], False) or (0, 0)
    batch_end = _told_batch_end(chain, hints)
    if index == 0:
        first = chain[0]
        generation, time_ns = first.generation - 1, first.time_ns
        return Start(volume, chain, first.first_lsn, first.page, generation, time_ns, doubts, slot, batch_end)
    before = chain[index - 1]
    page = (before.page + before.log_pages) % survey.data_pages
    return Start(volume, chain[index:], before.end_lsn, page, generation, time_ns, doubts, slot, batch_end)


def last_whole_commit(chain: list[Segment], following: list[Segment], goes_on: bool) -> tuple[int, int] | None:
    """Generation and time of the last commit that is complete in a chain; None if there is none.

    goes_on: something after the chain is missing, which may belong to its last commit.
    """
    for last in reversed(chain):
        if not (last.is_full and (goes_on or any(segment.generation == last.generation for segment in following))):
            return last.generation, last.time_ns
        following, goes_on = [last], False
    return None


def _choose_chain(log: ForgivingLog, survey: Survey, hints: list[_Hint]) -> list[Segment]:
    """The segments of the volume that used the log last, up to its newest one."""
    chains = []
    for volume in survey.volumes:
        # By generation first: what a crash tore and recovery left out can have higher LSNs.
        chains.append(survey.chain_to(_last_written(survey.segments_of(volume))))
    # A volume within the data of another is a copy that somebody cached.
    for chain in sorted(chains, key=lambda chain: sum(segment.log_pages for segment in chain), reverse=True):
        if chain[-1] in survey:
            survey.forget_images(chain)
    chains = [chain for chain in chains if chain[-1] in survey]
    if not chains:
        raise SuperblockError(
            f"log '{log.name}' has no valid superblock and no valid segment with data: there is nothing to salvage"
        )
    hinted = {hint.superblock.uuid for hint in hints}
    return max(chains, key=lambda chain: (chain[-1].uuid in hinted, chain[-1].time_ns))


def _last_written(segments: list[Segment]) -> Segment:
    """The segments of the newest generation. If a crash left two attempts at it: of the later one, by its epoch, or
    else by the time since boot, if the boot was the same."""
    newest = max(segment.generation for segment in segments)
    attempts = [segment for segment in segments if segment.generation == newest]
    is_one_boot = len({segment.time.boot for segment in attempts}) == 1
    return max(
        attempts,
        key=lambda one: (one.epoch.number, one.time.boot_ns if is_one_boot else 0, one.time_ns, one.first_lsn),
    )


def _doubts_about_volume(volume: bytes, others: set[bytes], hints: list[_Hint]) -> list[Doubt]:
    """Whether the log still belonged to this volume when the superblocks were damaged."""
    taken = f"segments of volume {_name(volume)}, which wrote last"
    if hints and volume not in {hint.superblock.uuid for hint in hints}:
        return [
            Doubt(
                f"there are {taken}, but a damaged superblock seems to name another volume, "
                f"{_name(hints[-1].superblock.uuid)}, of which there is no segment: the log may have been formatted "
                "anew, and what it held before given up on purpose",
                UNCERTAIN_LOG,
            )
        ]
    if not others:
        return [Doubt(f"taken are {taken}; whether the log was formatted anew since, and this given up, is not known")]
    return [
        Doubt(
            f"taken are {taken}; there are some of {', '.join(map(_name, sorted(others)))} too; whether the log was "
            "formatted anew since, and this given up, is not known"
        )
    ]


def _name(volume: bytes) -> str:
    return str(uuid.UUID(bytes=volume))


def _told_start(chain: list[Segment], hints: list[_Hint]) -> tuple[int, int] | None:
    """(Index in the chain, slot): what a damaged superblock says about the beginning, confirmed by the segments."""
    bounds = {(segment.first_lsn, segment.previous): index for index, segment in enumerate(chain)}
    bounds[chain[-1].end_lsn, chain[-1].checksum] = len(chain)
    told = []
    for slot, superblock in hints:
        index = bounds.get((superblock.destaged, superblock.destaged_previous))
        if index is not None:
            told.append((index, slot))
    return max(told, default=None)


def _told_batch_end(chain: list[Segment], hints: list[_Hint]) -> int | None:
    """How far any batch went, if something is left of both superblocks, and the segments agree: only the later one
    knows."""
    bounds = {chain[0].first_lsn, *(segment.end_lsn for segment in chain)}
    ends = {hint.superblock.batch_end for hint in hints}
    return max(ends) if len(hints) == len(SLOT_OFFSETS) and ends <= bounds else None


def _doubt_about_start(log: ForgivingLog, survey: Survey, chain: list[Segment], is_told: bool) -> Doubt:
    if is_told:
        return Doubt(
            "what is left of a superblock agrees with the segments about how far the origin was written, so nothing is "
            "missing at the beginning"
        )
    first = chain[0]
    if first.first_lsn == 1:
        return Doubt("the segments reach back to the first one ever written, so nothing is missing at the beginning")
    if _is_overwritten(log, survey, chain):
        return Doubt(
            f"what came before LSN {first.first_lsn} has been overwritten by what followed, which happens only to what "
            "the origin has, so nothing is missing at the beginning"
        )
    return Doubt(
        f"the segment before LSN {first.first_lsn} ({moments.words(first.time_ns)}) is damaged or missing, and whether "
        "the origin had it already is not known: if not, the result is no state that the volume ever had",
        UNCERTAIN_LOG,
    )


def _is_overwritten(log: ForgivingLog, survey: Survey, chain: list[Segment]) -> bool:
    """Whether the newest segment ends directly before the oldest, with no other segment in between."""
    end = chain[-1].page + chain[-1].log_pages
    gap = (chain[0].page - end) % survey.data_pages
    # Pages before the end of the log may be unused, and the predecessor may reach into the gap.
    if gap > 2 * MAX_SEGMENT_PAGES:
        return False
    pages = [page % survey.data_pages for page in range(end, end + gap)]
    return not any(survey.was_descriptor(page) or survey.offset_of(page) in log.unreadable for page in pages)


def _doubt_about_end(chain: list[Segment], hints: list[_Hint]) -> Doubt:
    last = chain[-1]
    sentence = f"whether anything was written after LSN {last.end_lsn - 1} ({moments.words(last.time_ns)}) is not known"
    known = max((hint.superblock.committed for hint in hints), default=0)
    if known > last.end_lsn:
        sentence += f"; a damaged superblock seems to say that LSN {known - 1} was durable"
    return Doubt(sentence)


def _doubts_about_origin(
    log: ForgivingLog, origin: Device, survey: Survey, chain: list[Segment], hints: list[_Hint]
) -> list[Doubt]:
    """Whether the origin seems to be the log's. Raises WrongPairError if it cannot be."""
    evidence = _Evidence(origin, survey, chain, hints)
    if evidence.end_block > pages_of(origin.size):
        raise WrongPairError(
            f"log '{log.name}' holds data for blocks up to {evidence.end_block - 1}, and origin '{origin.name}' ends "
            f"at block {pages_of(origin.size) - 1}: it is the wrong pair, or the origin was made smaller; nothing has "
            "been changed"
        )
    matching, compared = evidence.matching_pages()
    unchanged, sampled = evidence.matching_samples()
    if matching or unchanged * 4 > sampled * 3:
        return [
            Doubt(
                f"the origin seems to be the right one: {matching} of {compared} pages compared are on it as the log "
                f"has them, {unchanged} of {sampled} as a damaged superblock recorded them; that nobody changed it "
                "behind the cache is not known"
            )
        ]
    return [
        Doubt(
            f"nothing tells that origin '{origin.name}' belongs to the log: none of {compared} pages compared is on it "
            "as the log has it; it may be the wrong one, or the log was never written to it",
            ORIGIN_CHANGED,
        )
    ]


class _Evidence:
    """What the segments say about the origin, gathered in one pass over their entries."""

    def __init__(self, origin: Device, survey: Survey, chain: list[Segment], hints: list[_Hint]) -> None:
        self._origin = origin
        self.end_block = 0
        self._versions: dict[int, set[int]] = {}
        self._fitting = [hint.superblock for hint in hints if 0 < hint.superblock.origin_bytes <= origin.size]
        self._sampled = {block for one in self._fitting for block in sampled_blocks(one.origin_bytes)}
        self._written: set[int] = set()
        for segment in chain:
            # The oldest blocks are the most likely to have reached the origin.
            for entry in survey.descriptor_of(segment).entries():
                self.end_block = max(self.end_block, entry.block + entry.blocks)
                if entry.checksum is None:
                    self._written |= {block for block in self._sampled if 0 <= block - entry.block < entry.blocks}
                    continue
                if entry.block in self._sampled:
                    self._written.add(entry.block)
                if entry.block in self._versions or len(self._versions) < _COMPARED_BLOCKS:
                    self._versions.setdefault(entry.block, set()).add(entry.checksum)

    def matching_pages(self) -> tuple[int, int]:
        """How many of how many blocks of the origin are as in some segment; zeros prove nothing."""
        compared = {block: sums for block, sums in self._versions.items() if sums != {ZERO_PAGE_SUM}}
        found = [sample_page(self._origin, block) for block in compared]
        return sum(
            sum_ in sums and sum_ != ZERO_PAGE_SUM for sum_, sums in zip(found, compared.values(), strict=True)
        ), len(compared)

    def matching_samples(self) -> tuple[int, int]:
        """How many of how many pages are as a damaged superblock recorded them, for an origin of at most this size."""
        if not self._fitting:
            return 0, 0
        size, samples = self._fitting[-1].origin_bytes, self._fitting[-1].samples
        recorded = zip(sampled_blocks(size), samples, strict=True)
        wanted = {block: sum_ for block, sum_ in recorded if block not in self._written and sum_ != ZERO_PAGE_SUM}
        return sum(sample_page(self._origin, block, size) == sum_ for block, sum_ in wanted.items()), len(wanted)
