# SPDX-License-Identifier: BSD-3-Clause
"""What a log holds for the origin beside it: recovery, and whether the two belong together.

The log alone does not tell everything: the origin may have grown, and others may have written to it.
"""

import logging
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.hot_log import Taken
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import Recovered, recover
from wbcache_core.log.superblocks import newest
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.pairing import pairing
from wbcache_core.pairing.mark import OriginSide

_log = logging.getLogger("wbcache")

JoinRing = Callable[[str, Superblock, Recovered], list[PendingSegment]]
"""What lies in memory beyond the end of a log, given its name; entered in the map of what was recovered."""


class RecoveredPair(NamedTuple):
    """`superblock` is the one to continue from: the newest in the log, with the present size of the origin."""

    slots: list[Superblock | None]
    superblock: Superblock
    recovered: Recovered
    samples_are_stale: bool
    """The samples in the superblock are of the origin as it was earlier."""
    past_is_gone: bool
    """Others wrote to the origin: no past moment is what it was."""
    volatile: list[PendingSegment]
    """What only the ring of a server that was killed has, beyond `recovered.head`."""

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything that the origin lacks, or may have in part."""
        return self.recovered.head > self.superblock.destaged or bool(self.volatile)


def recover_pair(
    log: Device, origin: Device, side: OriginSide, force: Collection[str], join_ring: JoinRing,
    taken: Taken | None = None,
) -> RecoveredPair | None:  # fmt: skip
    """None if the log is blank. What was `taken` from a standby is not read from the log. Raises LogRefusedError,
    DeviceError."""
    slots = taken.slots if taken else pairing.read_log(log)
    recorded = newest(slots) if slots else None
    if slots is None or recorded is None:
        return None
    pairing.check_no_copy(recorded, log, force)
    pairing.check_size(recorded, origin, log)
    started = time.monotonic()
    if taken:
        recovered = taken.recovered
    else:
        recovered = recover(log, LogReader(log, recorded.data_pages, recorded.uuid), recorded, reads_ahead=True)
    volatile = join_ring(log.name, recorded, recovered)
    dirty = recovered.head > recorded.destaged or bool(volatile)
    changed = pairing.is_origin_changed(recorded, side, origin, log, recovered.locations, dirty, force)
    if changed:
        pairing.check_is_only_origin(recorded, origin, force)
    _tell(recorded, recovered, time.monotonic() - started)
    has_grown = origin.size > recorded.origin_bytes
    if has_grown:
        _log.warning("origin '%s' has grown from %d to %d bytes", origin.name, recorded.origin_bytes, origin.size)
    if changed:
        _log.warning(
            "origin '%s' has changed since the cache last wrote to it: accepted; past moments and tags are gone",
            origin.name,
        )
    superblock = recorded.with_changes(origin_bytes=origin.size)
    return RecoveredPair(slots, superblock, recovered, changed or has_grown, changed, volatile)


def _tell(superblock: Superblock, recovered: Recovered, seconds: float) -> None:
    _log.info(
        "recovered %d pages in %d segments, LSN %d to %d, in %.3f s",
        recovered.page_count, len(recovered.table), superblock.destaged, recovered.head, seconds,
    )  # fmt: skip
    if recovered.discarded_lsn is not None:
        _log.info(
            "left out an incomplete last commit, from LSN %d: it was being written when the server ended and no flush "
            "covers it, or the log has been damaged since", recovered.discarded_lsn,
        )  # fmt: skip
