# SPDX-License-Identifier: BSD-3-Clause
"""How the superblocks of a standby follow those of its owner.

On a shared origin they say of it what the owner says. With an origin of its own
a standby destages by itself, and has only from the owner what is the same in
all logs of the volume.
"""

from typing import Any, NamedTuple

from wbcache_core.format.origin_facts import OriginFacts
from wbcache_core.format.superblock import NO_FILL, SAMPLE_COUNT, Fill, Superblock
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.units import PAGE_SHIFT

_DESTAGED = ("destaged", "destaged_place", "destaged_previous", "destaged_generation", "destaged_time_ns")
_SHIPPED = (
    "origin_bytes", "origin_name", "samples", *_DESTAGED, "batch_end", "committed", "tags", "origin_facts", "epoch",
    "history",
)  # fmt: skip
"""What a superblock has from the owner. The rest is this log's own."""
_NOT_SAMPLED = (0,) * SAMPLE_COUNT


class OwnOrigin(NamedTuple):
    """The origin that a standby has of its own."""

    name: str
    byte_count: int
    facts: OriginFacts
    may_be_in_use: bool = False
    """The user has said that it is not what the owner uses, although it looks so."""


def shipped(sent: Superblock) -> dict[str, Any]:
    """What a superblock of the owner changes, on a shared origin."""
    return {name: getattr(sent, name) for name in _SHIPPED} | {"is_copy": True}


def shipped_beside(sent: Superblock, current: Superblock) -> dict[str, Any]:
    """The same for a log with an origin of its own, whose newest superblock is `current`."""
    fill = current.fill if sent.epoch == current.epoch else counted_only(current.fill)
    has_grown = sent.origin_bytes > current.origin_bytes
    if has_grown:
        # Nobody knows what the new part of the disk has.
        fill = fill._replace(base=0, begin=0, reach=0) if current.is_inconsistent else up_to(current.origin_bytes)
    return {
        "origin_bytes": sent.origin_bytes, "is_inconsistent": has_grown or current.is_inconsistent,
        "committed": max(sent.committed, current.batch_end),
        "tags": tuple(tag for tag in sent.tags if tag.end_lsn >= current.batch_end),
        "epoch": sent.epoch, "history": sent.history, "is_copy": True, "fill": fill,
        "has_own_origins": True,
    }  # fmt: skip


def up_to(origin_bytes: int) -> Fill:
    """Of an origin that was the volume when it had that size, and has grown: the rest is copied."""
    blocks = origin_bytes >> PAGE_SHIFT
    return Fill(blocks, blocks, 0)


def counted_only(fill: Fill) -> Fill:
    """In another epoch: the owner may have lost what it had when it copied the rest."""
    return fill._replace(filled=fill.counted, lsn=0)


def to_be_filled(sent: Superblock, own: OwnOrigin, current: Superblock | None) -> dict[str, Any]:
    """The log begins where that superblock ends, and the origin lacks what was before; `current` is the newest
    superblock of the log that it had, None for a blank one."""
    return shipped(sent) | {
        "batch_end": sent.destaged, "tags": (), "origin_name": own.name, "origin_facts": own.facts,
        "samples": _NOT_SAMPLED, "has_own_origins": True, "is_inconsistent": True,
        "fill": _beginning(sent, current), "regions_sum": 0,
    }  # fmt: skip


def _beginning(sent: Superblock, current: Superblock | None) -> Fill:
    """What is known of an origin before its log begins where that superblock ends."""
    if current is None or not current.has_own_origins or current.origin_bytes != sent.origin_bytes:
        return NO_FILL
    fill = current.fill if current.is_inconsistent else Fill(base=current.destaged)
    if not fill.base or not _is_in_history(current, sent):
        return NO_FILL
    return Fill(base=fill.base, begin=sent.destaged, reach=fill.reach)


def _is_in_history(current: Superblock, sent: Superblock) -> bool:
    """Whether everything that the origin of `current` may have is in the history of the volume that ends with `sent`:
    the epoch that wrote it last did so there too, and went on at least as far."""
    end = current.batch_end
    last = [switch for switch in current.history if switch.first_lsn < end][-1:]
    if not last or last[0] not in sent.history or end > sent.destaged:
        return False
    later = [switch.first_lsn for switch in sent.history if switch.epoch.number > last[0].epoch.number]
    return not later or end <= later[0]


def write_shipped(store: SuperblockStore, changes: dict[str, Any], cuts: bool) -> None:
    """Write these changes, and again if the other slot has an older epoch, another beginning of the log, or another
    kind of origin. `cuts`: the log ends earlier from now on. Raises DeviceError."""
    store.write(cuts, **changes)
    kept = {
        (slot.oldest, slot.epoch, slot.is_copy, slot.has_own_origins, slot.is_inconsistent)
        for slot in store.slots if slot
    }  # fmt: skip
    if len(kept) > 1 or None in store.slots:
        store.write(cuts, **changes)


def destaged_as(current: Superblock, sent: Superblock) -> Superblock:
    """`current`, but with the origin as far as the owner says, which is less: it writes what follows again."""
    changes = {name: getattr(sent, name) for name in (*_DESTAGED, "batch_end")}
    if sent.destaged < current.oldest:
        changes |= {"oldest": sent.destaged, "oldest_place": sent.destaged_place}
    return current.with_changes(**changes)


def write_destaged(store: SuperblockStore, superblock: Superblock) -> None:
    """Let both superblocks say what destaged_as() returned. Raises DeviceError."""
    names = (*_DESTAGED, "batch_end", "oldest", "oldest_place")
    for _ in range(2):
        store.write(**{name: getattr(superblock, name) for name in names})
