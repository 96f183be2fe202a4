# SPDX-License-Identifier: BSD-3-Clause
"""Detaching and attaching a log where something goes wrong, or happens at a chosen moment."""

import errno
import gc
import shutil
import threading
import weakref

import pytest

from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, GatedOrigin, in_background, wait_until
from tests.support.local_pair import QUIET
from wbcache_core.errors import (
    ControlError,
    DeviceError,
    DeviceLostError,
    LogFailedError,
    LogRefusedError,
    NoThreadError,
    OriginFailedError,
    OutOfRangeError,
    OutsideWindowError,
    SnapshotEndedError,
    StoppedError,
    SyncFailedError,
    VolumeReplacedError,
)
from wbcache_core.pairing.fingerprint import sampled_blocks
from wbcache_core.pairing.mark import CLEAN, DIRTY, OriginSide
from wbcache_core.server.served import Served
from wbcache_core.units import MIB, PAGE_BYTES
from wbcache_core.volume.direct import DirectVolume

SHORT_S = 0.3
UNSAMPLED = next(block for block in range(500, 600) if block not in sampled_blocks(4 * MIB))


class Origin(GatedOrigin):
    """Syncs can fail, too."""

    sync_error = None

    def sync(self):
        if self.sync_error:
            raise self.sync_error
        super().sync()


class Client:
    """A connection, as the plugin has it."""

    def __init__(self, served):
        self._switch = served.switch
        self._switch.add(self)

    def call(self, name, *arguments):
        while True:
            try:
                return getattr(self.target, name)(*arguments)
            except VolumeReplacedError:
                pass

    def write(self, letter, block):
        self.call("write", letter * PAGE_BYTES, block * PAGE_BYTES)

    def read(self, block):
        found = bytearray(PAGE_BYTES)
        self.call("read_into", found, block * PAGE_BYTES)
        assert found == found[:1] * PAGE_BYTES
        return bytes(found[:1])


@pytest.fixture
def origin(pair):
    pair.make_origin(b"o" * 4 * MIB)
    return Origin(pair.origin)


@pytest.fixture
def served(pair, origin):
    served = Served(pair.config(**QUIET), origin, patience=SHORT_S)
    served.activate()
    yield served
    origin.write_gate.set()
    origin.errno_of_writes, origin.sync_error = 0, None
    in_background(served.stop).result(PATIENCE_S)


@pytest.fixture
def client(served):
    return Client(served)


@pytest.fixture
def other(tmp_path):
    return str(tmp_path / "other")


def until_done(function, *arguments):
    while (facts := function(*arguments))["state"] == "draining":
        pass
    return facts["state"]


def detach(served):
    assert until_done(served.detach, False) == "detached"


def attach(served, log):
    assert until_done(served.attach, log, False, None, False) == "attached"


def drained(served):
    """Only the pause is left to do."""
    until = served.now
    served.detach(False)
    wait_until(lambda: until.status()["drain"]["state"] == "drained")


def test_a_request_that_waits_goes_on_elsewhere(pair, served, client, other, monkeypatch):
    """In the pause of either direction; reads do not wait."""
    client.write(b"a", 0)
    drained(served)
    cache, reached, go_on = served.now, threading.Event(), threading.Event()

    def hold(store):
        reached.set()
        assert go_on.wait(PATIENCE_S)

    monkeypatch.setattr(cache.handover, "note_in_log", hold)
    detaching = in_background(detach, served)
    assert reached.wait(PATIENCE_S)
    writes = [in_background(client.write, b"b", 1), in_background(client.call, "zero", PAGE_BYTES, PAGE_BYTES * 2)]
    wait_until(lambda: cache._line.quiesced_waiters == 2)
    assert client.read(0) == b"a" and client.read(1) == b"o"
    go_on.set()
    for future in (detaching, *writes):
        future.result(PATIENCE_S)
    assert pair.origin.read_bytes()[: 3 * PAGE_BYTES] == b"a" * PAGE_BYTES + b"b" * PAGE_BYTES + bytes(PAGE_BYTES)

    bypass, activate = served.now, type(cache).activate

    def activate_later(self):
        write = in_background(client.write, b"c", 1)
        writes.append(write)
        wait_until(lambda: bypass.volume.waiting == 1)
        assert client.read(1) == b"b"
        activate(self)

    monkeypatch.setattr(type(cache), "activate", activate_later)
    attach(served, other)
    writes[-1].result(PATIENCE_S)
    assert client.read(1) == b"c"
    # It is in the log, not on the origin.
    assert pair.origin.read_bytes()[PAGE_BYTES : PAGE_BYTES + 1] == b"b"


