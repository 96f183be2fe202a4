# SPDX-License-Identifier: BSD-3-Clause
"""What an owner says of itself and of the log of a standby, compared with that log."""

from wbcache_core.clock import Reading
from wbcache_core.device.device import Device
from wbcache_core.errors import FormatError, NotOwnerError, ShipmentError
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.origin_facts import is_certainly_one
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.segment import Descriptor
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.epochs import EpochOrder, may_be_in_history, may_follow
from wbcache_core.log.geometry import LogEnd, offset_of
from wbcache_core.log.reader import LogReader
from wbcache_core.log.shipped_superblock import OwnOrigin
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import pages_of


def check_geometry(sent: Superblock, current: Superblock | None, device: Device) -> None:
    """`current` is this log's newest, None for a blank one. Raises ShipmentError, NotOwnerError."""
    if sent.log_bytes > device.size:
        raise ShipmentError(
            f"the owner's log has {sent.log_bytes} bytes, and '{device.name}' only {device.size}: give this standby a "
            "log of the same size"
        )
    if current is None:
        return
    if sent.uuid != current.uuid:
        raise NotOwnerError(
            f"log '{device.name}' is of another volume than what was sent: check peer= of the owner; to give up what "
            "this log holds, start this standby once with force=discard-log"
        )
    if sent.log_bytes != current.log_bytes or sent.origin_bytes < current.origin_bytes:
        raise ShipmentError("the log or the origin of the owner has another size than before")


def check_origins(sent: Superblock, own: OwnOrigin | None) -> None:
    """Whether both sides mean the same by an origin. Raises ShipmentError."""
    if sent.has_own_origins != (own is not None):
        words = ("own", "shared") if sent.has_own_origins else ("shared", "own")
        raise ShipmentError(
            "the owner has origins={}, and this standby origins={}: give both the same".format(*words)
        )  # fmt: skip
    if own and own.byte_count != sent.origin_bytes:
        raise ShipmentError(
            f"origin '{own.name}' of this standby has {own.byte_count} bytes, and the owner's {sent.origin_bytes}: "
            "they have to be of the same size"
        )
    if own and not own.may_be_in_use and is_certainly_one(sent.origin_facts, own.facts):
        told = ", ".join(own.facts.described())
        raise ShipmentError(
            f"origin '{own.name}' of this standby is the disk that the owner uses ({told}): with origins=own, give "
            "each host a disk of its own; if this one is a clone that only looks the same, add force=in-use"
        )


def check_segment(
    descriptor: Descriptor, offset: int, place: int, head: int, end: LogEnd, current: Superblock, reclaimed_place: int,
    order: EpochOrder,
) -> None:  # fmt: skip
    """Whether a segment that was sent to that byte offset, and belongs at `place`, is the next one of a log that ends
    at LSN `head`. `order` has followed that log, and goes on with the segment. Raises ShipmentError."""
    first, pages = descriptor.first_lsn, descriptor.log_pages
    if first != head or descriptor.previous != end.previous:
        raise ShipmentError(f"the segment at LSN {first} does not follow the log here, which ends at {head}")
    if offset != offset_of(place, current.data_pages):
        raise ShipmentError(f"the segment at LSN {first} was sent to byte {offset}, which is not its place")
    if place + pages > reclaimed_place + current.data_pages:
        raise ShipmentError(f"the segment at LSN {first} would overwrite what the superblocks here still need")
    if max(descriptor.page_blocks, default=0) >= pages_of(current.origin_bytes):
        raise ShipmentError(f"the segment at LSN {first} has blocks beyond the end of the volume")
    if not order.admits(first, descriptor.previous, descriptor.epoch):
        raise ShipmentError(
            f"the segment at LSN {first} is of epoch {descriptor.epoch}, which the superblock here does not allow"
        )
    # A standby whose history has a gap would look like one that has something else.
    if not may_be_in_history(current, descriptor.epoch):
        raise ShipmentError(
            f"the segment at LSN {first} is of epoch {descriptor.epoch}, of which the superblock here does not know: "
            "the owner has to send one that does first"
        )


