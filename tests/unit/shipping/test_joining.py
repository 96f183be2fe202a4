# SPDX-License-Identifier: BSD-3-Clause
"""Each rule by which a standby's log goes on with the owner's, and each reason to refuse."""

import dataclasses

import pytest

from tests.support.shipped_log import LOG_BYTES, superblock
from wbcache_core.errors import PartedError, PeerRefusedError, SupersededError
from wbcache_core.format import standby_state
from wbcache_core.format.epoch import NO_EPOCH, Epoch, Switch
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.shipping.joining import as_of, beginning, join

FIRST, SECOND, THIRD = Epoch(1, 0x11), Epoch(2, 0x22), Epoch(3, 0x33)
TAKEN_OVER = Epoch(1000, 0x44)
CHECKSUMS = {50: 0x50, 60: 0x60, 80: 0x80, 100: 0x100}
"""Of the owner's descriptors, by where their segments end."""


def mine(**changes):
    """The owner's superblock: epoch 3 began at LSN 80; the origin has everything below 50."""
    history = (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60), Switch(THIRD, 80, 0x80))
    return superblock(
        epoch=THIRD, history=history, oldest=20, oldest_place=19, destaged=50, destaged_place=49,
        destaged_previous=0x50, batch_end=60, committed=90, **changes,
    )  # fmt: skip


def theirs(head, previous, epoch, history, **changes):
    own = mine()
    return StandbyState(
        **({
            "uuid": own.uuid, "log_bytes": LOG_BYTES, "used_bytes": LOG_BYTES, "origin_bytes": own.origin_bytes,
            "head": head, "head_place": head - 1, "previous": previous, "oldest": 1, "oldest_place": 0, "destaged": 1,
            "batch_end": 1, "epoch": epoch, "history": history,
        } | changes)
    )  # fmt: skip


def joined(state, own_epoch=SECOND, committed=100):
    return join("them", state, mine(), own_epoch, committed, CHECKSUMS.get)


@pytest.mark.parametrize("changes", [{"origin_bytes": 1 << 40}, {"used_bytes": LOG_BYTES // 2}])
def test_a_server_that_was_overtaken_stops_whatever_else_differs(changes):
    """The new owner's origin may have grown since: a refusal would let this one go on without it."""
    with pytest.raises(SupersededError):
        joined(theirs(100, CHECKSUMS[100], Epoch(1000, 5), (Switch(FIRST, 1, 0),), **changes))


def test_a_blank_log_begins_where_the_origin_ends():
    rule, lsn, first = joined(standby_state.blank(LOG_BYTES))
    assert (rule, lsn) == ("new", 50)
    assert (first.oldest, first.oldest_place, first.committed, first.batch_end) == (50, 49, 50, 60)
    assert first.history == (Switch(FIRST, 1, 0),) and first.epoch == THIRD


@pytest.mark.parametrize(
    ("head", "epoch"), [(50, FIRST), (60, FIRST), (60, SECOND), (80, SECOND), (80, THIRD), (100, THIRD)]
)
def test_a_log_that_ends_in_this_one_catches_up(head, epoch):
    rule, lsn, first = joined(theirs(head, CHECKSUMS[head], epoch, (Switch(FIRST, 1, 0),)))
    assert (rule, lsn, first) == ("catch-up", head, as_of(mine(), head))
    assert all(switch.first_lsn <= head for switch in first.history)


def test_an_epoch_without_segments_that_the_owner_replaced_does_not_matter():
    """The owner started twice without a write while the standby was away."""
    gone = Epoch(2, 0x99)
    rule, lsn, _ = joined(theirs(80, 0x80, gone, (Switch(FIRST, 1, 0), Switch(gone, 80, 0x80))))
    assert (rule, lsn) == ("catch-up", 80)


def test_a_log_that_ends_before_the_origin_begins_again():
    rule, lsn, first = joined(theirs(30, 0x30, FIRST, (Switch(FIRST, 1, 0),)))
    assert (rule, lsn) == ("begin-again", 50)
    assert first.oldest == first.destaged == first.committed == 50


def test_a_tail_of_the_last_run_is_cut_off():
    state = theirs(95, 0x95, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60)))
    assert joined(state)[:2] == ("cut", 80)


def test_a_tail_of_the_run_before_is_cut_off():
    """What this owner lost twice it never confirmed either."""
    assert joined(theirs(75, 0x75, FIRST, (Switch(FIRST, 1, 0),)))[:2] == ("cut", 60)


@pytest.mark.parametrize("own_epoch", [NO_EPOCH, TAKEN_OVER])
def test_a_tail_of_somebody_else_is_refused(own_epoch):
    """This log has taken over just now, or in its run before: somebody may have relied on that tail."""
    state = theirs(95, 0x95, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60)))
    words = r"LSN 80 to 95, of epoch 2, which this server does not have.*rejoin"
    with pytest.raises(PartedError, match=words) as raised:
        joined(state, own_epoch)
    assert raised.value.lsn == 80


