# SPDX-License-Identifier: BSD-3-Clause
"""How a standby's log goes on with this one: named rules for what the two have in common.

    new              it is blank: it begins where the origin ends
    fill             the same with an origin of its own, or it ends before this log begins: its origin is filled
    catch-up         its end is in this log: it gets what follows
    begin-again      it ends before the origin does, which has what it lacks
    cut              behind its end in this log it has what no flush was answered for: that goes
    tail             the same, but somebody may have relied on it: refused
    unrelated        no common history: refused
    later-epoch      another server has taken over since: this one stops

docs/peers.md has them as a table. The checksums of descriptors form a chain, so logs with the same checksum at the same
LSN are the same up to there.
"""

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from wbcache_core.errors import PartedError, PeerRefusedError, SupersededError
from wbcache_core.format.epoch import TAKEOVER_STEP, Epoch
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.epochs import may_follow
from wbcache_core.units import format_size

_DISCARD_HINT = "to give up what its log holds, stop that server and start it once with force=discard-log"


FILL = "fill"


class Joined(NamedTuple):
    """`superblock` goes first, then the segments from `lsn` on."""

    rule: str
    lsn: int
    superblock: Superblock


def told(superblock: Superblock) -> Superblock:
    """What of it a peer is told: nothing about an origin that is this node's alone."""
    if not superblock.has_own_origins:
        return superblock
    return superblock.with_changes(
        oldest=1, oldest_place=0, destaged=1, destaged_place=0, destaged_previous=0, destaged_generation=0,
        destaged_time_ns=0, batch_end=1, regions_sum=0,
    )  # fmt: skip


def as_of(superblock: Superblock, lsn: int) -> Superblock:
    """What can be said to a log that ends at lsn, which is not below `destaged` of a shared origin."""
    superblock = told(superblock)
    assert superblock.destaged <= lsn
    return _cut_to(superblock, lsn)


def _cut_to(superblock: Superblock, lsn: int) -> Superblock:
    return superblock.with_changes(
        committed=min(superblock.committed, lsn),
        tags=tuple(tag for tag in superblock.tags if tag.end_lsn <= lsn),
        history=tuple(switch for switch in superblock.history if switch.first_lsn <= lsn),
    )


def beginning(superblock: Superblock) -> Superblock:
    """For a log that has nothing, and needs nothing that the origin has, or is given all of that: an origin of the
    peer's own counts as inconsistent."""
    only = _cut_to(superblock, superblock.destaged)
    return only.with_changes(
        oldest=superblock.destaged, oldest_place=superblock.destaged_place, tags=(),
        is_copy=superblock.has_own_origins, is_inconsistent=superblock.has_own_origins,
    )  # fmt: skip


def join(
    name: str, state: StandbyState, superblock: Superblock, own_epoch: Epoch, committed: int,
    checksum_before: Callable[[int], int | None],
) -> Joined | None:  # fmt: skip
    """`superblock` is this server's; `own_epoch` the one before, if this log was the owner's in it too. None if the
    standby is ahead of `committed` in this epoch: this log gets there in a moment.

    Raises PeerRefusedError, SupersededError, and what checksum_before() raises.
    """
    if not state.is_blank:
        _check_uuid(name, state, superblock)
        # Before everything else: whoever was overtaken may not go on without this peer.
        _check_epoch(name, state.epoch, superblock.epoch)
    _check_sizes(name, state, superblock)
    _check_origins(name, state, superblock)
    if state.is_blank:
        return Joined(FILL if superblock.has_own_origins else "new", superblock.destaged, beginning(superblock))
    lowest = superblock.oldest if superblock.has_own_origins else superblock.destaged
    if lowest <= state.head <= committed:
        known = state.head == superblock.destaged
        if (superblock.destaged_previous if known else checksum_before(state.head)) == state.previous:
            return Joined("catch-up", state.head, as_of(superblock, state.head))
    elif state.epoch == superblock.epoch and state.head > committed:
        return None
    end = _end_of_common_part(name, state, superblock, own_epoch)
    if superblock.has_own_origins:
        # What its origin has, and this log lacks, only copying undoes.
        is_there = end >= state.batch_end and (end == superblock.destaged or checksum_before(end) is not None)
    else:
        is_there = end >= superblock.destaged
    if not is_there:
        rule = FILL if superblock.has_own_origins else "begin-again"
        return Joined(rule, superblock.destaged, beginning(superblock))
    if end == state.head:
        raise _unrelated(name, f"the two differ before LSN {end}")
    # The standby compares what it has there.
    return Joined("discard-tail" if end == state.given_up_from else "cut", end, as_of(superblock, end))


