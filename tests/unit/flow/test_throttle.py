# SPDX-License-Identifier: BSD-3-Clause
"""Slowing writers by how full the log is."""

import threading
import time

import pytest

from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.policies import policy_with
from wbcache_core.counters import Counters
from wbcache_core.flow.throttle import Throttle
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.memory.cursors import NumberLine

DATA_PAGES = 10_000
HIGH_PAGES = 7500
SPAN = DATA_PAGES - MAX_SEGMENT_PAGES - HIGH_PAGES


@pytest.fixture
def line():
    return NumberLine(1000, DATA_PAGES, policy_with(DATA_PAGES, high_pages=HIGH_PAGES, commit_pages=100))


@pytest.fixture
def throttle(line):
    return Throttle(line, Counters())


@pytest.fixture
def waits(throttle, monkeypatch):
    """How long each pause was meant to be, in seconds; none of them takes its time."""
    found = []
    clock = [1000.0]

    def wait(seconds):
        found.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(throttle._stopped, "wait", wait)
    monkeypatch.setattr("wbcache_core.flow.throttle.time.monotonic", lambda: clock[0])
    return found


def fill(line, fullness):
    """0 at the high watermark, 1 where nothing more fits."""
    line.write_place = round(HIGH_PAGES + fullness * SPAN)


def test_below_the_high_watermark_nobody_waits(line, throttle, waits):
    throttle.note_destaged(100, 10.0)
    for fullness in (-3, -1, 0):
        fill(line, fullness)
        throttle.pause(100)
    assert waits == []


def test_nobody_waits_for_an_origin_whose_speed_is_not_known(line, throttle, waits):
    fill(line, 1)
    throttle.pause(100)
    assert sum(waits) == 0


def test_the_pause_grows_with_the_log_up_to_what_the_origin_takes(line, throttle, waits):
    throttle.note_destaged(1000, 2.0)
    for fullness in (0.25, 0.5, 1, 1.2):
        fill(line, fullness)
        throttle.pause(10)
    assert waits == pytest.approx([0.005, 0.01, 0.02, 0.02], rel=0.01)


def test_large_writes_wait_in_proportion_and_never_more_than_a_second(line, throttle, waits):
    throttle.note_destaged(1000, 2.0)
    fill(line, 1)
    for pages in (1, 100, 1000, 100_000):
        throttle.pause(pages)
    assert waits == pytest.approx([0.002, 0.2, 1.0, 1.0])


def test_writers_share_the_rate(line, throttle, monkeypatch):
    """Those that come at the same time wait one behind the other."""
    found = []
    monkeypatch.setattr(throttle._stopped, "wait", found.append)
    monkeypatch.setattr("wbcache_core.flow.throttle.time.monotonic", lambda: 1000.0)
    throttle.note_destaged(1000, 2.0)
    fill(line, 1)
    for _ in range(4):
        throttle.pause(100)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_who_comes_later_does_not_pay_for_a_quiet_time(line, throttle, waits, monkeypatch):
    throttle.note_destaged(1000, 2.0)
    fill(line, 1)
    throttle.pause(100)
    monkeypatch.setattr("wbcache_core.flow.throttle.time.monotonic", lambda: 5000.0)
    throttle.pause(100)
    assert waits == pytest.approx([0.2, 0.2])


@pytest.fixture
def at_once(line, throttle, monkeypatch):
    """Sixteen threads that came with 1 MiB each at the same moment, to an origin that takes 5 ms a page.

    Gives the clock, a list of one, and how long each was to wait.
    """
    found, clock = [], [1000.0]
    monkeypatch.setattr(throttle._stopped, "wait", found.append)
    monkeypatch.setattr("wbcache_core.flow.throttle.time.monotonic", lambda: clock[0])
    throttle.note_destaged(1000, 5.0)
    fill(line, 1)
    for _ in range(16):
        for _ in range(10):
            throttle.pause(256)
    assert found == pytest.approx([1.0] * 160)
    found.clear()
    return clock, found


def test_what_is_booked_is_never_more_than_a_writer_waits(throttle, at_once):
    """Who comes a second later does not pay what the others would have had to pay if they had waited for all of it."""
    clock, found = at_once
    clock[0] += 1.0
    for _ in range(3):
        throttle.pause(1)
    assert found == pytest.approx([0.005, 0.010, 0.015])


def test_what_is_booked_ends_with_the_throttling(line, throttle, at_once):
    """The log drained and is filling up again at once."""
    clock, found = at_once
    fill(line, -1)
    throttle.note_destaged(1000, 5.0)
    fill(line, 1)
    clock[0] += 0.1
    throttle.pause(1)
    assert found == pytest.approx([0.005])


def test_it_follows_the_speed_of_the_origin_smoothly(line, throttle, waits):
    fill(line, 1)
    throttle.note_destaged(1000, 1.0)
    for _ in range(20):
        throttle.note_destaged(1000, 10.0)
        throttle.pause(1)
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(0.0037)
    assert waits[-1] == pytest.approx(0.01, rel=0.05)


def test_a_stop_ends_a_pause_and_all_later_ones(line, throttle):
    throttle.note_destaged(1, 1.0)
    fill(line, 1)
    started = time.monotonic()
    pauses = [in_background(throttle.pause, 1) for _ in range(8)]
    threading.Event().wait(0.05)
    throttle.stop()
    for pause in pauses:
        pause.result(PATIENCE_S)
    throttle.pause(1)
    assert time.monotonic() - started < 0.9