@pytest.mark.parametrize("way", ["hangs", "fails"])
def test_an_origin_that_does_not_take_the_rest(served, client, origin, way):
    client.write(b"a", 0)
    drained(served)
    if way == "hangs":
        origin.write_gate.clear()
    else:
        origin.errno_of_writes = errno.EIO
    write = in_background(client.write, b"b", 1)
    wait_until(lambda: served.now._line.dirty_pages)
    with pytest.raises(OriginFailedError, match=r"could not get everything within .* goes on as before"):
        served.now.hand_over(SHORT_S)
    assert served.now.status()["state"] == "writable"
    origin.write_gate.set()
    origin.errno_of_writes = 0
    write.result(PATIENCE_S)
    client.write(b"c", 2)
    detach(served)
    assert [client.read(block) for block in range(3)] == [b"a", b"b", b"c"]


def test_a_log_that_fails_when_it_is_empty(pair, served, client, monkeypatch):
    """What it cannot be told is not needed."""
    client.write(b"a", 0)
    drained(served)

    def fail(*_, **__):
        raise DeviceError("cannot write to log")

    monkeypatch.setattr(served.now._store, "write", fail)
    detach(served)
    client.write(b"b", 0)
    served.stop()
    check_pair(pair.log, pair.origin)
    pair.start()
    assert pair.origin.read_bytes()[:1] == b"b"


@pytest.mark.parametrize("when", ["in the drain", "in the pause"])
def test_a_log_that_fails_for_good_before_it_is_empty(pair, served, client, origin, other, when, monkeypatch):
    """It stays, with all that only it and the memory have, until another log gets what the origin lacks."""
    client.write(b"a", 0)
    if when == "in the pause":
        drained(served)
    origin.write_gate.clear()
    cache, pending = served.now, in_background(client.write, b"b", 1)
    wait_until(lambda: pending.done() or cache._line.dirty_pages > 1)
    pause = in_background(cache.hand_over, PATIENCE_S)
    wait_until(lambda: cache._line.is_handing_over)
    waiting = in_background(client.write, b"c", 2)
    wait_until(lambda: cache._line.quiesced_waiters == 1)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise SyncFailedError("cannot sync log")

        patch.setattr(cache._store.log_sync, "sync", fail)
        origin.write_gate.set()
        for future in (pause, waiting):
            with pytest.raises(LogFailedError):
                future.result(PATIENCE_S)
    with pytest.raises(LogFailedError, match=r"when the log device is sound.*attach another log first"):
        served.detach(False)
    assert served.now is cache and served.now.status()["state"] == "failed"
    assert OriginSide.at(str(pair.origin)).mark.state == DIRTY
    assert [client.read(block) for block in range(3)] == [b"a", b"b", b"o"]
    attach(served, other)
    client.write(b"c", 2)
    assert [client.read(block) for block in range(3)] == [b"a", b"b", b"c"]


def test_a_new_log_that_cannot_be_formatted(pair, served, client, other, monkeypatch):
    """It is not attached, and writes go on to the origin."""
    detach(served)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise DeviceError("cannot write to log")

        patch.setattr("wbcache_core.log.superblocks.SuperblockStore.format", fail)
        with pytest.raises(DeviceError, match="cannot write to log"):
            served.attach(other, False, None, False)
    assert OriginSide.at(str(pair.origin)).mark.state == CLEAN
    client.write(b"a", 0)
    client.call("flush")
    attach(served, other)
    assert client.read(0) == b"a"


def test_an_attach_whose_sync_fails(served, client, origin, other):
    """What clients wrote may be lost: no log may hide that, and every flush tells it."""
    detach(served)
    client.write(b"a", 0)
    origin.sync_error = DeviceError("cannot sync origin")
    for _ in range(2):
        with pytest.raises(OriginFailedError, match="may be lost: flushes fail until the server is started again"):
            served.attach(other, False, None, False)
        origin.sync_error = None
    assert served.now.status()["state"] == "detached"
    with pytest.raises(OriginFailedError):
        client.call("flush")
    client.write(b"b", 0)
    assert client.read(0) == b"b"
    served.stop()
    assert served.is_unfinished


