# SPDX-License-Identifier: BSD-3-Clause
"""The record and its swaps: what it takes, what nodes hear of it, and the swaps of an owner.

A swap succeeds only on the revision that it is based on. So whenever the record changes, all swaps under way are
refused, and no revision needs to be counted.
"""

from tests.peers import ownership_rules as rules
from tests.peers.ownership_owner import fence, may_acknowledge
from tests.peers.ownership_state import (
    LEAVE_OUT,
    LET_IN,
    NAMES,
    OWNER,
    SETTLE,
    STANDBY,
    TAKE,
    TAKING,
    Record,
    Swap,
    change,
    listed,
    spend,
    stands_down,
)
from tests.peers.search import BrokenError


def decides(model, state):
    for number in model.numbers:
        asked = state.nodes[number].asked
        if asked and asked.answer is None:
            following = change(_taken(state, asked.record), number, asked=asked._replace(answer=True))
            yield f"the record takes the swap of {NAMES[number]} ({asked.purpose})", following
    for late in state.late:
        text = f"owner {NAMES[late.owner]} in epoch {late.epoch}, eligible {listed(late.eligible)}"
        yield f"the record takes a late swap: {text}", _taken(state, late)


def _taken(state, record):
    """The record changed: every other swap under way will be refused."""
    old = state.record
    if record.epoch < old.epoch or (record.epoch == old.epoch and record.owner != old.owner):
        raise BrokenError(f"the record falls from epoch {old.epoch} to epoch {record.epoch} of {NAMES[record.owner]}")
    state = state._replace(record=record, late=frozenset())
    for number, node in enumerate(state.nodes):
        if node.asked and node.asked.answer is None:
            state = change(state, number, asked=node.asked._replace(answer=False))
    return state


def answers(model, state, number):
    """What a node hears of its swap, or that it hears nothing."""
    node, name = state.nodes[number], NAMES[number]
    asked = node.asked
    if node.role == TAKING:
        yield from fence(model, state, number)
    if node.unsettled and model.keeps(rules.SETTLED_BY_LATER) and all(late.owner != number for late in state.late):
        yield from _reads_later_revision(model, state, number)
    if asked is None:
        return
    if state.left.lost:
        following = change(spend(state, "lost"), number, asked=None, unsettled=True)
        if asked.answer is None:
            following = following._replace(late=following.late | {asked.record})
        yield f"{name} gets no answer ({asked.purpose})", following
    if asked.answer:
        yield f"{name} hears yes ({asked.purpose})", change(state, number, asked=None, **_granted(asked))
    elif asked.answer is False:
        if asked.purpose == TAKE or state.record.epoch != node.epoch:
            after = stands_down(node, state.record)
            yield f"{name} hears no ({asked.purpose}) and is a standby", change(state, number, **after._asdict())
        else:
            yield f"{name} hears no ({asked.purpose})", change(state, number, asked=None, unsettled=True)


def _reads_later_revision(model, state, number):
    """The record changed since the revision that its swap was based on, so the swap cannot succeed any more."""
    node, record, name = state.nodes[number], state.record, NAMES[number]
    label = f"{name} reads a later revision: owner {NAMES[record.owner]}, eligible {listed(record.eligible)}"
    if node.role == STANDBY:
        yield label, change(state, number, **stands_down(node, record)._asdict())
    elif record.epoch == node.epoch and model.keeps(rules.SETTLED_BY_SWAP):
        yield label, change(state, number, counted=record.eligible, unsettled=False)


def _granted(asked):
    fields = {"counted": asked.record.eligible, "unsettled": False}
    return {"role": TAKING, **fields} if asked.purpose == TAKE else fields


def swaps(model, state, number):
    """What an owner may want to change."""
    node, record, name = state.nodes[number], state.record, NAMES[number]
    if node.asked is not None:
        return
    own = record.epoch == node.epoch
    if node.unsettled:
        if own and model.keeps(rules.SETTLED_BY_SWAP):
            yield (
                f"{name} sends a swap that changes nothing",
                change(state, number, asked=Swap(SETTLE, None, record, None)),
            )
        elif own:
            following = change(state, number, counted=record.eligible, unsettled=False)
            yield f"{name} reads the record: eligible {listed(record.eligible)}", following
        return
    if not own and model.keeps(rules.SWAP_BASE):
        return
    for peer in node.counted:
        if state.left.leave_outs:
            eligible = node.counted - {peer}
            swap = Swap(LEAVE_OUT, peer, _named(state, number, eligible), None)
            counted = node.counted if model.keeps(rules.COUNTED_AFTER) else eligible
            following = change(spend(state, "leave_outs"), number, asked=swap, counted=counted)
            yield f"{name} sends a swap: leave {NAMES[peer]} out", following
    if node.role == OWNER:
        yield from _let_in(model, state, number)


def _let_in(model, state, number):
    node, record = state.nodes[number], state.record
    for peer in model.numbers:
        newcomer = state.nodes[peer]
        if peer == number or (peer in node.counted and newcomer.identity == record.logs[peer]) or node.known[peer] < 0:
            continue
        if newcomer.epoch == 0:
            continue
        if model.keeps(rules.LET_IN_AT_HEAD) and min(node.known[peer], node.committed) < len(node.log):
            continue
        if model.keeps(rules.LET_IN_COMPLETE) and node.known[peer] < may_acknowledge(node):
            continue
        if model.keeps(rules.LET_IN_ANNOUNCED) and newcomer.batch_end < node.batch_end:
            continue
        eligible = node.counted | {peer}
        swap = Swap(LET_IN, peer, _named(state, number, eligible, peer), None)
        counted = eligible if model.keeps(rules.COUNTED_BEFORE) else node.counted
        following = change(state, number, asked=swap, counted=counted)
        yield f"{NAMES[number]} sends a swap: let {NAMES[peer]} in", following


def _named(state, number, eligible, newcomer=None):
    """The record that names these. Its point is what they all have committed, as far as their owner knows."""
    node, logs = state.nodes[number], list(state.record.logs)
    if newcomer is not None:
        logs[newcomer] = state.nodes[newcomer].identity
    end = min([node.committed, *(node.known[peer] for peer in eligible)])
    point = max(node.log[: max(end, 0)], state.record.point, key=len)
    return Record(node.epoch, number, eligible, point, tuple(logs))
