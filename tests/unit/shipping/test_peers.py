# SPDX-License-Identifier: BSD-3-Clause
"""Which peers count, and what waits for those that do."""

import dataclasses
import threading
import time

import pytest

from wbcache_core.clock import Reading
from wbcache_core.errors import LogFailedError, StoppedError, VolumeReplacedError
from wbcache_core.flow.admission import wait_for_peers
from wbcache_core.flow.retention import Pins
from wbcache_core.memory.cursors import NO_MARK, NumberLine
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.server.config import Config
from wbcache_core.shipping.peer import PeerRules, Peers
from wbcache_core.units import MIB

DATA_PAGES = 10_000
POLICY = Config(origin="/o", log="/l").policy(DATA_PAGES)


class Some:
    """A line with two peers, whose origin has everything below `floor`."""

    def __init__(self, may_go_on=True, history_ns=0):
        policy = dataclasses.replace(POLICY, history_ns=history_ns, may_go_on=may_go_on)
        self.line = NumberLine(1000, DATA_PAGES, policy)
        self.floor, self.current = 1, (1, 0)
        self.peers = Peers(PeerRules(("one", "two")), self.line, lambda: self.floor, lambda: self.current)
        self.one, self.two = self.peers.all
        self.pins = Pins(self.line, CoveredLog(MIB), 1, ())
        with self.line.lock:
            self.line.writable = True
            self.line.head = 101
            self.line.note_committed(101, 100)

    def limit(self):
        with self.line.lock:
            return self.pins.limit()

    def be_silent(self, peer, seconds):
        self.peers.note_silence(peer, time.monotonic() - seconds)


@pytest.fixture
def some():
    return Some()


def test_all_count_at_first(some):
    """They may have been up to date when the server ended."""
    assert (some.line.peers_received, some.line.peers_committed, some.line.peers_place) == (1, 1, 0)


def test_the_lowest_counts(some):
    some.peers.note(some.one, received=90, committed=80, place=7)
    some.peers.note(some.two, received=70, committed=70, place=9)
    assert (some.line.peers_received, some.line.peers_committed, some.line.peers_place) == (70, 70, 7)


def test_without_peers_nothing_is_held_back():
    line = NumberLine(1000, DATA_PAGES, POLICY)
    Peers(PeerRules(), line, lambda: 1, lambda: (1, 0))
    assert (line.peers_received, line.peers_committed, line.peers_place) == (NO_MARK, NO_MARK, NO_MARK)


def test_the_origin_does_not_get_ahead(some):
    assert some.limit() == 1
    some.peers.note(some.one, committed=80)
    some.peers.note(some.two, committed=70)
    assert some.limit() == 70
    some.peers.note(some.two, committed=200)
    assert some.limit() == 80


def test_the_destager_sleeps_until_the_peer_has_more():
    """Also where the history would let go of something long ago."""
    some = Some(history_ns=1)
    with some.line.lock:
        some.pins._covered.generations.append(1, 51, Reading(1))
        assert some.pins.limit() == some.line.destaged
        assert some.pins.seconds_until_more() == float("inf")


def test_places_that_a_peer_needs_are_not_written(some):
    line = some.line
    with line.lock:
        line.note_committed(101, DATA_PAGES + 50)
        line.reclaimed_place = 900
        line.destaged_place = 900
    for peer in some.peers.all:
        some.peers.note(peer, place=950)
    assert line.free_pages == 850 and line.reusable_place == 900
    some.peers.note(some.one, place=100)
    assert line.free_pages == 50 and line.reusable_place == 100
    assert line.limit == line.committed


def test_one_that_is_silent_for_long_is_left_out(some):
    some.peers.note(some.one, received=90, committed=80, place=7)
    some.be_silent(some.two, 5)
    assert not some.peers.leave_out(some.two)
    some.be_silent(some.two, 11)
    assert some.peers.leave_out(some.two)
    assert (some.line.peers_received, some.line.peers_committed) == (90, 80)
    assert not some.peers.leave_out(some.two), "it is left out already"


