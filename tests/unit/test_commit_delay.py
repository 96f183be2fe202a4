# SPDX-License-Identifier: BSD-3-Clause
"""When a commit waits for others: only if they were seen, and not for long if they stay away."""

import threading

import pytest

from tests.support.gated_origin import PATIENCE_S
from wbcache_core.flow.commit_delay import CommitDelay


@pytest.fixture
def delay():
    return CommitDelay()


def skipped(delay):
    """How many commits of two do not wait, before one does."""
    count = 0
    while True:
        delay.note_commit(served=2, waiting=0, seconds=0.0)
        if delay.begin(waiting=0):
            return count
        count += 1


def wait_in_vain(delay):
    delay.wait()
    delay.end()


def wait_with_success(delay):
    delay.note_waiter(1)
    delay.wait()
    delay.end()


def test_who_flushes_alone_never_waits(delay):
    assert not delay.begin(waiting=0)
    delay.note_commit(served=1, waiting=0, seconds=1.0)
    assert not delay.begin(waiting=0)


@pytest.mark.parametrize(("served", "waiting"), [(4, 0), (1, 3), (2, 2)])
def test_it_waits_for_those_who_were_there(delay, served, waiting):
    delay.note_commit(served, waiting, seconds=1.0)
    assert delay.begin(waiting=1)
    waiter = threading.Thread(target=delay.wait)
    waiter.start()
    delay.note_waiter(2)
    delay.note_waiter(3)
    waiter.join(PATIENCE_S)
    assert not waiter.is_alive()
    delay.end()
    # That was a success: the next commit waits again.
    assert delay.begin(waiting=1)


def test_nobody_is_missing(delay):
    delay.note_commit(served=3, waiting=1, seconds=1.0)
    assert not delay.begin(waiting=3)


def test_it_does_not_wait_for_ever(delay):
    delay.note_commit(served=2, waiting=0, seconds=1e9)
    assert delay.begin(waiting=0)
    delay.wait()
    delay.end()


def test_who_comes_when_it_has_just_stopped_waiting(delay):
    """All is as at the beginning: the next leader waits until its own have come."""
    delay.note_commit(served=2, waiting=0, seconds=0.0)
    assert delay.begin(waiting=0)
    delay.wait()
    delay.note_waiter(1)
    delay.end()
    assert not delay._is_complete.wait(0)


def test_a_leader_that_never_ended(delay):
    """No memory, say. What it left hinders nobody."""
    for _ in range(2):
        delay.note_commit(served=2, waiting=0, seconds=0.0)
        assert delay.begin(waiting=0)
        delay.note_waiter(1)
    delay.note_waiter(1)
    delay.wait()
    delay.end()


def test_less_and_less_often_in_vain(delay):
    counts = []
    for _ in range(6):
        counts.append(skipped(delay))
        wait_in_vain(delay)
    assert counts == [0, 4, 16, 64, 128, 128]


def test_successes_bring_it_back(delay):
    for _ in range(4):
        skipped(delay)
        wait_in_vain(delay)
    skipped(delay)
    for _ in range(7):
        wait_with_success(delay)
        assert skipped(delay) == 0, "nobody stayed away since"
    wait_in_vain(delay)
    assert skipped(delay) == 4, "as if it had never been in vain before"
