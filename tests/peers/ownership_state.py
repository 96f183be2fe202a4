# SPDX-License-Identifier: BSD-3-Clause
"""What the model of ownership is made of: the record, the nodes, and what is on its way."""

from collections import namedtuple

from tests.peers import ownership_rules as rules

NAMES = "ABC"
STANDBY, TAKING, JOINING, OWNER = "standby", "taking over", "joining", "owner"
"""JOINING: the node has recovered in its epoch, and waits for those that it counts."""
UNKNOWN, TOLD, DURABLY = range(3)
"""Whether a node may believe that it holds everything: no, its owner said so since it started, its superblock does."""
TAKE, LEAVE_OUT, LET_IN, SETTLE = "take over", "leave out", "let in", "settle"

Left = namedtuple("Left", "writes crashes takeovers leave_outs lost replaced")
"""What may still happen: takeovers from an owner that is only paused, lost answers of the record, replaced logs."""
Record = namedtuple("Record", "epoch owner eligible point logs")
"""point: the log up to the LSN of the last swap, which stands for its checksum. logs: which log of each node is meant,
since one may be replaced. A revision is not needed: see `ownership_record`."""
Swap = namedtuple("Swap", "purpose peer record answer")
"""answer: None as long as the record has not decided."""
Segment = namedtuple("Segment", "peer epoch log")
"""On its way to a peer; log: the owner's up to and including the segment, which stands for its chain of checksums."""
OriginWrite = namedtuple("OriginWrite", "epoch log")
Node = namedtuple(
    "Node",
    "role epoch promised seen log committed destaged batch_end complete identity counted known issued asked unsettled",
)
"""In its superblock: epoch, promised (the one that it asked for, if it may not forget that), destaged, batch_end,
complete (whether it holds everything), identity (which log it is). Its log, of which `committed` segments survive a
crash. In memory: seen (it refuses what is older), counted, known (what each peer reported, -1 until the logs are
compared), issued (a batch is under way), asked (its swap), unsettled (a swap had no answer)."""
State = namedtuple("State", "record nodes sent late flying origin gate acknowledged recovered left")
"""sent: segments, which may arrive at any time, more than once, or never. late: what swaps that nobody waits for may
still make of the record. flying: writes to the origin. acknowledged: the log up to the last write that was. recovered:
(epoch, node) of the last takeover that got as far as recovering."""


def change(state, number, **fields):
    """The state with these fields of a node changed."""
    nodes = state.nodes
    node = nodes[number]._replace(**fields)
    return state._replace(nodes=(*nodes[:number], node, *nodes[number + 1 :]))


def spend(state, what):
    return state._replace(left=state.left._replace(**{what: getattr(state.left, what) - 1}))


def forget(model, state):
    """The state without the segments that nobody will take any more."""
    kept = []
    for segment in state.sent:
        peer = state.nodes[segment.peer]
        if len(segment.log) > peer.committed and (segment.epoch >= peer.epoch or not model.keeps(rules.OLDER_REFUSED)):
            kept.append(segment)
    return state._replace(sent=frozenset(kept)) if len(kept) < len(state.sent) else state


def common(one, other):
    """How many segments two logs have in common."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def stands_down(node, record):
    """The node after its takeover came to nothing. It holds what it held."""
    complete = min(node.complete, TOLD) if node.promised > node.epoch else node.complete
    return as_standby(node, seen=max(node.epoch, record.epoch), promised=0, complete=complete)


def as_standby(node, **fields):
    """The node without what it held in memory as an owner or for a swap."""
    return node._replace(
        **{
            "role": STANDBY,
            "counted": frozenset(),
            "known": (-1,) * len(node.known),
            "issued": False,
            "asked": None,
            "unsettled": False,
            **fields,
        }
    )


def listed(numbers):
    return ", ".join(NAMES[number] for number in sorted(numbers)) or "nobody"
