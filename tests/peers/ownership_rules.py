# SPDX-License-Identifier: BSD-3-Clause
"""The rules of ownership, each of which the model can leave out."""

COUNTED_BEFORE = "a peer is counted from before the swap that lets it in is sent"
COUNTED_AFTER = "a peer is counted until a swap that leaves it out is known to have succeeded"
SWAP_BASE = "a swap is based on the revision that was read together with the own epoch"
SETTLED_BY_SWAP = "a swap without an answer is settled by another successful swap, never by reading the same revision"
SETTLED_BY_LATER = "a later revision than the one that the swap is based on settles it as well"
OTHERS_ELIGIBLE = "a takeover keeps as eligible all that were, and the old owner"
POINT_KEPT = "a takeover leaves the (LSN, checksum) of the record as it is"
POINT_CHECKED = "a node below the (LSN, checksum) of the record may not take over"
LOG_NAMED = "the record names logs: a node whose log was replaced may not take over until it is let in again"
NEW_EPOCH_FIRST = "a node that starts and is owner begins a new epoch first"
COMPARED = "a cursor counts only after the two logs were compared in this epoch"
EPOCH_DURABLE = "the epoch is durable at a peer before its cursor counts"
OLDER_REFUSED = "a peer refuses segments of an older epoch"
RECORD_READ = "a node that starts reads the record before it takes a segment"
LET_IN_AT_HEAD = "a peer is let in only when it has committed head"
LET_IN_COMPLETE = "a peer is let in only when it has committed everything that was acknowledged"
LET_IN_ANNOUNCED = "a peer is let in only when it has the announced batch_end"
JOINED_OR_OUT = "before a taker answers anything each of the eligible has joined or is swapped out"
ELIGIBLE_COUNTED = "a taker counts each of the eligible from the start, joined or not"
DESTAGE_LIMIT = "no batch ends above committed of any counted peer"
BATCH_ANNOUNCED = "batch_end is synced at the counted peers before the origin is touched"
FENCED_FIRST = "a taker fences the origin before it recovers"
COMMITTED_FIRST = "a peer commits what it received before it takes over"
TOLD_COMPLETE = "after a restart a peer may take over only once the owner has said that it holds everything"
ASKED_DURABLE = "a taker makes the epoch durable that it asks for, before the swap, and refuses older ones from then on"
UNRECOVERED_TOLD = "this goes for a node as well that the record names as owner, but that has not recovered"
RULES = (
    COUNTED_BEFORE,
    COUNTED_AFTER,
    SWAP_BASE,
    SETTLED_BY_SWAP,
    SETTLED_BY_LATER,
    OTHERS_ELIGIBLE,
    POINT_KEPT,
    POINT_CHECKED,
    LOG_NAMED,
    NEW_EPOCH_FIRST,
    COMPARED,
    EPOCH_DURABLE,
    OLDER_REFUSED,
    RECORD_READ,
    LET_IN_AT_HEAD,
    LET_IN_COMPLETE,
    LET_IN_ANNOUNCED,
    JOINED_OR_OUT,
    ELIGIBLE_COUNTED,
    DESTAGE_LIMIT,
    BATCH_ANNOUNCED,
    FENCED_FIRST,
    COMMITTED_FIRST,
    TOLD_COMPLETE,
    ASKED_DURABLE,
    UNRECOVERED_TOLD,
)
