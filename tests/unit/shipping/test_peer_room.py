# SPDX-License-Identifier: BSD-3-Clause
"""When a peer whose log is full counts as one that does not answer."""

import dataclasses

import pytest

from wbcache_core.format.standby_state import blank
from wbcache_core.shipping import peer_room
from wbcache_core.shipping.peer_room import PeerRoom
from wbcache_core.units import MIB

WELL = blank(MIB, own_bytes=MIB)
FAILING = dataclasses.replace(WELL, is_failing=True)


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(peer_room.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def room():
    room = PeerRoom(2.0)
    room.note(FAILING)
    return room


def lacks_for(room, now, seconds):
    for _ in range(int(seconds * 4)):
        room.lacks()
        now[0] += 0.25


def test_a_peer_whose_origin_fails_is_no_better_than_silent(room, now):
    lacks_for(room, now, 2.25)
    assert not room.problem
    room.lacks()
    assert room.problem == "its log is full, and its origin has been failing for 2 s"
    room.found()
    assert room.problem
    room.note(WELL)
    assert not room.problem


def test_one_whose_origin_is_slow_is_waited_for(room, now):
    room.note(WELL)
    lacks_for(room, now, 60)
    assert not room.problem


@pytest.mark.parametrize("end", ["found", "note"])
def test_room_in_between_is_a_beginning(room, now, end):
    for _ in range(3):
        lacks_for(room, now, 2)
        room.found() if end == "found" else room.note(WELL)
        room.note(FAILING)
    assert not room.problem
