# SPDX-License-Identifier: BSD-3-Clause
"""When an epoch begins, and which segments may belong to which one."""

import pytest

from wbcache_core.errors import FormatError, LogRefusedError
from wbcache_core.format.epoch import HISTORY_LENGTH, LAST_NUMBER, NO_EPOCH, Epoch, Switch, following
from wbcache_core.format.superblock import MIN_LOG_BYTES, SAMPLE_COUNT, Superblock, decode, encode
from wbcache_core.log.epochs import EpochOrder, new_epoch, was_cut_off

FIRST = Superblock(bytes(16), 1, MIN_LOG_BYTES, 1 << 20, "/origin", (0,) * SAMPLE_COUNT)
SECOND, FOURTH, FIFTH = Epoch(2, 22), Epoch(4, 44), Epoch(5, 55)
SUPERBLOCK = FIRST.with_changes(
    committed=1000, epoch=FIFTH, history=(Switch(SECOND, 100, 0xA), Switch(FOURTH, 200, 0xB), Switch(FIFTH, 300, 0xC))
)


def begun(superblock, first_lsn, previous=7):
    return superblock.with_changes(committed=first_lsn, **new_epoch(superblock, first_lsn, previous))


def test_the_first_epoch():
    superblock = begun(FIRST, 1, 0)
    assert superblock.epoch.number == 1 and superblock.epoch.id
    assert superblock.history == (Switch(superblock.epoch, 1, 0),)


def test_each_epoch_has_an_id_of_its_own():
    assert len({begun(FIRST, 1).epoch for _ in range(50)}) == 50


def test_an_epoch_without_a_segment_is_replaced():
    superblock = FIRST
    for _ in range(40):
        superblock = begun(superblock, 50)
    assert superblock.epoch.number == 40
    assert superblock.history == (Switch(superblock.epoch, 50, 7),)


def test_the_oldest_is_forgotten():
    superblock, all_of_them = FIRST, []
    for number in range(HISTORY_LENGTH + 5):
        superblock = begun(superblock, 10 + number, number)
        all_of_them.append(Switch(superblock.epoch, 10 + number, number))
    assert superblock.history == tuple(all_of_them[5:])
    assert decode(memoryview(encode(superblock))) == superblock


def test_the_last_number_is_refused_by_name():
    last = begun(FIRST.with_changes(epoch=Epoch(LAST_NUMBER - 1, 1)), 9)
    assert last.epoch.number == LAST_NUMBER
    with pytest.raises(LogRefusedError, match=f"epoch {LAST_NUMBER} is the last one"):
        new_epoch(last, 10, 0)


CHAIN = (
    (50, NO_EPOCH), (99, Epoch(1, 11)), (100, SECOND), (150, Epoch(3, 33)), (200, FOURTH), (250, FOURTH), (300, FIFTH)
)  # fmt: skip
PREVIOUS = {100: 0xA, 200: 0xB, 300: 0xC}


@pytest.mark.parametrize("start", range(len(CHAIN)))
def test_what_was_written_is_admitted_from_wherever_one_starts(start):
    order = EpochOrder(SUPERBLOCK)
    for lsn, epoch in CHAIN[start:]:
        assert order.admits(lsn, PREVIOUS.get(lsn, 1), epoch)
    assert order.admits(350, 1, FIFTH) and order.admits(10**9, 1, FIFTH)


@pytest.mark.parametrize(
    ("lsn", "epoch"),
    [
        (50, SECOND),
        (99, FIFTH),
        (99, Epoch(2, 23)),
        (100, NO_EPOCH),
        (100, Epoch(1, 11)),
        (100, Epoch(2, 23)),
        (150, NO_EPOCH),
        (150, FOURTH),
        (200, Epoch(3, 33)),
        (250, Epoch(4, 45)),
        (299, FIFTH),
        (300, FOURTH),
        (300, Epoch(5, 56)),
        (300, Epoch(6, 66)),
        (350, FOURTH),
        (350, Epoch(LAST_NUMBER, 1)),
    ],
    ids=str,
)
def test_what_cannot_be_is_not_admitted(lsn, epoch):
    """Too early for its epoch, too late, of another owner with the same number, or not known to the superblock."""
    assert not EpochOrder(SUPERBLOCK).admits(lsn, PREVIOUS.get(lsn, 1), epoch)


@pytest.mark.parametrize("lsn", PREVIOUS)
def test_a_switch_after_another_descriptor_is_not_admitted(lsn):
    assert not EpochOrder(SUPERBLOCK).admits(lsn, 0xBAD, dict(CHAIN)[lsn])


def test_an_epoch_never_falls_also_without_a_history():
    order = EpochOrder(SUPERBLOCK.with_changes(history=()))
    assert order.admits(1, 0, NO_EPOCH) and order.admits(2, 0, SECOND)
    assert not order.admits(3, 0, NO_EPOCH)
    assert not order.admits(3, 0, Epoch(1, 11))
    assert not order.admits(3, 0, Epoch(2, 23))
    assert order.admits(3, 0, SECOND) and order.admits(4, 0, Epoch(3, 33)) and order.admits(5, 0, FIFTH)


def test_what_was_not_admitted_does_not_count():
    order = EpochOrder(SUPERBLOCK)
    assert not order.admits(150, 1, FOURTH)
    assert order.admits(150, 1, SECOND)


def test_a_takeover_is_later_than_restarts_that_nobody_heard_of():
    assert following(Epoch(7, 1), takes_over=True).number == 1000
    assert following(Epoch(1000, 1), takes_over=True).number == 2000
    assert following(Epoch(1000, 1)).number == 1001
    with pytest.raises(FormatError):
        following(Epoch(LAST_NUMBER - 5, 1), takes_over=True)


def test_which_segments_were_cut_off():
    history = (Switch(Epoch(1, 1), 30, 8), Switch(Epoch(2, 2), 50, 9))
    superblock = FIRST.with_changes(committed=60, epoch=Epoch(2, 2), history=history)
    assert was_cut_off(superblock, Epoch(1, 1), 50) and was_cut_off(superblock, Epoch(2, 3), 60)
    assert not was_cut_off(superblock, Epoch(1, 1), 49) and not was_cut_off(superblock, Epoch(2, 2), 70)
    # The history of a standby ends before its newest epoch.
    behind = superblock.with_changes(epoch=Epoch(1000, 5))
    assert was_cut_off(behind, Epoch(3, 3), 60) and not was_cut_off(behind, Epoch(1000, 5), 70)
    assert not was_cut_off(superblock, NO_EPOCH, 20)