def test_an_attach_while_a_write_hangs(served, client, origin, other):
    """A write that comes to the origin late must not overwrite what the log has brought there."""
    detach(served)
    origin.write_gate.clear()
    origin.wants_to_write.clear()
    write = in_background(client.write, b"a", 0)
    assert origin.wants_to_write.wait(PATIENCE_S)
    with pytest.raises(OriginFailedError, match=r"1 requests to origin .* have not been carried out"):
        served.attach(other, False, None, False)
    origin.write_gate.set()
    write.result(PATIENCE_S)
    client.write(b"b", 0)
    attach(served, other)
    assert client.read(0) == b"b"


def test_an_attach_without_threads(pair, served, client, other, monkeypatch):
    """The origin does not stay marked as lacking what such a log has."""
    detach(served)
    with monkeypatch.context() as patch:

        def fail(_):
            raise NoThreadError("cannot start a thread")

        patch.setattr("wbcache_core.server.movers.Movers.start", fail)
        with pytest.raises(NoThreadError):
            served.attach(other, False, None, False)
    client.write(b"a", 0)
    assert served.now.status()["state"] == "detached"
    assert OriginSide.at(str(pair.origin)).mark.state == CLEAN
    attach(served, other)
    assert OriginSide.at(str(pair.origin)).mark[1:3] == (other, DIRTY)
    assert client.read(0) == b"a"


def test_another_log_that_fails_in_the_end(served, client, other, monkeypatch):
    """The error says that the former one has gone."""
    client.write(b"a", 0)
    drained(served)
    with monkeypatch.context() as patch:

        def fail(_):
            raise NoThreadError("cannot start a thread")

        patch.setattr("wbcache_core.server.movers.Movers.start", fail)
        with pytest.raises(ControlError, match="cannot start a thread; the log that was attached before is detached"):
            served.attach(other, False, None, False)
    assert served.now.status()["state"] == "detached"
    client.write(b"b", 0)
    attach(served, other)
    assert client.read(0) == b"b"


def test_a_stop_in_the_pause(pair, served, client, origin):
    """It is a stop like any other."""
    client.write(b"a", 0)
    drained(served)
    origin.write_gate.clear()
    write = in_background(client.write, b"b", 1)
    wait_until(lambda: served.now._line.dirty_pages)
    pause = in_background(served.now.hand_over, PATIENCE_S)
    wait_until(lambda: served.now._line.is_handing_over)
    waiting = in_background(client.write, b"c", 2)
    wait_until(lambda: served.now._line.quiesced_waiters == 1)
    served.interrupt()
    for future in (pause, waiting):
        with pytest.raises(StoppedError):
            future.result(PATIENCE_S)
    origin.write_gate.set()
    served.stop()
    write.result(PATIENCE_S)
    assert not served.is_unfinished
    pair.start()
    check = bytearray(3 * PAGE_BYTES)
    pair._caches[-1].volume.read_into(check, 0)
    assert check == b"a" * PAGE_BYTES + b"b" * PAGE_BYTES + b"o" * PAGE_BYTES


def test_a_stop_when_the_log_has_gone(pair, served, client, monkeypatch):
    """Requests that waited are neither carried out nor lost."""
    client.write(b"a", 0)
    drained(served)
    cache = served.now

    def interrupted(store):
        in_background(served.interrupt).result(PATIENCE_S)

    monkeypatch.setattr(cache.handover, "note_in_log", interrupted)
    detach(served)
    with pytest.raises(StoppedError):
        client.write(b"b", 0)
    with pytest.raises(StoppedError):
        served.attach(str(pair.log), False, None, False)
    assert client.read(0) == b"a"
    served.stop()
    assert served.is_settled and not served.is_unfinished


def test_nothing_of_the_cache_stays(served, client):
    """Also without the garbage collector, which does not run."""
    client.write(b"a", 0)
    cache = served.now
    left = [weakref.ref(one) for one in (cache, cache.volume, cache._ring, cache._locations, cache._table)]
    del cache
    gc.disable()
    try:
        detach(served)
        wait_until(lambda: not any(one() for one in left))
    finally:
        gc.enable()


def test_a_log_with_data_that_was_newer_once(pair, served, client, other):
    """A copy of the log, from before the origin was written without it."""
    client.write(b"a", UNSAMPLED)
    client.call("flush")
    shutil.copy(pair.log, other)
    detach(served)
    client.write(b"b", UNSAMPLED)
    with pytest.raises(LogRefusedError, match="that data would overwrite what is newer"):
        served.attach(other, False, None, False)
    assert client.read(UNSAMPLED) == b"b"
    assert until_done(served.attach, other, True, None, False) == "attached"
    client.call("flush")
    detach(served)
    assert pair.origin.read_bytes()[UNSAMPLED * PAGE_BYTES :][:1] == b"b"


