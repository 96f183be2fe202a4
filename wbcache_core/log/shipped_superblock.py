# SPDX-License-Identifier: BSD-3-Clause
"""How the superblocks of a standby follow those of its owner."""

from wbcache_core.format.superblock import Superblock
from wbcache_core.log.superblocks import SuperblockStore

_DESTAGED = ("destaged", "destaged_place", "destaged_previous", "destaged_generation", "destaged_time_ns")
_SHIPPED = (
    "origin_bytes", "origin_name", "samples", *_DESTAGED, "batch_end", "committed", "tags", "origin_facts", "epoch",
    "history",
)  # fmt: skip
"""What a superblock has from the owner. The rest is this log's own."""


def write_shipped(store: SuperblockStore, sent: Superblock, begins_there: bool, cuts: bool) -> None:
    """Write what a superblock says, and again if the other slot has an older epoch or another beginning of the log;
    with begins_there that of this one. `cuts`: the log ends earlier from now on. Raises DeviceError."""
    changes = {name: getattr(sent, name) for name in _SHIPPED} | {"is_copy": True}
    if begins_there:
        changes |= {"oldest": sent.oldest, "oldest_place": sent.oldest_place}
    store.write(cuts, **changes)
    kept = {(slot.oldest, slot.epoch, slot.is_copy) for slot in store.slots if slot}
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
