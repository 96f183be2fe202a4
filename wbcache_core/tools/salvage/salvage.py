# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache salvage`: makes a pair with a damaged log usable again, up to the damage.

Nothing that the log holds is given up until the origin has everything that can
be recovered: until then a killed salvage is simply started again, from the same
segments. Then new superblocks, of a new volume, are written one after another;
as soon as one is complete, the log is sound, and empty.
"""

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.device.shared_memory import path_of
from wbcache_core.errors import ConfigError, DeviceError, LogRefusedError, ReadOnlyError, WbcacheError
from wbcache_core.flow.bad_blocks import most_bad_blocks
from wbcache_core.flow.batch import Clear, DestageBatch
from wbcache_core.flow.origin_writer import OriginWriter
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.format.superblock import DATA_START, MIN_LOG_BYTES, Superblock
from wbcache_core.log.reader import LogReader
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.survey import Segment
from wbcache_core.pairing import fingerprint, pairing
from wbcache_core.pairing.mark import CLEAN, DIRTY, OriginSide
from wbcache_core.server.config import Config
from wbcache_core.tools.offline_devices import ForgivingLog, opened_origin
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.salvage.plan import Plan, make_plan
from wbcache_core.tools.salvage.report import as_object, lines
from wbcache_core.tools.salvage.segment_pages import load
from wbcache_core.tools.standard_streams import say, tell
from wbcache_core.units import GIB, MIB, PAGE_BYTES, PAGE_SHIFT

_BATCH_LSNS = 16 * MIB >> PAGE_SHIFT


def run_salvage(path: str, origin: str, yes: bool, force: frozenset[str], as_json: bool) -> int:
    """Print what is found and done; returns the exit status. Raises WbcacheError if it cannot be examined, and
    CopyError."""
    with ExitStack() as stack:
        log = ForgivingLog(path, read_only=not yes)
        stack.callback(log.close)
        claimed_at = time.monotonic()
        device = stack.enter_context(opened_origin(origin, log, read_only=not yes))
        if _is_blank(log):
            if as_json:
                print(json.dumps({"needed": False, "reasons": []}))
            _say(f"log '{path}' is blank: there is nothing to salvage")
            return 0
        plan = make_plan(log, device)
        if as_json:
            print(json.dumps(as_object(plan), indent=2))
        elif plan.reasons:
            say("\n".join(lines(plan, path)))
        ring = path_of(plan.uuid)
        if plan.reasons and os.path.exists(ring):
            _say(
                f"what a server that was killed had acknowledged last may be in memory, in '{ring}'; it cannot be "
                "joined to a damaged log: salvage gives it up; remove that file afterwards"
            )
        if not plan.reasons:
            return _not_needed(plan, path, origin)
        missing = sorted({doubt.force for doubt in plan.doubts if doubt.force} - force)
        if plan.superblock and yes:
            pairing.check_no_copy(plan.superblock, log, force)
        if missing or not yes:
            return _stop_here(path, origin, sorted(force.union(missing)), yes)
        try:
            carry_out(plan, log, device, claimed_at)
        except WbcacheError as error:
            _say(f"{error}; it is not finished: when the cause is gone, run the same command again")
            return 1
        _say(f"log '{path}' is sound again, and empty: the pair can be served; check its file systems first (fsck)")
        return 0


def _say(sentence: str) -> None:
    tell(f"wbcache: {sentence}")


def _is_blank(log: ForgivingLog) -> bool:
    """Raises DeviceError."""
    try:
        return pairing.read_log(log) is None
    except LogRefusedError:
        return False


def _not_needed(plan: Plan, path: str, origin: str) -> int:
    wrong = [doubt.sentence for doubt in plan.doubts if doubt.force]
    for sentence in wrong:
        _say(sentence)
    what_next = f"to write what it holds to the origin: wbcache replay '{path}' '{origin}'"
    if wrong:
        words = sorted({doubt.force for doubt in plan.doubts if doubt.force})
        what_next += f" --force={','.join(words)}, if that is what you want"
    _say(f"log '{path}' is not damaged: nothing to salvage; {what_next}")
    return 1 if wrong else 0


def _stop_here(path: str, origin: str, force: list[str], yes: bool) -> int:
    accept = f" --force={','.join(force)}" if force else ""
    _say(
        "nothing has been changed"
        + (", because of what is not known" if yes else "")
        + "; if you can, copy log and origin first; to destage up to the damage, give up the rest and make the pair "
        f"usable again: wbcache salvage --yes{accept} '{path}' '{origin}'"
    )
    return 1


def carry_out(plan: Plan, log: ForgivingLog, origin: Device, claimed_at: float) -> None:
    """Write the prefix to the origin and make the log a new, empty one. If it raises WbcacheError, run it again.

    The log was claimed at that time of time.monotonic(): no server has used it since.
    """
    for device in (log, origin):
        if not device.writable:
            raise ReadOnlyError(
                f"'{device.name}' cannot be written; nothing has been changed; make it writable, or salvage a copy"
            )
    log_bytes = _size_of_new_log(plan, log)
    # The server of this log may have been killed a moment before. Writes to the origin wait for that.
    origin.suspect_requests(claimed_at)
    if plan.spared_slot is None:
        store = SuperblockStore(log, plan.slots)
        if store.current.batch_end < plan.end_lsn:
            # Past moments end: the new log begins after them.
            store.write(batch_end=plan.end_lsn, tags=())
    else:
        # The store continues from a superblock that is not on the device; its successor spares the slot.
        store = SuperblockStore(log, [_new_superblock(plan, log_bytes, origin), None])
    side = OriginSide.of(origin)
    side.put(plan.uuid, log.name, DIRTY)
    _replay(plan, log, origin)
    if log.size < log_bytes:
        log.grow(log_bytes)
    new = _new_superblock(plan, log_bytes, origin)
    fresh = {one.name: getattr(new, one.name) for one in dataclasses.fields(new)}
    for name in ("sequence", "written_ns"):
        del fresh[name]
    for _ in range(2):
        store.write(**fresh)
    side.put(fresh["uuid"], log.name, CLEAN)
    _clear(log, log_bytes)


def _new_superblock(plan: Plan, log_bytes: int, origin: Device) -> Superblock:
    """The superblock of a new volume, whose line continues beyond everything that the old one may have held. Raises
    DeviceError."""
    lsn = plan.next_lsn
    return Superblock(
        uuid=uuid.uuid4().bytes,
        sequence=plan.spared_slot or 0,
        log_bytes=log_bytes,
        origin_bytes=origin.size,
        origin_name=origin.name,
        origin_facts=OriginSide.of(origin).facts,
        samples=fingerprint.take(origin),
        oldest=lsn,
        destaged=lsn,
        destaged_generation=plan.generation,
        destaged_time_ns=plan.time_ns,
        batch_end=lsn,
        committed=lsn,
    )


def _size_of_new_log(plan: Plan, log: ForgivingLog) -> int:
    """As it was formatted; a file that has been cut short is extended. Raises ConfigError if a device is too small."""
    usable = log.size - log.size % PAGE_BYTES
    wanted = plan.superblock.log_bytes if plan.superblock else max(usable, MIN_LOG_BYTES)
    if log.size >= wanted or os.path.isfile(log.name):
        return wanted
    if usable < MIN_LOG_BYTES:
        raise ConfigError(
            f"log '{log.name}' has only {log.size} bytes left and needs {MIN_LOG_BYTES}; copy it to a larger device"
        )
    return usable


def _replay(plan: Plan, log: ForgivingLog, origin: Device) -> None:
    """Write the prefix to the origin, in order, except the blocks of damaged pages. Raises DeviceError, FormatError."""
    reader = LogReader(log, plan.survey.data_pages, plan.uuid)
    writer = OriginWriter(origin, lambda: False, most_bad_blocks(plan.survey.data_pages))
    refused: dict[int, DeviceError] = {}
    image = aligned_buffer(_BATCH_LSNS + MAX_SEGMENT_PAGES << PAGE_SHIFT)
    spared = sorted({page.block for page in plan.pages})
    try:
        with Progress("destaging", plan.end_lsn - plan.start_lsn << PAGE_SHIFT) as progress:
            for segments in _batches(plan.prefix):
                batch = _load_batch(plan, reader, segments, image)
                _spare(batch, spared)
                writer.write(batch, Config().destage_depth)
                refused = {block: error for block, error in refused.items() if not batch.has(block)} | writer.refused
                progress.update(batch.end_lsn - plan.start_lsn << PAGE_SHIFT)
    finally:
        writer.close()
    if refused:
        (first, error), *others = sorted(refused.items())
        raise DeviceError(
            f"{error} (byte {first << PAGE_SHIFT}{f' and {len(others)} more blocks' if others else ''}); everything "
            "else is on the origin, and the log is as it was", error.errno_value
        )  # fmt: skip


def _batches(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Segments in order, together at most _BATCH_LSNS plus one segment."""
    taken: list[Segment] = []
    for segment in segments:
        taken.append(segment)
        if segment.end_lsn - taken[0].first_lsn >= _BATCH_LSNS:
            yield taken
            taken = []
    if taken:
        yield taken


