# SPDX-License-Identifier: BSD-3-Clause
"""The map and the records forget what they described when it is gone, and nothing sooner."""

import pytest

from tests.support.gated_origin import wait_until
from tests.support.local_pair import QUIET
from wbcache_core.flow import destager, sweeper
from wbcache_core.flow.admission import wait_for_destaged
from wbcache_core.flow.sweeper import Sweeper
from wbcache_core.memory import heap
from wbcache_core.memory.block_map import HOLE_FLAG, REGION_BLOCKS, ZERO_FLAG, LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.units import MIB, PAGE_BYTES

TRIMS = 3000
FAR = 16 * MIB
STEP = 2 * MIB
"""Each trim is in a region of its own."""


@pytest.fixture
def given_back(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "give_back", lambda: calls.append(1))
    return calls


def read(volume, offset, count=PAGE_BYTES):
    found = bytearray(count)
    volume.read_into(found, offset)
    return bytes(found)


def start(pair, **parameters):
    pair.make_origin(FAR + (TRIMS + 1) * STEP)
    with open(pair.origin, "r+b") as file:
        file.write(b"o" * MIB)
    return pair.start(**{**QUIET, "log_size": "16M", "ring_size": "8M", "commit_size": "4M", **parameters})


def trim_all_over(volume, step=STEP):
    for number in range(TRIMS):
        volume.trim(5 * PAGE_BYTES, FAR + number * step)


def test_trims_and_records_are_forgotten_after_a_drain_and_pages_are_not(pair, monkeypatch):
    monkeypatch.setattr(sweeper, "_MUCH", 1000)
    calls = []
    monkeypatch.setattr(heap, "give_back", lambda: calls.append(1))
    cache = start(pair)
    cache.volume.write(b"w" * PAGE_BYTES, 0)
    cache.volume.trim(PAGE_BYTES, PAGE_BYTES)
    trim_all_over(cache.volume)
    cache.volume.trim(3 * STEP, FAR)
    assert len(cache._locations) > TRIMS - 10
    entry = cache._locations.get(0)
    cache.drain()
    wait_until(lambda: len(cache._locations) == 1)
    assert cache._locations.get(0) == entry >= cache._line.oldest
    assert cache._locations.get(1) == 0
    assert cache._covered.records._chunks == []
    assert len(cache._covered.generations) == 1
    assert read(cache.volume, 0, 3 * PAGE_BYTES) == b"w" * PAGE_BYTES + bytes(PAGE_BYTES) + b"o" * PAGE_BYTES
    assert read(cache.volume, FAR) == bytes(PAGE_BYTES)
    wait_until(lambda: calls)
    cache.volume.write(b"w" * PAGE_BYTES, 0)
    cache.drain()
    assert calls == [1], "once a drain, and only where there was much"


def test_the_memory_of_a_batch_is_not_kept_while_the_next_one_has_time(pair, monkeypatch):
    monkeypatch.setattr(destager, "_IDLE_SECONDS", 3600.0)
    cache = start(pair)
    line = cache._line
    for number in range(1500):
        cache.volume.write(b"w" * PAGE_BYTES, number * PAGE_BYTES)
    cache.volume.flush()
    with line.lock:
        wait_for_destaged(line, 100)
        assert line.destaged < line.committed
    wait_until(lambda: cache._destager._executor._image is None)
    with line.lock:
        assert line.destaged < line.committed


def test_what_a_tag_holds_back_is_kept(pair):
    """The origin has the old data there, and would be asked."""
    cache = start(pair, history="1h")
    cache.volume.write(b"w" * PAGE_BYTES, 0, fua=True)
    trim_all_over(cache.volume, step=16 * PAGE_BYTES)
    cache.volume.trim(PAGE_BYTES, 7 * PAGE_BYTES)
    cache.volume.flush()
    with cache._line.lock:
        assert cache._line.destaged < cache._line.committed
    cache._destager._sweeper.sweep()
    assert read(cache.volume, 7 * PAGE_BYTES) == bytes(PAGE_BYTES)
    assert read(cache.volume, 8 * PAGE_BYTES) == b"o" * PAGE_BYTES




class Line(NumberLine):
    """Cursors that the test moves."""

    def __init__(self):
        super().__init__(64, 1600, 0, 0)
        self.oldest = self.destaged = self.committed = self.head = 1

    def move(self, oldest, destaged, committed):
        with self.lock:
            self.oldest, self.destaged, self.committed, self.head = oldest, destaged, committed, committed


def flood(locations, count, first_region=0, lsn=1):
    for number in range(count):
        locations.set_all((first_region + number) * REGION_BLOCKS + 9, 50, ZERO_FLAG | HOLE_FLAG | lsn)


def never():
    return False


def test_a_sweep_stops_for_a_batch_and_goes_on_where_it_was():
    line, locations = Line(), LocationMap()
    one = Sweeper(line, locations)
    flood(locations, 2000)
    line.move(1, 10, 10)
    turns = iter([False] * 10)
    one.sweep_while_idle(lambda: next(turns, True))
    left = len(locations)
    assert 0 < left < 2000 and one.is_wanted()
    one.sweep_while_idle(lambda: True)
    assert len(locations) == left
    one.sweep_while_idle(never)
    assert len(locations) == 0 and not one.is_wanted()


def test_a_stop_ends_a_sweep():
    line, locations = Line(), LocationMap()
    one = Sweeper(line, locations)
    flood(locations, 2000)
    line.move(1, 10, 10)
    line.stop(drain=False)
    one.sweep()
    assert len(locations) == 2000


def test_a_few_trims_beside_many_pages_are_not_worth_a_sweep():
    line, locations = Line(), LocationMap()
    one = Sweeper(line, locations)
    line.move(1, 10, 10)
    flood(locations, sweeper._LEAST_CLEARINGS - 1)
    assert not one.is_wanted()
    flood(locations, 1, 10**6)
    assert one.is_wanted()
    for number in range(20000):
        locations.set_page((10**7 + number) * REGION_BLOCKS, 5)
    assert not one.is_wanted()


def test_while_the_rest_is_held_back_a_sixteenth_of_the_log_has_to_come_first():
    line, locations = Line(), LocationMap()
    one = Sweeper(line, locations)
    flood(locations, 2000)
    line.move(1, 99, 1000)
    assert not one.is_wanted()
    line.move(1, 101, 1000)
    assert one.is_wanted()
    one.sweep_while_idle(never)
    assert len(locations) == 0
    flood(locations, 2000, lsn=500)
    line.move(1, 300, 1000)
    one.sweep_while_idle(never)
    assert len(locations) == 2000 and not one.is_wanted(), "these are not on the origin"


def test_memory_is_given_back_when_all_is_drained_and_not_before(given_back):
    line, locations = Line(), LocationMap()
    one = Sweeper(line, locations)
    flood(locations, 2 * sweeper._MUCH)
    line.move(10, 10, 1000)
    one.sweep()
    one.sweep_while_idle(never)
    assert len(locations) == 0 and not given_back
    line.move(10, 1000, 1000)
    assert one.is_wanted()
    one.sweep_while_idle(never)
    one.sweep_while_idle(never)
    assert given_back == [1] and not one.is_wanted()


def test_giving_back_harms_nothing():
    heap.give_back()
