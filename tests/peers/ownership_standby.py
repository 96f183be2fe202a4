# SPDX-License-Identifier: BSD-3-Clause
"""What happens at a node that does not own the volume: segments, commits, taking over; and how any node fails."""

from tests.peers import ownership_rules as rules
from tests.peers.ownership_state import (
    DURABLY,
    NAMES,
    OWNER,
    STANDBY,
    TAKE,
    UNKNOWN,
    Swap,
    as_standby,
    change,
    forget,
    listed,
    spend,
)


def failures(model, state, number):
    node, record, name = state.nodes[number], state.record, NAMES[number]
    late = state.late
    if node.asked and node.asked.answer is None:
        late |= {node.asked.record}
    if state.left.crashes:
        seen = max(node.epoch, record.epoch) if model.keeps(rules.RECORD_READ) else node.epoch
        seen, unsettled = max(seen, node.promised), node.promised > node.epoch
        after = as_standby(node, seen=seen, log=node.log[: node.committed], unsettled=unsettled)
        after = after._replace(complete=DURABLY if node.complete == DURABLY else UNKNOWN)
        label = f"{name} crashes, keeps {node.committed} segments and starts again"
        if node.role == OWNER and node.epoch == record.epoch and not model.keeps(rules.NEW_EPOCH_FIRST):
            after = after._replace(role=OWNER, counted=record.eligible)
            label += f", as owner of epoch {node.epoch}"
        if after != node:
            yield label, change(spend(state, "crashes"), number, **after._asdict())._replace(late=late)
    if state.left.replaced and _another_holds(model, state, number):
        after = as_standby(node, epoch=0, promised=0, seen=record.epoch, log=(), committed=0, destaged=0, batch_end=0)
        after = after._replace(identity=node.identity + 1, complete=UNKNOWN if model.ram else DURABLY)
        following = change(spend(state, "replaced"), number, **after._asdict())
        yield f"{name} loses its log, and starts with an empty one", following._replace(late=late)


def _another_holds(model, state, number):
    record = state.record
    return any(
        other != number and state.nodes[other].identity == record.logs[other] and model.may_take_over(state, other)
        for other in (record.owner, *record.eligible)
    )


def steps(model, state, number):
    node, name = state.nodes[number], NAMES[number]
    for segment in state.sent:
        if segment.peer == number and node.epoch and node.log == segment.log[:-1]:
            if segment.epoch == node.seen or not model.keeps(rules.OLDER_REFUSED):
                yield f"{name} receives {_name(segment)}", change(state, number, log=segment.log)
    if node.committed < len(node.log):
        following = forget(model, change(state, number, committed=len(node.log)))
        yield f"{name} commits {len(node.log)} segments", following
    if node.asked is None and state.record.epoch >= node.epoch and model.may_take_over(state, number):
        yield from _ask(model, state, number)


def _name(segment):
    epoch, write = segment.log[-1]
    return f"segment {len(segment.log)} (write {write} of epoch {epoch}) from the owner of epoch {segment.epoch}"


def _ask(model, state, number):
    """Ask the record for the ownership. It costs nothing where nobody else is at it, so that a set that lost its owner
    gets on."""
    node, record = state.nodes[number], state.record
    if node.committed < len(node.log) and model.keeps(rules.COMMITTED_FIRST):
        return
    if number != record.owner and not node.unsettled and _at_work(state, record):
        if not state.left.takeovers:
            return
        state = spend(state, "takeovers")
    eligible = record.eligible
    if number != record.owner:
        eligible = (eligible | {record.owner}) - {number} if model.keeps(rules.OTHERS_ELIGIBLE) else frozenset()
    point = record.point if model.keeps(rules.POINT_KEPT) else node.log[: node.committed]
    epoch = record.epoch + 1
    swap = Swap(TAKE, None, record._replace(epoch=epoch, owner=number, eligible=eligible, point=point), None)
    following = change(state, number, seen=epoch, asked=swap, unsettled=False)
    if model.ram and model.keeps(rules.ASKED_DURABLE):
        following = change(following, number, promised=epoch, complete=DURABLY)
    yield f"{NAMES[number]} sends a swap: owner in epoch {epoch}, eligible {listed(eligible)}", following


def _at_work(state, record):
    owner = state.nodes[record.owner]
    return owner.asked is not None or (owner.role != STANDBY and owner.seen == record.epoch)