def check_epoch(sent: Superblock, current: Superblock) -> None:
    """Raises NotOwnerError."""
    mine, other = current.epoch, sent.epoch
    if not may_follow(other, mine):
        raise NotOwnerError(
            f"epoch {other} is not taken: the log here has epoch {mine}; another server has taken over since"
        )


def check_standing(standing: Standing, current: Superblock | None, head: int) -> None:
    """`head` is where the log ends. Raises FormatError."""
    if current is None or (standing.uuid, standing.epoch) != (current.uuid, current.epoch):
        raise FormatError("it is of another volume or epoch than the superblock here")
    if standing.is_complete and standing.lsn > head:
        raise FormatError(f"it calls this log complete up to LSN {standing.lsn}, and it ends at {head}")


def check_parting(
    standing: Standing, current: Superblock | None, table: SegmentTable | None, head: int, device: Device
) -> None:  # fmt: skip
    """Whether the two logs can part there. Raises FormatError, DeviceError, DamagedPageError."""
    if current is None or table is None or standing.uuid != current.uuid:
        raise FormatError("it is of another volume")
    lowest = 1 if current.has_own_origins else current.destaged
    if standing.epoch.number < current.epoch.number or not lowest <= standing.lsn < head:
        raise FormatError(f"it says that the logs part at LSN {standing.lsn}, which they cannot")
    if standing.lsn < current.destaged:
        # The origin of this node has it already, and the log may not.
        return
    if table.locate(standing.lsn).first_lsn != standing.lsn:
        raise FormatError(f"no segment of this log begins at LSN {standing.lsn}, where it is said to part")
    if standing.previous not in (0, end_before(standing.lsn, current, table, device).previous):
        raise FormatError(f"the log is no copy of the owner's: the two differ before LSN {standing.lsn}")


def end_before(lsn: int, current: Superblock, table: SegmentTable, device: Device) -> LogEnd:
    """Of a log that ends at that LSN, where a segment of this one ends. Raises NotOwnerError, DeviceError,
    DamagedPageError."""
    if lsn == current.destaged:
        return LogEnd(
            current.destaged_place, current.destaged_previous, current.destaged_generation, Reading(0)
        )  # fmt: skip
    before = table.locate(lsn - 1)
    descriptor = LogReader(device, current.data_pages, current.uuid).descriptor(before)
    if descriptor.end_lsn != lsn:
        raise NotOwnerError(f"the log has no segment that ends at LSN {lsn}, where the owner's epoch began")
    return LogEnd(before.place + descriptor.log_pages, descriptor.checksum, descriptor.generation, Reading(0))


def check_on_origin(lsn: int, current: Superblock) -> None:
    """Whether the log can be cut there. Raises NotOwnerError."""
    on_origin = current.batch_end if current.has_own_origins else current.destaged
    if lsn < on_origin:
        raise NotOwnerError(f"the log would be cut at LSN {lsn}, and the origin has it up to {on_origin}")


def find_cut(
    sent: Superblock, current: Superblock, table: SegmentTable, head: int, last_epoch: Epoch, device: Device
) -> tuple[int, LogEnd] | None:
    """Where the log, which ends at `head` with a segment of that epoch, has to be cut for that superblock: (LSN, end of
    the log). None if it need not be. Raises NotOwnerError, DeviceError, DamagedPageError."""
    if not table:
        return None
    # Also if the epoch is known: the power may have failed between its first superblock and the cut.
    switches = [one for one in sent.history if one.epoch.number > last_epoch.number and one.first_lsn < head]
    if not switches:
        return None
    lsn, previous = switches[0].first_lsn, switches[0].previous
    check_on_origin(lsn, current)
    end = end_before(lsn, current, table, device)
    if end.previous != previous:
        raise NotOwnerError(f"the log is no copy of the owner's: the two differ before LSN {lsn}")
    return lsn, end
