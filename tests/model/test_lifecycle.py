# SPDX-License-Identifier: BSD-3-Clause
"""A cache from opening to stopping: what is written when, and what is refused."""

import os
import threading
import time

import pytest

from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, GatedOrigin, in_background, wait_until
from tests.support.injected_errors import threads_that_fail
from tests.support.local_pair import QUIET
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.log_file import LogFile
from wbcache_core.errors import (
    ConfigError,
    DeviceError,
    DeviceInUseError,
    ReadOnlyError,
    RequestError,
    StoppedError,
    WrongPairError,
)
from wbcache_core.server import opening
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.server.writers import Writers
from wbcache_core.units import MIB, PAGE_BYTES


def read(cache, count=PAGE_BYTES, offset=0):
    found = bytearray(count)
    cache.volume.read_into(found, offset)
    return bytes(found)


def test_nothing_is_written_before_it_is_activated(pair):
    pair.make_origin(b"o" * MIB)
    cache = Cache(pair.config())
    assert cache.is_writable
    assert read(cache, MIB) == b"o" * MIB
    assert cache.volume.extents(MIB, 0) == [(0, MIB, False, False)]
    cache.volume.flush()
    for request, *arguments in ((cache.volume.write, b"x", 0), (cache.volume.trim, 10, 0), (cache.volume.zero, 1, 1)):
        with pytest.raises(ReadOnlyError):
            request(*arguments)
    cache.stop()
    assert not pair.log.exists()
    assert pair.origin.read_bytes() == b"o" * MIB


def test_what_a_killed_server_has_sent_settles_from_when_its_log_was_free(pair, monkeypatch):
    """Not from when the origin was opened: that server, or its worker, may not have ended then."""
    pair.make_origin(b"o" * MIB)
    pair.start(**QUIET)
    pair.abandon()
    free_since, suspected = [], []

    def wait_for_the_lock(*arguments):
        time.sleep(0.1)
        free_since.append(time.monotonic())
        return LogFile(*arguments)

    monkeypatch.setattr(opening, "LogFile", wait_for_the_lock)
    cache = Cache(pair.config())
    pair.own(cache)
    cache._may_be_under_way = True
    monkeypatch.setattr(cache._origin, "suspect_requests", suspected.append)
    cache.activate()
    assert suspected[0] >= free_since[0]


def test_a_dirty_log_is_served_and_stays_as_it_is_until_activated(pair):
    pair.make_origin(b"o" * MIB)
    pair.start(**QUIET).volume.write(b"n" * PAGE_BYTES, 0, fua=True)
    pair.abandon()
    before = pair.log.read_bytes()
    cache = Cache(pair.config())
    assert read(cache, 2 * PAGE_BYTES) == b"n" * PAGE_BYTES + b"o" * PAGE_BYTES
    cache.stop()
    assert pair.log.read_bytes() == before
    assert pair.origin.read_bytes() == b"o" * MIB


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("is_dirty", [False, True])
def test_while_the_log_cannot_be_prepared_clients_can_read(pair, monkeypatch, call, is_dirty):
    """And the first one for which it can may write."""
    pair.make_origin(b"o" * MIB)
    volume = bytearray(b"o" * MIB)
    if is_dirty:
        pair.start(**QUIET).volume.write(b"n" * PAGE_BYTES, 0, fua=True)
        pair.abandon()
        volume[:PAGE_BYTES] = b"n" * PAGE_BYTES
    cache = Cache(pair.config(**QUIET))
    writers = Writers(cache)

    def fail(device, *_arguments):
        raise DeviceError(f"cannot {call} {device.role}: No space left on device", 28)

    with monkeypatch.context() as patched:
        patched.setattr(FileDevice, call, fail)
        for _ in range(2):
            assert writers.admit().startswith(f"cannot {call} log: No space left on device")
            assert read(cache, MIB) == volume
    if is_dirty and call == "sync":
        # The kernel tells once of what it could not write: another sync of what was found says nothing.
        assert "start the server again" in writers.admit()
        cache.stop()
        cache = pair.start(**QUIET)
    else:
        assert writers.admit() == ""
    cache.volume.write(b"m" * PAGE_BYTES, PAGE_BYTES)
    volume[PAGE_BYTES : 2 * PAGE_BYTES] = b"m" * PAGE_BYTES
    assert read(cache, MIB) == volume
    cache.stop()
    check_pair(pair.log, pair.origin)