@pytest.mark.parametrize("back", ["attach", "start"])
def test_the_origin_is_no_past_moment_any_more(pair, served, client, back):
    """Whether or not a change shows in the samples: a moment that has been seen is never another one."""
    client.write(b"a", UNSAMPLED)
    client.call("flush")
    before = served.now.window_ends()[1]
    detach(served)
    client.write(b"b", UNSAMPLED)
    if back == "attach":
        attach(served, str(pair.log))
        cache = served.now
    else:
        served.stop()
        cache = pair.start(**QUIET)
    assert cache.resolve("last-flush")[-1].number == before.number + 1
    with pytest.raises(OutsideWindowError):
        cache.resolve(str(before.number))
    cache.volume.write(b"c" * PAGE_BYTES, 0)
    cache.volume.flush()
    cache.stop()
    check_pair(pair.log, pair.origin)
    cache = pair.start()
    assert cache.resolve("last-flush")[-1].number == before.number + 2


def test_a_request_that_still_has_the_cache(served, client):
    """A read that began before the log went finds the origin; a past moment has ended."""
    client.write(b"a", UNSAMPLED)
    client.write(b"a", 0)
    client.call("flush")
    drained(served)
    cache, found = served.now, bytearray(PAGE_BYTES)
    snapshot = cache.open_snapshot("last-flush")
    cache.hand_over(PATIENCE_S)
    with pytest.raises(SnapshotEndedError):
        snapshot.read_into(found, 0)
    with pytest.raises(OutsideWindowError):
        cache.open_snapshot("last-flush")
    cache._origin.write([memoryview(b"b" * PAGE_BYTES)], 0)
    for letter, block in ((b"b", 0), (b"a", UNSAMPLED)):
        cache.volume.read_into(found, block * PAGE_BYTES)
        assert found == letter * PAGE_BYTES
    cache.owns_origin = True


class TestDirectVolume:
    @pytest.fixture
    def volume(self, served, client):
        detach(served)
        return served.now.volume

    def test_beyond_the_end(self, volume):
        for call in (
            lambda: volume.write(b"xx", volume.size - 1), lambda: volume.read_into(bytearray(2), volume.size - 1),
            lambda: volume.zero(2, volume.size - 1), lambda: volume.extents(2, volume.size - 1),
            lambda: volume.write(b"x", -1),
        ):  # fmt: skip
            with pytest.raises(OutOfRangeError):
                call()

    @pytest.mark.parametrize("offset,count", [(0, 1), (5, 10), (4090, 12), (1, 3 * PAGE_BYTES), (PAGE_BYTES, MIB)])
    def test_zeros_at_any_alignment(self, pair, volume, offset, count):
        before = pair.origin.read_bytes()
        volume.zero(count, offset)
        assert pair.origin.read_bytes() == before[:offset] + bytes(count) + before[offset + count :]

    @pytest.mark.parametrize("level,syncs", [("ram", 0), ("log", 1), ("origin", 1)])
    def test_levels(self, served, client, volume, origin, level, syncs):
        """Whatever asks for more than memory gets the origin."""
        served.now.settings.change({"ack": level})
        done = []
        origin.sync = lambda: done.append(1)
        volume.write(b"x", 0)
        assert len(done) == syncs
        volume.write(b"x", 0, True)
        volume.write(b"x", 0, ack=2)
        assert len(done) == syncs + 2

    def test_a_connection_that_is_lost(self, volume, origin):
        """It takes with it what others wrote, and only one of them is told: no flush may succeed after that."""
        volume.write(b"x", 0)

        def lose(*_):
            raise DeviceLostError("gone")

        origin.write = lose
        with pytest.raises(DeviceLostError):
            volume.write(b"y", 1)
        with pytest.raises(OriginFailedError):
            volume.flush()

    def test_extents(self, volume):
        assert isinstance(volume, DirectVolume)
        volume.trim(MIB, MIB)
        assert [extent[2:] for extent in volume.extents(3 * MIB, 0)] == [(False, False), (True, True), (False, False)]
        assert len(volume.extents(3 * MIB, 0, only_one=True)) == 1
