# SPDX-License-Identifier: BSD-3-Clause
"""When an epoch begins, and which segments may belong to which one.

A new epoch is in both superblocks, durably, before its first segment is
written. So a segment never has a later epoch than any superblock. The chain of
checksums alone keeps the segments of earlier laps and dead epochs out;
EpochOrder looks at them a second time, and notices what is damaged in a way
that the checksums cannot show. docs/format.md says why.
"""

from typing import Any

from wbcache_core.errors import FormatError, LogRefusedError
from wbcache_core.format.epoch import HISTORY_LENGTH, NO_EPOCH, Epoch, Switch, following
from wbcache_core.format.superblock import Superblock

_NEVER = 1 << 64


def new_epoch(superblock: Superblock, first_lsn: int, previous: int, takes_over: bool = False) -> dict[str, Any]:
    """What the superblocks have to say before a segment is written at `first_lsn`, behind the descriptor with the
    checksum `previous`: a new epoch, and a history that ends with it.

    An epoch of which no segment was taken is replaced, since no log can go on from one. If there is no room, the oldest
    is forgotten. Raises LogRefusedError if there can be no further epoch.
    """
    try:
        epoch = following(superblock.epoch, takes_over)
    except FormatError as error:
        raise LogRefusedError(
            f"the log cannot be written any more: {error}; bring the origin up to date (wbcache replay), and use a new "
            "log"
        ) from None
    kept = [switch for switch in superblock.history if switch.first_lsn < first_lsn]
    return {"epoch": epoch, "history": (*kept, Switch(epoch, first_lsn, previous))[-HISTORY_LENGTH:]}


class EpochOrder:
    """Follows a chain of segments. For one thread."""

    def __init__(self, superblock: Superblock) -> None:
        self._current = superblock.epoch
        self._history = superblock.history
        self._last = NO_EPOCH
        self._until = 0
        """Below this LSN a segment of the same epoch as the last needs no further look."""

    def admits(self, first_lsn: int, previous: int, epoch: Epoch) -> bool:
        """Whether the next segment may be this one; if so, it counts as the last one from now on."""
        if epoch == self._last and first_lsn < self._until:
            return True
        if not (may_follow(epoch, self._last) and may_follow(self._current, epoch)):
            return False
        until = _NEVER
        for switch in reversed(self._history):
            if first_lsn < switch.first_lsn:
                until = switch.first_lsn
                if epoch.number >= switch.epoch.number:
                    return False
            elif not may_follow(epoch, switch.epoch):
                return False
            elif first_lsn == switch.first_lsn and previous != switch.previous:
                return False
        self._last, self._until = epoch, until
        return True


def was_cut_off(superblock: Superblock, epoch: Epoch, first_lsn: int) -> bool:
    """Whether a segment of that epoch there is what is left of a tail that was cut off: a later epoch had begun at that
    LSN or before, or the history goes past its epoch. What it says was committed does not count then.

    The history of a standby may not have the latest epochs yet: what is ignored then is sent again.
    """
    history = superblock.history
    if any(one.first_lsn <= first_lsn and not may_follow(epoch, one.epoch) for one in history):
        return True
    return epoch != superblock.epoch and not may_be_in_history(superblock, epoch)


def may_be_in_history(superblock: Superblock, epoch: Epoch) -> bool:
    """Whether the history has that epoch, or may have forgotten it: it is older."""
    history = superblock.history
    return not history or epoch.number < history[0].epoch.number or any(one.epoch == epoch for one in history)


def may_follow(later: Epoch, earlier: Epoch) -> bool:
    """Whether this is the same epoch or one with a higher number."""
    return later == earlier or later.number > earlier.number
