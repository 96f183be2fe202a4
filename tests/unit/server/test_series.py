# SPDX-License-Identifier: BSD-3-Clause
"""The samples of a server's life: how many there are, and that what they say adds up."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.counters import LOG, ONE, Counters
from wbcache_core.server.control.server import LONGEST_LINE
from wbcache_core.server.series import FIELDS, FIRST_INTERVAL_SECONDS, MOST_SAMPLES, SLOWEST, SUMS, Series

SECOND = 10**9


class Server:
    """Counters that a test changes, and a clock that it sets."""

    def __init__(self):
        self.now, self.counters, self.dirty, self.looks = 1000.0, Counters(), 0, 0
        self.series = Series(self.facts(), lambda: self.now)

    def facts(self):
        self.looks += 1
        return {
            "counters": self.counters.facts(),
            "bytes": {"dirty": self.dirty, "volatile": 0, "log_free": 10**9 - self.dirty},
        }  # fmt: skip

    def work(self, seconds=0.001):
        counters = self.counters
        counters.write_totals[0] += ONE + 4096
        counters.read_totals[LOG] += ONE + 8192
        counters.writes.note(round(seconds * SECOND))
        counters.flushes.note(round(seconds * SECOND))
        counters.log_pages += 2
        self.dirty += 8192

    def wait(self, seconds):
        self.now += seconds
        self.series.look(self.facts)

    def samples(self):
        return [dict(zip(FIELDS, sample, strict=True)) for sample in self.series.facts(self.facts())["samples"]]


@pytest.fixture
def server():
    return Server()


def test_a_sample_now_and_then(server):
    for _ in range(20):
        server.work()
        server.wait(FIRST_INTERVAL_SECONDS / 2)
    found = server.samples()
    assert [one["seconds"] for one in found] == [*(FIRST_INTERVAL_SECONDS * number for number in range(11)), 40.0]
    assert [one["writes"] for one in found] == [*range(0, 21, 2), 20]
    last = found[-1]
    assert (last["write_bytes"], last["read_bytes"], last["reads_log"]) == (20 * 4096, 20 * 8192, 20)
    assert (last["log_bytes"], last["dirty_bytes"]) == (40 * 4096, 20 * 8192)
    assert (last["timed_flushes"], last["flushes_us"]) == (20, 20_000)


def test_none_while_nothing_happens(server):
    server.work()
    for _ in range(10_000):
        server.wait(2)
    server.work()
    for _ in range(10_000):
        server.wait(2)
    found = [(one["seconds"], one["writes"]) for one in server.samples()]
    assert found == [(0, 0), (4, 1), (20_000, 1), (20_004, 2), (40_000, 2), (40_000, 2)]


def test_a_look_before_it_is_time_costs_nothing(server):
    server.wait(FIRST_INTERVAL_SECONDS)
    before = server.looks
    for _ in range(100):
        server.wait(0.01)
    assert server.looks == before


def test_there_are_never_more_than_so_many(server):
    for number in range(100_000):
        server.work(seconds=0.5 if number == 70_000 else 0.001)
        server.wait(2)
        assert len(server.series._samples) <= MOST_SAMPLES
    found = server.samples()
    assert len(found) > MOST_SAMPLES // 2 and found[0]["seconds"] == 0
    assert [one["writes"] for one in found] == [round(one["seconds"] / 2) for one in found]
    gaps = [late["seconds"] - early["seconds"] for early, late in itertools.pairwise(found[:-1])]
    assert max(gaps) <= 2 * server.series.facts(server.facts())["interval"]
    # What was slow once is still to be seen, where it was.
    (slow,) = [at for at, one in enumerate(found) if one["slowest_writes"] > 15]
    assert found[slow - 1]["writes"] < 70_001 <= found[slow]["writes"]


def test_an_answer_is_small(server):
    """As large as it gets: an answer of the control socket is at most about 200 KiB."""
    for _ in range(MOST_SAMPLES):
        server.counters.write_totals[0] += ONE * 10**12 + 10**16
        server.counters.read_totals[LOG] += ONE * 10**12 + 10**16
        server.counters.log_pages += 10**12
        server.counters.commits.note(10**15)
        server.wait(FIRST_INTERVAL_SECONDS)
    assert LONGEST_LINE < len(json.dumps(server.series.facts(server.facts()))) < 200_000


@given(st.lists(st.tuples(st.sampled_from(["work", "slow", "nothing"]), st.floats(0.1, 500)), max_size=80))
def test_it_adds_up(steps):
    """Whatever happens when: nothing is lost between two samples, and times and sums never go back."""
    server = Server()
    most = MOST_SAMPLES
    for what, seconds in steps:
        if what != "nothing":
            server.work(seconds=0.3 if what == "slow" else 0.001)
        server.wait(seconds)
    found = server.samples()
    assert len(found) <= most + 2
    for early, late in itertools.pairwise(found):
        assert all(early[name] <= late[name] for name in ("seconds", *SUMS))
    count = sum(what != "nothing" for what, _ in steps)
    assert found[-1]["writes"] == count and found[0]["writes"] == 0
    slow = any(what == "slow" for what, _ in steps)
    assert any(one["slowest_writes"] > 15 for one in found) == slow
    assert all(one[name] == 0 for one in found[:1] for name in SLOWEST)
