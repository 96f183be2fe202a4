# SPDX-License-Identifier: BSD-3-Clause
"""Power fails at any write or sync of a rewind: the volume is as it was or as it was to be, and the log is sound."""

import os
import random
from unittest import mock

import pytest

from tests.cli.history import History
from tests.crash.replay import Replay
from tests.support.matching import same
from tests.support.simulated_disk import STYLES, Journal, MemoryDisk, SimulatedDisk
from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.errors import DeviceError
from wbcache_core.format.superblock import DATA_START
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.tools.checker import examine
from wbcache_core.tools.rewind import Rewind

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
PAGES = 700


def make_history(kind):
    """`target` is a generation that many blocks have changed since."""
    history = History(
        f"cut {SEED} {kind}", commits=3, drained_at=(1,), compress="zstd" if kind == "zstd" else "off",
        pages=PAGES, log_bytes=8 << 20,
    )  # fmt: skip
    if kind == "across the end":
        # So that the first segment of the rewind is before the end of the log, and the last one behind it.
        while (end := history.segments()[-1]).page + end.log_pages < 850:
            history.run(1, drained_at=(0,))
            history.run(1)
    history.target = history.segments()[-1].generation
    history.run_requests(("trim", 610, 50), ("zero", 670, 20), *(("write", block, 60) for block in range(0, 600, 60)))
    history.run(1)
    return history


def rewind(history, log, when):
    job = Rewind(log, str(when))
    job.origin = MemoryDisk(history.origin, "origin")
    return job.perform()


def served(log, origin):
    """The volume; the log has to be sound."""
    log, origin = MemoryDisk(bytearray(log), "log"), MemoryDisk(bytearray(origin), "origin")
    assert examine(log, origin).findings == []
    cache = Cache(Config.from_pairs([("origin", "origin"), ("log", "log"), ("ring-size", "1M")]), origin, log)
    found = bytearray(cache.volume.size)
    cache.volume.read_into(found, 0)
    cache.stop()
    return bytes(found)


@pytest.mark.parametrize("kind", ["plain", "zstd", "across the end"])
def test_before_or_after(kind):
    print(f"seed {SEED}")
    history = make_history(kind)
    before, image = bytes(history.model), bytes(history.log)
    journal = Journal()
    disk = SimulatedDisk(image, "log", journal)
    done = rewind(history, disk, history.target)
    after = history.states[done.target.end_lsn]
    history.log[:] = disk.content
    mine = [segment for segment in history.segments() if segment.generation == done.after.number]
    assert len(mine) > 1
    assert (mine[0].page > mine[-1].page) == (kind == "across the end")
    first = mine[0].offset
    same(served(disk.content, history.origin), after)
    rng = random.Random(f"cuts {SEED}")
    replay = Replay([image], journal.events)
    decided = 0
    """0 before the first segment is being written, 1 then, 2 when it is durable."""
    for event in [*journal.events, None]:
        for style in STYLES:
            for _ in range(2 if style == "mixed" else 1):
                with replay.after_cut(replay.survivors(rng, style)) as (log,):
                    print(f"cut before event {replay.position}, {style}")
                    found = served(log, history.origin)
                    assert found in ((before,), (before, after), (after,))[decided]
        if event is None:
            break
        replay.advance()
        if event.piece and event.piece.offset == first and decided == 0:
            # What was there is buried first.
            decided = 1 if event.piece.data[:4] != b"\xff" * 4 else 0
        elif decided == 1 and not event.piece:
            decided = 2
    assert decided == 2


def cut_off(history, when):
    """A rewind to a moment of which all but the first segment arrives."""
    image = bytes(history.log)
    journal = Journal()
    disk = SimulatedDisk(image, "log", journal)
    rewind(history, disk, when)
    replay = Replay([image], journal.events)
    data = [
        position for position, event in enumerate(journal.events)
        if event.piece and event.piece.offset >= DATA_START and event.piece.data[:4] != b"\xff" * 4
    ]  # fmt: skip
    while replay.position < data[-1]:
        replay.advance()
    history.log[:] = replay.durable[0]


def set_back(history):
    """The clock says a time before all generations."""
    return mock.patch.object(clock, "read", lambda: Reading(history.segments()[0].time_ns - 10**9))


def test_what_a_cut_rewind_left_does_not_follow_the_next_one():
    """Both have the same first segments, full, to the nanosecond; the first one had another behind them."""
    history = History(f"prefix {SEED}", commits=0, pages=800, log_bytes=16 << 20)
    history.run_requests(("write", 790, 1))
    with set_back(history):
        history.run_requests(("write", 600, 100))
        expected = bytes(history.model)
        history.run_requests(("write", 0, 246), ("write", 246, 246))
        generations = sorted({segment.generation for segment in history.segments()})
        while history.state_of(generations[-1]) != expected:
            generations.pop()
        cut_off(history, 1)
        same(served(history.log, history.origin), history.model)
        disk = MemoryDisk(history.log, "log")
        done = rewind(history, disk, generations[-1])
    assert done.page_count == 492
    same(served(history.log, history.origin), expected)


def test_a_server_goes_on_after_a_cut_rewind():
    history = make_history("plain")
    for _ in range(3):
        cut_off(history, history.target)
        same(served(history.log, history.origin), history.model)
        history.run(2)
        same(served(history.log, history.origin), history.model)
    rewind(history, MemoryDisk(history.log, "log"), history.target)
    same(served(history.log, history.origin), history.state_of(history.target))


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_log_that_fails(kind):
    """At whatever request: what is there afterwards is the one or the other."""
    history = make_history("plain")
    before, image, number, failed = bytes(history.model), bytes(history.log), 0, True
    while failed:
        disk = SimulatedDisk(image, "log")
        disk.faults.failing.add(kind)
        disk.faults.after = number
        number += 1
        try:
            rewind(history, disk, history.target)
            failed = False
        except DeviceError:
            for style in STYLES:
                found = served(disk.crash(number, style), history.origin)
                assert found in (before, history.state_of(history.target))
    assert number > 3
