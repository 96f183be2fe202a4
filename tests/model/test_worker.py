# SPDX-License-Identifier: BSD-3-Clause
"""Batches in a process of their own: the same result as in the server, whatever happens to that process."""

import errno
import random
import signal
import threading
import time

import pytest

from tests.support.bad_sectors import BadSectors
from tests.support.checker import check_pair
from tests.support.damage import flip_bit
from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.local_pair import QUIET
from tests.support.watched_workers import Workers, is_there, serve_in_a_thread
from wbcache_core.device import file_device
from wbcache_core.errors import OriginFailedError
from wbcache_core.flow import bad_blocks, origin_writer
from wbcache_core.memory.block_map import entry_lsn
from wbcache_core.units import MIB, PAGE_BYTES
from wbcache_core.worker import process, worker_executor

BLOCKS = 4 * MIB // PAGE_BYTES
EAGER = {"destage_delay": "0", "low_watermark": "0", "commit_interval": "5ms"}


@pytest.fixture
def workers(monkeypatch):
    return Workers(monkeypatch)


def write(cache, block, letter, count=1, fua=False):
    cache.volume.write((letter * PAGE_BYTES) * count, block * PAGE_BYTES, fua=fua)


def blocks_of(path, first, count):
    data = path.read_bytes()
    return [data[block * PAGE_BYTES : (block + 1) * PAGE_BYTES] for block in range(first, first + count)]


class Load:
    """Random writes, zeros and trims, and the content that they leave."""

    def __init__(self, cache, seed):
        self._volume = cache.volume
        self._random = random.Random(seed)
        self.content = bytearray(b"o" * BLOCKS * PAGE_BYTES)

    def step(self):
        first = self._random.randrange(BLOCKS)
        count = min(self._random.choice((1, 1, 2, 7, 60)), BLOCKS - first)
        place, length = first * PAGE_BYTES, count * PAGE_BYTES
        kind = self._random.choice(("write", "write", "write", "zero", "trim"))
        if kind == "write":
            data = self._random.randbytes(PAGE_BYTES) * count
            self._volume.write(data, place)
        else:
            data = bytes(length)
            (self._volume.zero if kind == "zero" else self._volume.trim)(length, place)
        self.content[place : place + length] = data
        if self._random.random() < 0.05:
            self._volume.flush()


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_the_origin_gets_what_was_written(pair, workers, seed, compress):
    pair.make_origin(b"o" * BLOCKS * PAGE_BYTES)
    cache = pair.start(may_spawn=True, compress=compress, **EAGER)
    load = Load(cache, seed)
    for _ in range(800):
        load.step()
    cache.drain()
    cache.stop()
    assert pair.origin.read_bytes() == load.content
    assert len(workers.started) == 1
    assert workers.asked.count("write") > 2
    check_pair(pair.log, pair.origin)


def test_a_worker_that_is_killed_again_and_again_loses_nothing(pair, workers, monkeypatch, seed):
    monkeypatch.setattr(worker_executor, "_MOST_LOST", 10**6)
    pair.make_origin(b"o" * BLOCKS * PAGE_BYTES)
    cache = pair.start(may_spawn=True, **EAGER)
    load = Load(cache, seed)
    ended = threading.Event()

    def kill():
        pause = random.Random(seed + 1)
        while not ended.wait(pause.uniform(0.1, 0.6)):
            workers.kill_present()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        until = time.monotonic() + 8.0
        while time.monotonic() < until:
            load.step()
    finally:
        ended.set()
        killer.join()
    cache.drain()
    cache.stop()
    assert pair.origin.read_bytes() == load.content
    assert len(workers.started) > 3
    check_pair(pair.log, pair.origin)


@pytest.mark.parametrize("when", ["load", "write"])
def test_a_worker_that_ends_is_replaced(pair, workers, caplog, when):
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    workers.signals.append((when, signal.SIGKILL))
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert len(workers.started) == 2
    assert "was killed by signal 9; the batch is repeated" in caplog.text
    assert "stalled" not in caplog.text
    assert cache._line.origin_error is None


@pytest.mark.parametrize("when", ["load", "write"])
def test_a_worker_that_hangs_is_ended_before_the_next_one_starts(pair, monkeypatch, caplog, when):
    """Workers checks that there are never two."""
    workers = Workers(monkeypatch, silent_seconds=1.0)
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    workers.signals.append((when, signal.SIGSTOP))
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert len(workers.started) == 2
    assert not is_there(workers.pids[0])
    assert "gives no sign of life and is killed; the batch is repeated" in caplog.text