@pytest.mark.parametrize("threads", [0, 1])
def test_while_no_thread_can_be_started_clients_can_read(pair, monkeypatch, threads):
    """And the first one for which it can may write."""
    pair.make_origin(b"o" * MIB)
    cache = Cache(pair.config(**QUIET))
    pair.own(cache)
    writers = Writers(cache)
    with threads_that_fail(monkeypatch, threads):
        assert "cannot start a thread" in writers.admit()
    assert read(cache, MIB) == b"o" * MIB
    assert writers.admit() == ""
    cache.volume.write(b"m" * PAGE_BYTES, PAGE_BYTES)


def test_readers_before_the_activation_go_on_after_it(pair):
    pair.make_origin(b"o" * MIB)
    cache = Cache(pair.config(**QUIET))
    volume = cache.volume
    cache.activate()
    cache.activate()
    cache.volume.write(b"n" * PAGE_BYTES, 0)
    found = bytearray(PAGE_BYTES)
    volume.read_into(found, 0)
    assert found == b"n" * PAGE_BYTES
    cache.stop()


def test_threads_that_activate_at_once(pair):
    pair.make_origin(MIB)
    cache = Cache(pair.config())
    before = threading.active_count()
    for future in [in_background(cache.activate) for _ in range(8)]:
        future.result(PATIENCE_S)
    wait_until(lambda: threading.active_count() == before + 2)
    cache.stop()
    assert threading.active_count() == before


def test_stop_commits_and_may_be_repeated(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    cache.volume.write(b"n" * PAGE_BYTES, 0)
    for _ in range(3):
        cache.stop()
    check_pair(pair.log, pair.origin)
    assert not any(pair.origin.read_bytes())
    assert read(pair.start()) == b"n" * PAGE_BYTES


def test_stop_destages_when_told_to(pair):
    pair.make_origin(MIB)
    cache = pair.start(on_exit="destage", **QUIET)
    cache.volume.write(b"n" * PAGE_BYTES, 0)
    cache.stop()
    assert pair.origin.read_bytes() == b"n" * PAGE_BYTES + bytes(MIB - PAGE_BYTES)


def test_a_second_interrupt_ends_a_drain_that_takes_too_long(pair):
    pair.make_origin(MIB)
    origin = GatedOrigin(pair.origin)
    cache = pair.start(origin, on_exit="destage", **QUIET)
    for block in range(0, 100, 2):
        cache.volume.write(b"n" * PAGE_BYTES, block * PAGE_BYTES)
    origin.write_gate.clear()
    stopping = in_background(cache.stop)
    assert origin.wants_to_write.wait(PATIENCE_S)
    cache.interrupt()
    origin.write_gate.set()
    stopping.result(PATIENCE_S)
    check_pair(pair.log, pair.origin)
    assert read(pair.start(), PAGE_BYTES, 98 * PAGE_BYTES) == b"n" * PAGE_BYTES


def test_after_a_stop_nothing_can_be_written(pair):
    pair.make_origin(MIB)
    cache = pair.start()
    cache.stop()
    with pytest.raises(RequestError):
        cache.volume.write(b"x", 0)
    with pytest.raises(StoppedError):
        cache.activate()


def test_a_stop_before_the_activation(pair):
    pair.make_origin(MIB)
    cache = Cache(pair.config())
    cache.interrupt()
    cache.stop()
    assert not pair.log.exists()


def test_requests_beyond_the_end_are_refused(pair):
    pair.make_origin(MIB + 512)
    volume = pair.start().volume
    requests = [
        lambda: volume.write(b"xx", MIB + 511),
        lambda: volume.write(bytes(PAGE_BYTES), MIB),
        lambda: volume.write(b"x", -1),
        lambda: volume.read_into(bytearray(2), MIB + 511),
        lambda: volume.read_into(bytearray(PAGE_BYTES), MIB),
        lambda: volume.read_into(bytearray(PAGE_BYTES), 2**62),
        lambda: volume.trim(513, MIB),
        lambda: volume.zero(2**62, 0),
        lambda: volume.extents(1, MIB + 512),
        lambda: volume.prefetch(MIB, 513),
    ]
    for request in requests:
        with pytest.raises(RequestError, match="beyond the end"):
            request()
    volume.write(b"x", MIB + 511)
    volume.trim(0, MIB + 512)


def test_origin_and_log_must_not_be_one_file(pair):
    pair.make_origin(8 * MIB)
    pair.log.symlink_to(pair.origin)
    with pytest.raises(ConfigError, match="origin and log are the same"):
        Cache(pair.config())
    pair.log.unlink()
    pair.start().stop()


def test_a_second_cache_on_either_is_refused(pair, tmp_path):
    pair.make_origin(MIB)
    pair.start()
    with pytest.raises(DeviceInUseError, match="origin"):
        Cache(pair.config())
    (tmp_path / "other").write_bytes(bytes(MIB))
    with pytest.raises(DeviceInUseError, match="log"):
        Cache(Config.from_pairs([("origin", str(tmp_path / "other")), ("log", str(pair.log))]))
    pair.abandon()
    Cache(pair.config()).stop()


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (100, "not a multiple of 512"), (513, "513 bytes")])
def test_sizes_of_origins_that_cannot_be_served(pair, size, text):
    pair.make_origin(size)
    with pytest.raises(ConfigError, match=text):
        Cache(pair.config())