def _load_batch(plan: Plan, reader: LogReader, segments: list[Segment], image: memoryview) -> DestageBatch:
    start = segments[0].first_lsn
    descriptors = []
    for segment in segments:
        descriptor = plan.survey.descriptor_of(segment)
        load(reader, segment, descriptor, image[segment.first_lsn - start << PAGE_SHIFT :][: _image_bytes(descriptor)])
        descriptors.append(descriptor)
    return DestageBatch(start, image[: descriptors[-1].end_lsn - start << PAGE_SHIFT], descriptors)


def _image_bytes(descriptor: Descriptor) -> int:
    return 1 + descriptor.page_count << PAGE_SHIFT


def _spare(batch: DestageBatch, blocks: list[int]) -> None:
    """Leave out these blocks, and the damaged pages that a later segment replaces."""
    for block in blocks:
        with suppress(KeyError):
            batch.leave_out(block)
    for _, block in batch.bad_pages():
        batch.leave_out(block)
    batch.clears[:] = [piece for clear in batch.clears for piece in _without(clear, blocks)]


def _without(clear: Clear, blocks: list[int]) -> Iterator[Clear]:
    """The parts of a range between these blocks, which are sorted."""
    start = clear.block
    for block in [*(block for block in blocks if block in clear.blocks), clear.blocks.stop]:
        if block > start:
            yield Clear(start, block - start, clear.may_trim)
        start = block + 1


def _clear(log: ForgivingLog, log_bytes: int) -> None:
    """Zero the data area of a new log, so that the old segments are never mistaken for its own. Raises DeviceError.

    Most devices replace unreadable sectors when these are written.
    """
    with Progress("clearing the log", log_bytes) as progress:
        for offset in range(DATA_START, log_bytes, GIB):
            log.zero(offset, min(GIB, log_bytes - offset), may_trim=True)
            progress.update(offset)
    log.sync()