def _check_uuid(name: str, state: StandbyState, superblock: Superblock) -> None:
    """Raises PeerRefusedError."""
    if state.uuid != superblock.uuid:
        raise PeerRefusedError(
            f"peer '{name}' has the log of another volume, {UUID(bytes=state.uuid)}; this one is "
            f"{UUID(bytes=superblock.uuid)}: check peer=; {_DISCARD_HINT}"
        )


def _check_sizes(name: str, state: StandbyState, superblock: Superblock) -> None:
    """Raises PeerRefusedError."""
    if state.log_bytes < superblock.log_bytes:
        raise PeerRefusedError(
            f"the log of peer '{name}' has only {format_size(state.log_bytes)}, this one "
            f"{format_size(superblock.log_bytes)}: give it a log of the same size"
        )
    if state.is_blank:
        return
    if state.used_bytes != superblock.log_bytes or state.origin_bytes > superblock.origin_bytes:
        raise PeerRefusedError(
            f"peer '{name}' has a log of {state.used_bytes} bytes for an origin of {state.origin_bytes}, this one has "
            f"{superblock.log_bytes} for {superblock.origin_bytes}; {_DISCARD_HINT}"
        )


def _check_origins(name: str, state: StandbyState, superblock: Superblock) -> None:
    """Raises PeerRefusedError."""
    if bool(state.own_bytes) != superblock.has_own_origins:
        here, there = ("own", "shared") if superblock.has_own_origins else ("shared", "own")
        raise PeerRefusedError(f"this server has origins={here}, and peer '{name}' origins={there}: give both the same")
    if state.own_bytes not in (0, superblock.origin_bytes):
        raise PeerRefusedError(
            f"the origin of peer '{name}' has {state.own_bytes} bytes, and the one here {superblock.origin_bytes}: "
            "they have to be of the same size"
        )


def _check_epoch(name: str, other: Epoch, mine: Epoch) -> None:
    """Raises SupersededError, also if another server began an epoch with the same number."""
    if not may_follow(mine, other):
        raise SupersededError(
            f"peer '{name}' has epoch {other}, and this server {mine}: another server has taken over the volume; this "
            "one takes no more writes; stop it, and find out what each has before you start it again (docs/peers.md)"
        )


def _end_of_common_part(name: str, state: StandbyState, superblock: Superblock, own_epoch: Epoch) -> int:
    """Where the standby's log ends, or the part of it that this one has or had, if the rest may be given up. Raises
    PeerRefusedError."""
    # An epoch without a segment leaves no trace in the log of its owner.
    begun = [switch for switch in state.history if switch.first_lsn < state.head]
    mine = superblock.history
    known = {own_epoch, superblock.epoch, *(switch.epoch for switch in mine)}
    # What is older than the history here may have been forgotten.
    oldest = mine[0].epoch.number if mine else 0
    strange = next((one for one in begun if one.epoch not in known and one.epoch.number >= oldest), None)
    shared = begun[: begun.index(strange)] if strange else begun
    if strange and not shared:
        raise _unrelated(name, f"it begins with epoch {strange.epoch}, which this log never had")
    last = shared[-1].epoch if shared else state.epoch
    ends = [switch.first_lsn for switch in mine if switch.epoch.number > last.number][:1]
    end = min(*ends, strange.first_lsn if strange else state.head, state.head)
    is_own = strange is None and last in known and _is_same_owner(last, own_epoch)
    if end < state.head and not is_own and end != state.given_up_from:
        last = strange.epoch if strange else last
        raise PartedError(
            f"peer '{name}' has LSN {end} to {state.head}, of epoch {last.number}, which this server does not have: "
            "clients may have been told that they are durable; on that host, look at them, and give them up with "
            "wbcache rejoin", end,
        )  # fmt: skip
    return end


def _is_same_owner(earlier: Epoch, later: Epoch) -> bool:
    """Of two epochs in the history of one log: nobody took over between them. Every takeover begins a new thousand."""
    return bool(later.number) and earlier.number // TAKEOVER_STEP == later.number // TAKEOVER_STEP


def _unrelated(name: str, how: str) -> PeerRefusedError:
    return PeerRefusedError(f"the log of peer '{name}' is no copy of this one: {how}; {_DISCARD_HINT}")