def test_one_that_answers_is_not_left_out(some):
    some.peers.note_silence(some.two, 0.0)
    assert not some.peers.leave_out(some.two)


def test_none_is_left_out_if_they_are_waited_for():
    some = Some(may_go_on=False)
    some.be_silent(some.two, 1000)
    assert not some.peers.leave_out(some.two)
    assert some.line.peers_committed == 1
    # Somebody decides otherwise.
    some.line.apply(dataclasses.replace(some.line.policy, may_go_on=True))
    assert some.peers.leave_out(some.two)


@pytest.mark.parametrize(
    ("changes", "is_let_in"),
    [
        ({}, True),
        ({"committed": 79}, False),
        ({"sequence": 4}, False),
        ({"place": 39}, False),
    ],
    ids=["with all of it", "behind the origin", "with an older superblock", "with places that were written again"],
)
def test_who_is_let_in(some, changes, is_let_in):
    some.be_silent(some.two, 11)
    some.peers.leave_out(some.two)
    some.floor, some.current = 80, (5, 40)
    some.peers.note(some.two, **({"committed": 80, "received": 85, "sequence": 5, "place": 40} | changes))
    assert some.peers.let_in(some.two) is is_let_in
    assert some.two.counts is is_let_in


def waiting(some, lsn, is_durable):
    """A thread that waits; returns it and its outcomes."""
    outcomes = []

    def wait():
        try:
            with some.line.lock:
                wait_for_peers(some.line, lsn, is_durable)
            outcomes.append(None)
        except Exception as error:
            outcomes.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, outcomes


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_wait_ends_when_all_have_it(some, is_durable):
    thread, outcomes = waiting(some, 60, is_durable)
    some.peers.note(some.one, received=60, committed=60)
    some.peers.note(some.two, received=60, committed=59)
    if is_durable:
        time.sleep(0.1)
        assert not outcomes
        some.peers.note(some.two, committed=60)
    thread.join(20)
    assert outcomes == [None]


def test_a_wait_ends_when_the_last_is_left_out(some):
    thread, outcomes = waiting(some, 60, True)
    for peer in some.peers.all:
        some.be_silent(peer, 11)
        some.peers.leave_out(peer)
    thread.join(20)
    assert outcomes == [None]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda line: line.stop(drain=False), StoppedError),
        (lambda line: fail(line), LogFailedError),
        (lambda line: replace(line), VolumeReplacedError),
    ],
    ids=["stop", "failed log", "another log"],
)
def test_a_wait_never_ends_with_success_otherwise(some, change, error):
    thread, outcomes = waiting(some, 60, True)
    time.sleep(0.05)
    change(some.line)
    thread.join(20)
    assert outcomes == [error]


def fail(line):
    with line.lock:
        line.log_error = LogFailedError("failed")
        line.moved.notify_all()


def replace(line):
    with line.lock:
        line.is_replaced = True
        line.moved.notify_all()


def test_one_standby_is_one_peer(some):
    assert some.peers.claim(some.one, "a standby") is None
    assert some.peers.claim(some.one, "a standby") is None
    assert some.peers.claim(some.two, "a standby") is some.one
    assert some.peers.claim(some.two, "another") is None
    some.peers.release(some.one)
    some.peers.release(some.two)
    assert some.peers.claim(some.two, "a standby") is None


def test_standbys_that_do_not_say_who_they_are(some):
    assert some.peers.claim(some.one, "") is None
    assert some.peers.claim(some.two, "") is None


def test_what_is_everywhere(some):
    """On the origins of all nodes, whether they count or not, and of this one."""
    some.line.destaged = 60
    assert some.peers.everywhere() == 0
    some.peers.note(some.one, destaged=50)
    assert some.peers.everywhere() == 0
    some.peers.note(some.two, destaged=40)
    assert some.peers.everywhere() == 40
    some.be_silent(some.two, 1000)
    assert some.peers.leave_out(some.two) and some.peers.everywhere() == 40
    some.peers.note(some.two, destaged=70)
    some.peers.note(some.one, destaged=70)
    assert some.peers.everywhere() == 60