@pytest.mark.parametrize("size", [512, 4096, 4608])
def test_the_smallest_origins(pair, size):
    pair.make_origin(size)
    cache = pair.start()
    cache.volume.write(b"x" * size, 0)
    cache.drain()
    assert pair.origin.read_bytes() == b"x" * size
    cache.stop()
    check_pair(pair.log, pair.origin)


def test_a_log_of_size_zero_is_made_a_log(pair):
    pair.make_origin(MIB)
    pair.log.touch()
    pair.start().volume.write(b"x", 0, fua=True)
    assert pair.log.stat().st_size == 4 * MIB
    pair.abandon()
    check_pair(pair.log, pair.origin)


def test_a_log_whose_size_is_no_multiple_of_a_page(pair):
    pair.make_origin(MIB)
    pair.log.write_bytes(bytes(4 * MIB + 1000))
    pair.start().volume.write(b"x" * 100, 0, fua=True)
    pair.abandon()
    check_pair(pair.log, pair.origin)
    assert read(pair.start(), 100) == b"x" * 100


def test_the_log_of_another_origin_is_refused(pair):
    pair.make_origin(2 * MIB)
    pair.start().stop()
    pair.make_origin(MIB)
    with pytest.raises(WrongPairError, match="nothing has been changed"):
        Cache(pair.config())
    with pytest.raises(WrongPairError, match="2097152 bytes"):
        Cache(pair.config())


def test_a_drain_notices_that_the_destager_has_died(pair, monkeypatch):
    """Before the stop, by an error of ours: nothing is going to be destaged any more."""
    pair.make_origin(MIB)
    cache = pair.start(on_exit="destage", **QUIET)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(cache._destager, "_seconds_until_due", fail)
    cache.volume.write(b"n" * PAGE_BYTES, 0, fua=True)
    wait_until(lambda: not cache._destager._thread.is_alive())
    in_background(cache.stop).result(PATIENCE_S)
    assert read(pair.start()) == b"n" * PAGE_BYTES


def test_only_the_destager_syncs_the_origin(pair, monkeypatch):
    """Linux reports once to each descriptor what could not be written back: no other sync may take it."""
    pair.make_origin(MIB)
    calls = []
    for name in ("fsync", "fdatasync"):
        original = getattr(os, name)

        def recorded(fd, original=original):
            calls.append((os.fstat(fd).st_ino, fd, threading.current_thread().name))
            original(fd)

        monkeypatch.setattr(os, name, recorded)
    cache = pair.start(on_exit="destage", **QUIET)
    descriptor, origin = cache._origin.fileno(), pair.origin.stat().st_ino
    cache.volume.write(b"n" * PAGE_BYTES, 0, fua=True)
    cache.volume.trim(PAGE_BYTES, 5 * PAGE_BYTES)
    cache.tag("now")
    cache.open_snapshot("now").close()
    cache.untag("now")
    cache.drain()
    cache.volume.write(b"m" * PAGE_BYTES, 0)
    cache.stop()
    of_origin = [(fd, thread) for inode, fd, thread in calls if inode == origin]
    assert {thread for fd, thread in of_origin if fd == descriptor} == {"wbcache-destage"}
    # The marks, dirty at the start and clean at the stop, have descriptors of their own.
    assert sum(fd != descriptor for fd, _ in of_origin) >= 2