def test_after_three_lost_workers_the_server_does_it_itself(pair, workers, monkeypatch, caplog):
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    workers.signals += [("write", signal.SIGKILL)] * 3
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert len(workers.started) == 3
    assert "the server does that itself" in caplog.text
    # Later there is a worker again.
    monkeypatch.setattr(cache._destager._executor, "_rests_until", 0.0)
    write(cache, 4, b"m")
    in_background(cache.drain).result(PATIENCE_S)
    assert len(workers.started) == 4
    assert blocks_of(pair.origin, 3, 2) == [b"n" * PAGE_BYTES, b"m" * PAGE_BYTES]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (None, "no program of Python"),
        ("/nonexistent", "cannot start the process that writes to the origin: [Errno 2]"),
        ("/bin/false", "the process that writes to the origin ended with status 1; for 300 s"),
    ],
)
def test_without_a_program_for_it_the_server_does_it_itself(pair, workers, monkeypatch, caplog, program, message):
    monkeypatch.setattr(process, "interpreters", lambda: [program] if program else [])
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert message in caplog.text
    assert "the server does that itself" in caplog.text
    assert not workers.started


def test_a_worker_of_another_version_is_not_used(pair, workers, monkeypatch, caplog):
    monkeypatch.setattr("wbcache_core.worker.launch.interpreter_facts", lambda: ("another Python", "another core"))
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert "another Python" in caplog.text
    assert not workers.started


def test_it_can_be_turned_off(pair, workers):
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, destage_worker="off", **EAGER)
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert not workers.started


def test_an_origin_without_locks(pair, workers, monkeypatch):
    """A worker that is still dying could write beside the next server."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "as the test wants it")

    monkeypatch.setattr(file_device.fcntl, "flock", flock)
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 3, 1) == [b"n" * PAGE_BYTES]
    assert not workers.started


def test_an_idle_worker_is_ended(pair, workers, monkeypatch):
    monkeypatch.setattr(worker_executor, "_IDLE_SECONDS", 0.5)
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    for letter in (b"n", b"m"):
        write(cache, 3, letter)
        in_background(cache.drain).result(PATIENCE_S)
        wait_until(lambda: not is_there(workers.pids[-1]))
        assert blocks_of(pair.origin, 3, 1) == [letter * PAGE_BYTES]
    assert len(workers.started) == 2


def test_the_worker_of_a_stopped_cache_has_ended(pair, workers):
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **EAGER)
    write(cache, 3, b"n")
    in_background(cache.drain).result(PATIENCE_S)
    in_background(cache.stop).result(PATIENCE_S)
    assert not is_there(workers.pids[0])
    assert workers.asked[-1] == "release", "no memory of a batch is kept"


def write_three_and_damage_one(pair, cache):
    """Blocks 1 to 3 in segments of their own; the page of block 2 is damaged in the log."""
    for block, letter in ((1, b"a"), (2, b"b"), (3, b"c")):
        write(cache, block, letter)
        cache.volume.flush()
    lsn = entry_lsn(cache._locations.get(2))
    segment = cache._table.locate(lsn)
    flip_bit(pair.log, cache._reader.offset_of(segment.place) + (lsn - segment.first_lsn) * PAGE_BYTES)


def test_what_is_damaged_in_the_log_alone_comes_from_memory(pair, workers):
    pair.make_origin(b"o" * MIB)
    cache = pair.start(may_spawn=True, **QUIET)
    write_three_and_damage_one(pair, cache)
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 1, 3) == [letter * PAGE_BYTES for letter in (b"a", b"b", b"c")]
    assert "load" in workers.asked


def test_damage_stops_destaging_before_it(pair, workers):
    pair.make_origin(b"o" * MIB)
    write_three_and_damage_one(pair, pair.start(**QUIET))
    pair.abandon()
    cache = pair.start(may_spawn=True, **QUIET)
    with pytest.raises(OriginFailedError, match=r"fails its checksum .* the 4096 bytes of the volume at 8192 again"):
        in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 1, 3) == [b"a" * PAGE_BYTES, b"o" * PAGE_BYTES, b"o" * PAGE_BYTES]
    write(cache, 2, b"B", fua=True)
    wait_until(lambda: cache._line.origin_error is None)
    in_background(cache.drain).result(PATIENCE_S)
    assert blocks_of(pair.origin, 1, 3) == [letter * PAGE_BYTES for letter in (b"a", b"B", b"c")]
    assert "load" in workers.asked


def test_bad_sectors(pair, monkeypatch):
    """What the worker reports as rejected is carried forward, and tried again."""
    monkeypatch.setattr(origin_writer, "_RETRY_PAUSES", (0.0,))
    monkeypatch.setattr(bad_blocks, "_FIRST_REST", 0.3)
    pair.make_origin(b"o" * MIB)
    device = BadSectors(pair.origin, [7])
    serve_in_a_thread(monkeypatch, device)
    cache = pair.start(device, may_spawn=True, **EAGER)
    write(cache, 5, b"n", 4)
    wait_until(lambda: cache._line.origin_incomplete)
    wait_until(lambda: blocks_of(pair.origin, 5, 4) == [letter * PAGE_BYTES for letter in (b"n", b"n", b"o", b"n")])
    found = bytearray(PAGE_BYTES)
    cache.volume.read_into(found, 7 * PAGE_BYTES)
    assert found == b"n" * PAGE_BYTES
    device.bad.clear()
    wait_until(lambda: not cache._line.origin_incomplete)
    assert blocks_of(pair.origin, 5, 4) == [b"n" * PAGE_BYTES] * 4
    cache.stop()
    check_pair(pair.log, pair.origin)
