# SPDX-License-Identifier: BSD-3-Clause
"""Carrying a batch to the origin: order, parallel writes, failures, stops."""

import threading
import time

import pytest

from tests.support.bulk_writes import BulkWrites
from tests.support.injected_errors import threads_that_fail
from tests.support.simulated_disk import SimulatedDisk
from tests.unit.flow.test_batch import START_LSN, build, replay
from wbcache_core.errors import DeviceError, DeviceLostError, StoppedError
from wbcache_core.flow import origin_writer
from wbcache_core.flow.origin_writer import OriginWriter
from wbcache_core.format.segment import PAGE, TRIM, ZERO
from wbcache_core.units import PAGE_BYTES

BLOCKS = 200
SPREAD = [[(PAGE, 2 * block, 1) for block in range(100)], [(TRIM, 50, 9), (ZERO, 70, 3), (PAGE, 52, 1)]]
"""Every other block, and so a request each."""


class Recorder(SimulatedDisk):
    """Keeps a list of (verb, offset, length), and the threads that came; each request takes `seconds`."""

    def __init__(self, seconds=0.0):
        super().__init__(b"\xee" * (BLOCKS * PAGE_BYTES - 512))
        self.calls, self.threads, self.seconds = [], set(), seconds

    def write(self, views, offset):
        self._note("write", offset, sum(map(len, views)))
        super().write(views, offset)

    def zero(self, offset, length, may_trim):
        self._note("trim" if may_trim else "zero", offset, length)
        super().zero(offset, length, may_trim)

    def sync(self):
        self._note("sync", 0, 0)
        super().sync()

    def _note(self, *call):
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        self.calls.append(call)


class BulkRecorder(BulkWrites, Recorder):
    """Takes some writes in a call."""


@pytest.fixture(params=["fast", "slow", "bulk"])
def origin(request):
    return {"fast": Recorder, "slow": lambda: Recorder(0.001), "bulk": BulkRecorder}[request.param]()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(origin_writer, "_RETRY_PAUSES", (0.0, 0.0))


DEPTH = 4


def make_writer(origin, should_stop=lambda: False):
    return OriginWriter(origin, should_stop)


def expected_content():
    content = bytearray(b"\xee" * BLOCKS * PAGE_BYTES)
    replay(SPREAD, content, START_LSN)
    return content[: BLOCKS * PAGE_BYTES - 512]


def test_a_batch_is_durable_when_write_returns(origin):
    writer = make_writer(origin)
    assert writer.write(build(SPREAD), DEPTH) == len(origin.calls) - 1
    assert origin.durable == expected_content()
    verbs = [verb for verb, _, _ in origin.calls]
    assert sorted(verbs[:2]) == ["trim", "zero"], "ranges go before pages"
    assert verbs[-1] == "sync"
    assert verbs.count("sync") == 1
    writer.close()


@pytest.mark.parametrize(("slow_seconds", "several"), [(1000.0, False), (0.0, True)])
def test_only_an_origin_slower_than_a_limit_gets_more_than_one_thread(monkeypatch, slow_seconds, several):
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", slow_seconds)
    origin = Recorder(0.001)
    writer = make_writer(origin)
    writer.write(build(SPREAD), DEPTH)
    assert (len(origin.threads) > 1) == several
    assert len(origin.threads) <= 1 + 4
    writer.close()


@pytest.mark.parametrize(("slow_seconds", "writes_in_bulk"), [(1000.0, 46), (0.0, 0)])
def test_only_a_quick_origin_gets_many_writes_in_a_call(monkeypatch, slow_seconds, writes_in_bulk):
    """Of 94 writes it gets by turns four alone and four at once."""
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", slow_seconds)
    origin = BulkRecorder()
    writer = make_writer(origin)
    writer.write(build(SPREAD), DEPTH)
    assert [verb for verb, _, _ in origin.calls].count("write") == 94
    assert origin.in_bulk == writes_in_bulk
    assert origin.durable == expected_content()
    writer.close()


@pytest.mark.parametrize("failures", [1, 2, 100])
def test_what_fails_among_many_is_repeated_and_told_of(monkeypatch, failures):
    # On a busy machine this origin is slow, too.
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", 1000.0)
    origin = BulkRecorder()
    write, refused = origin.write, []

    def write_bulk(writes):
        *others, last = writes
        for offset, views in others:
            write(views, offset)
        refused.append(last[0])
        return [(last, DeviceError("refused"))]

    def write_alone(views, offset):
        if refused.count(offset) and len(alone) < failures:
            alone.append(offset)
            raise DeviceError("refused once more")
        write(views, offset)

    alone = []
    monkeypatch.setattr(origin, "write_bulk", write_bulk)
    monkeypatch.setattr(origin, "write", write_alone)
    writer = make_writer(origin)
    if failures == 100:
        with pytest.raises(DeviceError, match="refused"):
            writer.write(build(SPREAD), DEPTH)
        assert "sync" not in [verb for verb, _, _ in origin.calls]
    else:
        writer.write(build(SPREAD), DEPTH)
        assert origin.durable == expected_content()
        assert len(set(refused)) == 12
        assert len(alone) == failures
    writer.close()


def test_depth_one_on_a_slow_origin_is_one_request_at_a_time_even_so(monkeypatch):
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", 0.0)
    origin = BulkRecorder()
    make_writer(origin).write(build(SPREAD), 1)
    assert origin.in_bulk == 0
    assert origin.durable == expected_content()


def test_an_origin_that_takes_no_more_of_them_is_written_alone(monkeypatch):
    origin = BulkRecorder()
    monkeypatch.setattr(origin, "bulk_depth", 0)
    make_writer(origin).write(build(SPREAD), DEPTH)
    assert origin.in_bulk == 0
    assert origin.durable == expected_content()