@pytest.mark.parametrize("given_up_from", [79, 81, 95])
def test_it_is_refused_if_something_else_is_given_up(given_up_from):
    state = theirs(95, 0x95, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60)))
    with pytest.raises(PartedError):
        joined(dataclasses.replace(state, given_up_from=given_up_from), NO_EPOCH)


def test_a_tail_that_is_given_up_is_cut_off():
    state = theirs(95, 0x95, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60)))
    assert joined(dataclasses.replace(state, given_up_from=80), NO_EPOCH)[:2] == ("discard-tail", 80)


def test_a_peer_that_is_ahead_of_the_local_log_is_waited_for():
    assert joined(theirs(120, 0x120, THIRD, mine().history), committed=100) is None


def with_own_origins(state, **changes):
    """Found by an owner that has the log above, and an origin of its own."""
    superblock = mine(has_own_origins=True)
    changes = {"own_bytes": superblock.origin_bytes, **changes}
    state = dataclasses.replace(state, has_own_origins=not state.is_blank, **changes)
    return join("them", state, superblock, SECOND, 100, (CHECKSUMS | {40: 0x40}).get)


def test_a_blank_one_with_an_origin_of_its_own_is_filled():
    rule, lsn, first = with_own_origins(standby_state.blank(LOG_BYTES))
    assert (rule, lsn) == ("fill", 50) and first == beginning(mine(has_own_origins=True))


def test_with_an_origin_of_its_own_it_catches_up_from_wherever_the_log_begins():
    """It is told nothing about the origin of this node."""
    rule, lsn, first = with_own_origins(theirs(40, 0x40, FIRST, (Switch(FIRST, 1, 0),)))
    assert (rule, lsn) == ("catch-up", 40)
    assert (first.oldest, first.destaged, first.batch_end, first.committed) == (1, 1, 1, 40)


def test_one_that_ends_before_the_log_begins_is_filled():
    assert with_own_origins(theirs(30, 0x30, FIRST, (Switch(FIRST, 1, 0),)))[:2] == ("fill", 50)


def test_a_tail_is_cut_off_that_its_origin_does_not_have():
    state = theirs(95, 0x95, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60)), destaged=70, batch_end=80)
    assert with_own_origins(state)[:2] == ("cut", 80)


def test_an_origin_that_has_what_the_owner_lacks_is_filled():
    state = theirs(95, 0x95, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60)), destaged=70, batch_end=81)
    assert with_own_origins(state)[:2] == ("fill", 50)


def test_another_log_with_an_origin_of_its_own_is_refused():
    with pytest.raises(PeerRefusedError, match="is no copy of this one"):
        with_own_origins(theirs(80, 0x81, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60))))


def test_the_origins_have_to_be_of_the_same_size():
    size = mine().origin_bytes
    with pytest.raises(PeerRefusedError, match=f"peer 'them' has {size - 512} bytes, and the one here {size}"):
        with_own_origins(standby_state.blank(LOG_BYTES), own_bytes=size - 512)


@pytest.mark.parametrize("own", [False, True])
def test_both_have_to_mean_the_same_by_an_origin(own):
    superblock = mine(has_own_origins=own)
    state = standby_state.blank(LOG_BYTES, own_bytes=0 if own else superblock.origin_bytes)
    with pytest.raises(PeerRefusedError, match="give both the same"):
        join("them", state, superblock, SECOND, 100, CHECKSUMS.get)


@pytest.mark.parametrize(
    "state",
    [
        theirs(80, 0x81, SECOND, (Switch(FIRST, 1, 0), Switch(SECOND, 60, 0x60))),
        theirs(100, 0x101, THIRD, mine().history),
        theirs(70, 0x70, Epoch(2, 0x99), (Switch(Epoch(2, 0x99), 60, 0x61),)),
        theirs(30, 0x30, Epoch(2, 0x99), (Switch(Epoch(2, 0x99), 20, 0x61),)),
    ],
    ids=["another end", "another end in this epoch", "an epoch of its own", "an unknown epoch before the origin"],
)
def test_another_history_is_refused(state):
    with pytest.raises(PeerRefusedError, match="is no copy of this one"):
        joined(state)


@pytest.mark.parametrize("epoch", [Epoch(4, 0x44), Epoch(3, 0x99)])
def test_a_server_that_was_overtaken_stops(epoch):
    with pytest.raises(SupersededError, match="another server has taken over"):
        joined(theirs(100, 0x100, epoch, mine().history))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uuid": b"another volume!!"}, "another volume.*check peer="),
        ({"log_bytes": LOG_BYTES // 2}, "has only 2.0 MiB, this one 4.0 MiB"),
        ({"used_bytes": LOG_BYTES * 2, "log_bytes": LOG_BYTES * 2}, "has a log of"),
        ({"origin_bytes": 1 << 40}, "for an origin of"),
    ],
    ids=str,
)
def test_a_log_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(PeerRefusedError, match=words):
        joined(theirs(100, 0x100, THIRD, mine().history, **changes))
