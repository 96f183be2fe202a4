# SPDX-License-Identifier: BSD-3-Clause
"""The scenarios of ownership: bounds, and what leaving out a rule is known to break. See `scenarios`."""

import functools

from tests.peers import ownership_rules as rules
from tests.peers.ownership import Ownership


def _model(*without, **bounds):
    return functools.partial(Ownership, without=without, **bounds)


WHOLE = {
    "a crash and a takeover": _model(crashes=1, takeovers=1),
    "left out and let in": _model(leave_outs=1, lost=1),
    "a takeover of three nodes": _model(nodes=3, takeovers=1),
    "a replaced log": _model(replaced=1, takeovers=1),
    "acknowledged from memory": _model(ram=True, crashes=1, takeovers=1),
}

EXHAUSTIVE = {
    "two writes, a crash and a takeover": _model(writes=2, crashes=1, takeovers=1),
    "two writes, left out, and a takeover": _model(writes=2, leave_outs=1, takeovers=1),
    "two crashes, a takeover, an answer lost": _model(crashes=2, takeovers=1, lost=1),
    "left out, a crash, a takeover, an answer lost": _model(crashes=1, takeovers=1, leave_outs=1, lost=1),
    "two takeovers, two answers lost": _model(takeovers=2, lost=2),
    "three nodes, a crash and a takeover": _model(nodes=3, crashes=1, takeovers=1),
    "three nodes, left out, and a takeover": _model(nodes=3, takeovers=1, leave_outs=1),
    "a replaced log, a crash and a takeover": _model(crashes=1, takeovers=1, replaced=1),
    "acknowledged from memory, two crashes": _model(ram=True, crashes=2, takeovers=1),
    "acknowledged from memory, an answer lost": _model(ram=True, crashes=1, takeovers=1, lost=1),
    "three nodes, acknowledged from memory": _model(nodes=3, ram=True, crashes=1, takeovers=1),
}

LOST = "an acknowledged write is lost"
BEYOND = "the origin was written further than the superblock"
NOBODY = "B never served in epoch 2, and nobody may take over"
BROKEN = {
    "let in before it is counted": (_model(rules.COUNTED_BEFORE, leave_outs=1), LOST, 8),
    "not counted while it is left out": (_model(rules.COUNTED_AFTER, leave_outs=1), LOST, 4),
    "a swap on any revision": (_model(rules.SWAP_BASE, leave_outs=1, takeovers=1), "the record falls", 4),
    "a swap settled by reading": (_model(rules.SETTLED_BY_SWAP, leave_outs=1, lost=1), LOST, 10),
    "a taker that never knows": (
        _model(rules.SETTLED_BY_LATER, leave_outs=1, takeovers=1, lost=1),
        "no progress",
        5,
    ),
    "only the taker eligible": (_model(rules.OTHERS_ELIGIBLE, takeovers=1), NOBODY, 2),
    "the point of the taker": (_model(rules.POINT_KEPT, crashes=1), NOBODY, 7),
    "a replaced log is not noticed": (_model(rules.LOG_NAMED, replaced=1), LOST, 8),
    "the same epoch after a crash": (_model(rules.NEW_EPOCH_FIRST, writes=2, crashes=1), LOST, 10),
    "cursors of logs that differ": (_model(rules.COMPARED, writes=2, takeovers=1), LOST, 12),
    "segments of an older epoch": (_model(rules.OLDER_REFUSED, writes=2, crashes=1), LOST, 15),
    "let in before it has everything": (_model(rules.LET_IN_AT_HEAD, rules.LET_IN_COMPLETE, leave_outs=1), LOST, 8),
    "let in without the batch": (_model(rules.LET_IN_ANNOUNCED, leave_outs=1), BEYOND, 14),
    "serving alone": (_model(rules.JOINED_OR_OUT, rules.ELIGIBLE_COUNTED, takeovers=1), LOST, 7),
    "those who have not joined are not counted": (_model(rules.ELIGIBLE_COUNTED, takeovers=1), LOST, 8),
    "destaged ahead of a peer": (_model(rules.DESTAGE_LIMIT), "the origin is ahead of B", 6),
    "a batch that was not announced": (_model(rules.BATCH_ANNOUNCED), BEYOND, 9),
    "no fence": (_model(rules.FENCED_FIRST, takeovers=1), "a write of epoch 1 reaches the origin after epoch 2", 14),
    "taking over before committing": (_model(rules.COMMITTED_FIRST, ram=True, crashes=1, takeovers=1), LOST, 8),
    "a peer that forgot": (_model(rules.TOLD_COMPLETE, ram=True, crashes=1), LOST, 7),
    "a takeover that is forgotten": (
        _model(rules.ASKED_DURABLE, rules.UNRECOVERED_TOLD, ram=True, crashes=2, takeovers=1),
        LOST,
        10,
    ),
}

NEEDLESS = {
    "the point is not checked": _model(rules.POINT_CHECKED, replaced=1, takeovers=1),
    "let in before head": _model(rules.LET_IN_AT_HEAD, leave_outs=1, takeovers=1),
    "let in at head": _model(rules.LET_IN_COMPLETE, leave_outs=1),
    "serving before the others have joined": _model(rules.JOINED_OR_OUT, crashes=1, takeovers=1),
    "an epoch in memory": _model(rules.EPOCH_DURABLE, crashes=1, takeovers=1),
    "a start without the record": _model(rules.RECORD_READ, crashes=1, takeovers=1),
}

NEEDLESS_EXHAUSTIVE = {
    "the point is not checked, a crash": _model(rules.POINT_CHECKED, crashes=1, takeovers=1, replaced=1),
    "let in before head, two writes": _model(rules.LET_IN_AT_HEAD, writes=2, takeovers=1, leave_outs=1),
    "serving before the others have joined, three nodes": _model(rules.JOINED_OR_OUT, nodes=3, crashes=1, takeovers=1),
    "an epoch in memory, a start without the record, three nodes": _model(
        rules.EPOCH_DURABLE, rules.RECORD_READ, nodes=3, ram=True, crashes=1, takeovers=1
    ),
    "a start without the record, acknowledged from memory": _model(rules.RECORD_READ, ram=True, crashes=2, takeovers=1),
    "the record's owner is told as well": _model(rules.ASKED_DURABLE, ram=True, crashes=2, takeovers=1),
    "the taker remembers": _model(rules.UNRECOVERED_TOLD, ram=True, crashes=2, takeovers=1),
}