def test_one_call_writes_only_so_much(monkeypatch):
    monkeypatch.setattr(origin_writer, "_BULK_PAGES", 20)
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", 1000.0)
    origin = BulkRecorder()
    lengths = []

    def write_bulk(writes):
        lengths.append([sum(map(len, views)) // PAGE_BYTES for _, views in writes])
        return []

    monkeypatch.setattr(origin, "write_bulk", write_bulk)
    batch = build([[(PAGE, start + page, 1) for start in range(0, 200, 10) for page in range(9)]])
    make_writer(origin).write(batch, DEPTH)
    assert lengths == [[9, 9, 9], [9, 9, 9], [9, 9]]


def test_a_batch_is_made_ready_in_parts(monkeypatch):
    monkeypatch.setattr(origin_writer, "_PART_RUNS", 7)
    origin = BulkRecorder()
    assert make_writer(origin).write(build(SPREAD), DEPTH) == len(origin.calls) - 1
    assert origin.durable == expected_content()
    assert [verb for verb, _, _ in origin.calls].count("sync") == 1


def test_depth_one_is_one_request_at_a_time():
    origin = Recorder(0.001)
    make_writer(origin).write(build(SPREAD), 1)
    assert origin.threads == {threading.current_thread()}


def test_each_batch_has_a_depth_of_its_own():
    origin = Recorder(0.002)
    writer = make_writer(origin)
    for depth in (1, 6, 2, 6, 1):
        origin.threads.clear()
        writer.write(build(SPREAD), depth)
        helpers = origin.threads - {threading.current_thread()}
        assert 1 < len(helpers) <= depth if depth > 1 else not helpers
        assert origin.durable == expected_content()
    writer.close()


def test_large_ranges_are_cut_and_neighbours_merged():
    origin = Recorder()
    batch = build([[(TRIM, 0, 10), (TRIM, 10, 5), (ZERO, 15, 5), (TRIM, 20, 180)]])
    make_writer(origin).write(batch, DEPTH)
    assert origin.calls == [
        ("trim", 0, 15 * PAGE_BYTES),
        ("zero", 15 * PAGE_BYTES, 5 * PAGE_BYTES),
        ("trim", 20 * PAGE_BYTES, 180 * PAGE_BYTES - 512),
        ("sync", 0, 0),
    ]


def test_a_huge_range_is_cut(monkeypatch):
    monkeypatch.setattr(origin_writer, "_CLEAR_BLOCKS", 64)
    origin = Recorder()
    make_writer(origin).write(build([[(ZERO, 10, 150)]]), DEPTH)
    lengths = [length // PAGE_BYTES for _, _, length in origin.calls]
    assert lengths == [64, 64, 22, 0]


@pytest.mark.parametrize("kind", ["write", "zero"])
def test_requests_that_fail_once_are_repeated(origin, kind):
    origin.faults.failing.add(kind)
    origin.faults.times = 2
    writer = make_writer(origin)
    writer.write(build(SPREAD), DEPTH)
    assert origin.durable == expected_content()
    writer.close()


@pytest.mark.parametrize("kind", ["write", "zero", "sync"])
def test_an_origin_that_goes_on_failing_is_an_error(origin, kind):
    origin.faults.failing.add(kind)
    writer = make_writer(origin)
    with pytest.raises(DeviceError):
        writer.write(build(SPREAD), DEPTH)
    if kind != "sync":
        assert "sync" not in [verb for verb, _, _ in origin.calls]
    origin.faults.failing.clear()
    writer.write(build(SPREAD), DEPTH)
    assert origin.durable == expected_content()
    writer.close()


def test_what_may_be_lost_with_the_connection_is_not_repeated_alone(origin, monkeypatch):
    def lose(views, offset):
        origin.calls.append(("lost", offset, 0))
        raise DeviceLostError("the connection is gone")

    monkeypatch.setattr(origin, "write", lose)
    writer = make_writer(origin)
    with pytest.raises(DeviceLostError):
        writer.write(build(SPREAD), 1)
    assert [verb for verb, _, _ in origin.calls].count("lost") == 1
    writer.close()


def test_a_stop_is_asked_for_before_each_request(origin):
    stop = []

    def should_stop():
        stop.append(len(origin.calls))
        return len(origin.calls) >= 20

    writer = make_writer(origin, should_stop=should_stop)
    with pytest.raises(StoppedError):
        writer.write(build(SPREAD), DEPTH)
    assert 20 <= len(origin.calls) <= 20 + 4
    writer.close()


@pytest.mark.parametrize("started", range(5))
def test_helpers_that_cannot_be_started_are_done_without(monkeypatch, started):
    """The batch is written all the same, and nothing of it goes on behind its sync."""
    monkeypatch.setattr(origin_writer, "_SLOW_WRITE_SECONDS", -1.0)
    origin = Recorder(0.0005)
    writer = make_writer(origin)
    with threads_that_fail(monkeypatch, started):
        writer.write(build(SPREAD), DEPTH)
    assert origin.durable == expected_content()
    assert origin.calls[-1][0] == "sync"
    origin.calls.clear()
    writer.write(build(SPREAD), DEPTH)
    assert origin.calls[-1][0] == "sync"
    writer.close()


def test_close_ends_the_threads():
    origin = Recorder(0.002)
    writer = make_writer(origin)
    writer.write(build(SPREAD), DEPTH)
    writer.close()
    assert not any(thread.is_alive() for thread in origin.threads - {threading.current_thread()})
    make_writer(Recorder()).close()
