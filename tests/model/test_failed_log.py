# SPDX-License-Identifier: BSD-3-Clause
"""A log that has failed is replaced by another one while clients go on."""

import errno
import os
import threading

import pytest

from tests.model.test_detach import Client, Origin, attach, detach
from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from tests.support.local_pair import QUIET
from wbcache_core.device.log_file import LogFile
from wbcache_core.device.shared_memory import path_of
from wbcache_core.errors import (
    ControlError,
    DeviceError,
    LogFailedError,
    LogFullError,
    LogRefusedError,
    NoThreadError,
    OriginFailedError,
    OtherLogError,
    OutsideWindowError,
    SnapshotEndedError,
    StoppedError,
)
from wbcache_core.pairing.mark import CLEAN, DIRTY, OriginSide
from wbcache_core.server.served import Served
from wbcache_core.units import MIB, PAGE_BYTES

SHORT_S = 0.3


class Log(LogFile):
    """Reads, writes and syncs can fail."""

    failing = ()

    def _check(self, kind):
        if kind in self.failing:
            raise DeviceError(f"cannot {kind} log: as the test wants it", errno.EIO)

    def write(self, views, offset):
        self._check("write")
        super().write(views, offset)

    def sync(self):
        self._check("sync")
        super().sync()

    def read_into(self, view, offset):
        self._check("read")
        super().read_into(view, offset)

    def read_uncached_into(self, view, offset):
        self._check("read")
        super().read_uncached_into(view, offset)


@pytest.fixture
def origin(pair):
    pair.make_origin(b"o" * 4 * MIB)
    return Origin(pair.origin)


@pytest.fixture
def log(pair):
    return Log(str(pair.log))


@pytest.fixture
def served(pair, origin, log):
    served = Served(pair.config(**QUIET), origin, log, patience=SHORT_S)
    served.activate()
    yield served
    origin.write_gate.set()
    origin.errno_of_writes = 0
    in_background(served.stop).result(PATIENCE_S)


@pytest.fixture
def client(served):
    return Client(served)


@pytest.fixture
def other(tmp_path):
    return str(tmp_path / "other")


def fail(client, log, *kinds):
    """What was written before is answered; from now on nothing can be committed."""
    log.failing = kinds or ("sync",)
    with pytest.raises(LogFailedError):
        client.call("flush")


def mark(pair):
    return OriginSide.at(str(pair.origin)).mark


def letters(client, count):
    return b"".join(client.read(block) for block in range(count))


@pytest.mark.parametrize("kind", ["sync", "write"])
def test_it_is_replaced(pair, served, client, log, other, kind):
    """Whether it has failed for good, or its writes fail: everything that was answered goes to the other log, durably,
    and the failed one is refused from then on."""
    client.write(b"a", 0)
    client.write(b"a", 1)
    client.write(b"a", 5)
    client.call("flush")
    client.write(b"b", 1)
    client.call("trim", 2 * PAGE_BYTES, 2 * PAGE_BYTES)
    client.call("write", b"c" * 10, 4 * PAGE_BYTES)
    client.call("zero", PAGE_BYTES, 5 * PAGE_BYTES)
    fail(client, log, kind)
    ring = served.now._ring_memory.path
    assert os.path.exists(ring)
    attach(served, other)
    assert not os.path.exists(ring)
    assert mark(pair)[1:3] == (other, DIRTY)
    assert served.now.status()["state"] == "writable" and served.now.status()["errors"]["log"] is None
    assert letters(client, 4) == b"ab\0\0"
    assert pair.origin.read_bytes() == b"o" * 4 * MIB
    client.call("flush")
    client.write(b"d", 0)
    client.call("flush")
    detach(served)
    content = b"d" * PAGE_BYTES + b"b" * PAGE_BYTES + bytes(2 * PAGE_BYTES) + b"c" * 10 + b"o" * (PAGE_BYTES - 10)
    content += bytes(PAGE_BYTES)
    assert pair.origin.read_bytes() == content + b"o" * (4 * MIB - len(content))
    assert mark(pair).state == CLEAN


def test_the_other_log_alone_has_it(pair, served, client, log, other):
    """Before anything else is written: nothing is lost, and a start with the failed one is refused."""
    for block in range(40):
        client.write(b"%c" % (65 + block), block)
    client.call("flush")
    client.write(b"z", 7)
    client.write(b"y", 300)
    client.call("trim", 2 * MIB, MIB)
    fail(client, log)
    attach(served, other)
    with pytest.raises(OutsideWindowError):
        served.now.open_snapshot("0")
    before = bytearray(served.now.volume.size)
    served.now.volume.read_into(before, 0)
    served.stop()
    with pytest.raises(OtherLogError):
        pair.start()
    check_pair(other, pair.origin)
    pair.log = other
    found = bytearray(len(before))
    pair.start().volume.read_into(found, 0)
    assert found == before
    assert found[7 * PAGE_BYTES :][:1] == b"z" and found[300 * PAGE_BYTES :][:1] == b"\0"


def test_nothing_is_lacking(pair, served, client, log, other):
    """An empty log takes its place."""
    client.write(b"a", 0)
    client.call("flush")
    served.now.drain()
    log.failing = ("sync",)
    client.write(b"b", 0)
    with pytest.raises(LogFailedError):
        client.call("flush")
    attach(served, other)
    assert client.read(0) == b"b"


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_log_that_cannot_be_read(served, client, log, other, is_committed):
    """What memory has is enough."""
    client.write(b"a", 0)
    if is_committed:
        client.call("flush")
    client.write(b"b", 1)
    fail(client, log, "sync", "read")
    attach(served, other)
    assert letters(client, 3) == b"abo"


def forget_ring(served):
    """Have everything that is committed only in the log."""
    line = served.now._line
    with line.lock:
        line.ring_start = line.committed


@pytest.mark.parametrize("way", ["unreadable", "damaged"])
def test_what_nobody_has_is_not_dropped(pair, served, client, log, other, way):
    """The command fails and says which bytes are missing; nothing changes, and it can be tried again."""
    client.write(b"a", 0)
    client.write(b"b", 9)
    client.call("flush")
    client.write(b"c", 2)
    fail(client, log)
    forget_ring(served)
    good = pair.log.read_bytes()
    if way == "unreadable":
        log.failing = ("sync", "read")
    else:
        at = good.index(b"b" * PAGE_BYTES)
        with open(pair.log, "r+b") as file:
            file.seek(at)
            file.write(b"x")
    with pytest.raises(ControlError, match=r"bytes \d+ to \d+ of the volume cannot be read in full.*nothing has been"):
        served.attach(other, False, None, False)
    assert mark(pair)[1:3] == (str(pair.log), DIRTY)
    assert served.now.status()["state"] == "failed"
    assert client.read(2) == b"c"
    with pytest.raises(LogFailedError):
        client.write(b"d", 0)
    log.failing = ("sync",)
    pair.log.write_bytes(good)
    attach(served, other)
    assert letters(client, 3) == b"aoc" and client.read(9) == b"b"


def test_memory_that_is_damaged(served, client, log, other):
    """A committed page in the ring is not trusted: the log's copy is taken."""
    client.write(b"a", 0)
    client.write(b"b", 1)
    client.call("flush")
    fail_at = served.now._ring.offset(served.now._locations.get(1))
    client.write(b"c", 2)
    fail(client, log)
    served.now._ring.memory[fail_at : fail_at + 1] = b"x"
    attach(served, other)
    assert letters(client, 3) == b"abc"


def test_a_batch_that_was_under_way(pair, served, client, origin, log, other):
    """The origin may have parts of it, and of what it has no moment can be opened."""
    for block in range(8):
        client.write(b"a", block)
    client.call("flush")
    client.write(b"b", 3)
    origin.write_gate.clear()
    origin.wants_to_write.clear()
    cache, draining = served.now, in_background(lambda: served.now.drain())
    assert origin.wants_to_write.wait(PATIENCE_S)
    log.failing = ("sync", "write")
    with pytest.raises(OriginFailedError, match="have not been carried out"):
        fail_then_attach(served, client, other)
    assert served.now is cache and served.now.status()["state"] == "failed"
    origin.write_gate.set()
    with pytest.raises((LogFailedError, StoppedError)):
        draining.result(PATIENCE_S)
    cache._destager.join(PATIENCE_S)
    origin.write_gate.clear()
    attach(served, other)
    assert letters(client, 9) == b"aaabaaaao"
    superblock = served.now._store.current
    assert superblock.batch_end > superblock.destaged
    assert [one.end_lsn >= superblock.batch_end for one in served.now.window()[0]] == [True]
    with pytest.raises(OutsideWindowError):
        served.now.open_snapshot("0")
    with pytest.raises(OutsideWindowError):
        served.now.compare("0", "last-flush")
    origin.write_gate.set()


def fail_then_attach(served, client, other):
    client.write(b"a", 4)
    with pytest.raises(LogFailedError):
        client.call("flush")
    served.attach(other, False, None, False)


def test_requests_wait(served, client, log, other, monkeypatch):
    """Writes and flushes that come in the pause are carried out afterwards; reads do not wait."""
    client.write(b"a", 0)
    fail(client, log)
    with pytest.raises(LogFailedError):
        client.write(b"b", 1)
    reached, go_on = threading.Event(), threading.Event()
    fill = type(served.now.succession).fill

    def hold(self, new):
        reached.set()
        assert go_on.wait(PATIENCE_S)
        fill(self, new)

    monkeypatch.setattr(type(served.now.succession), "fill", hold)
    attaching, line = in_background(attach, served, other), served.now._line
    assert reached.wait(PATIENCE_S)
    assert served.now.status()["state"] == "quiesced"
    waiting = [in_background(client.write, b"b", 1), in_background(client.call, "flush")]
    wait_until(lambda: line.quiesced_waiters == 1)
    assert letters(client, 2) == b"ao"
    go_on.set()
    for future in (attaching, *waiting):
        future.result(PATIENCE_S)
    assert letters(client, 2) == b"ab"


def test_a_read_that_began_before(served, client, log, other):
    """It goes on with the failed log, which is closed when the last one has ended."""
    client.write(b"a", 0)
    client.call("flush")
    client.write(b"b", 1)
    fail(client, log)
    forget_ring(served)
    volume = served.now.volume
    attach(served, other)
    client.write(b"c", 0)
    found = bytearray(2 * PAGE_BYTES)
    volume.read_into(found, 0)
    assert found == b"a" * PAGE_BYTES + b"b" * PAGE_BYTES
    assert log._fd >= 0
    del volume
    wait_until(lambda: log._fd < 0)


def test_past_moments(served, client, log, other):
    """They are given up only if that is wanted."""
    client.write(b"a", 0)
    client.call("flush")
    snapshot = served.now.open_snapshot("last-flush")
    client.write(b"b", 1)
    fail(client, log)
    with pytest.raises(ControlError, match="past moments go with the log"):
        served.attach(other, False, None, False)
    found = bytearray(PAGE_BYTES)
    snapshot.read_into(found, 0)
    assert not os.path.exists(other)
    served.attach(other, False, None, True)
    with pytest.raises(SnapshotEndedError):
        snapshot.read_into(found, 0)


def test_logs_that_are_refused(pair, served, client, log, other, tmp_path):
    client.write(b"a", 0)
    client.write(b"b", 1)
    fail(client, log)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"precious" * MIB)
    for path, formats, error, match in (
        (str(foreign), False, LogRefusedError, "holds data that is not a wbcache log"),
        (str(pair.log), True, ControlError, "is attached already"),
    ):
        with pytest.raises(error, match=match):
            served.attach(path, formats, None, False)
        assert served.now.status()["state"] == "failed"
    assert foreign.read_bytes() == b"precious" * MIB
    served.attach(str(foreign), True, None, False)
    assert letters(client, 3) == b"abo"


def test_a_log_that_is_too_small(served, client, log, other):
    for at in range(0, 4 * MIB, MIB):
        client.call("write", b"x" * MIB, at)
    fail(client, log)
    with pytest.raises(LogFullError, match="name a larger log"):
        served.attach(other, False, "4M", False)
    assert served.now.status()["state"] == "failed"
    os.unlink(other)
    served.attach(other, False, "16M", False)
    assert client.read(1023) == b"x"


def test_detach_says_what_helps(served, client, log, other):
    client.write(b"a", 0)
    fail(client, log)
    with pytest.raises(LogFailedError, match="attach another log first"):
        served.detach(False)
    attach(served, other)
    detach(served)
    assert client.read(0) == b"a"


@pytest.mark.parametrize("way", ["no thread", "no mark"])
def test_it_fails_in_the_end(pair, served, client, log, other, way, monkeypatch):
    """The failed log is the one again, and everything can be tried once more."""
    client.write(b"a", 0)
    fail(client, log)
    cache, put = served.now, OriginSide.put
    with monkeypatch.context() as patch:
        if way == "no thread":

            def refuse(_):
                raise NoThreadError("cannot start a thread")

            patch.setattr("wbcache_core.server.movers.Movers.start", refuse)
        else:
            patch.setattr(
                OriginSide, "put",
                lambda self, volume, log, state: str(log) == str(pair.log) and put(self, volume, log, state),
            )  # fmt: skip
        with pytest.raises((NoThreadError, ControlError), match=r"cannot (start a thread|be marked)"):
            served.attach(other, False, None, False)
    assert served.now is cache and cache.status()["state"] == "failed"
    assert mark(pair)[1:3] == (str(pair.log), DIRTY)
    assert os.path.exists(cache._ring_memory.path)
    assert letters(client, 2) == b"ao"
    served.now.settings.change({"ack": "log"})
    served.attach(other, True, None, False)
    client.write(b"b", 1)
    cursors = served.now.status()["cursors"]
    assert cursors["committed"] == cursors["head"]
    assert letters(client, 2) == b"ab"


def test_no_mark_can_be_kept(served, client, log, other, monkeypatch):
    """Then nothing would refuse the failed log: it is not replaced."""
    client.write(b"a", 0)
    fail(client, log)
    monkeypatch.setattr(OriginSide, "put", lambda *_: False)
    with pytest.raises(ControlError, match="cannot be marked"):
        served.attach(other, False, None, False)
    assert served.now.status()["state"] == "failed"


def test_a_stop_meanwhile(served, client, log, other, monkeypatch):
    """The command gives up, and the stop is that of a server whose log has failed."""
    client.write(b"a", 0)
    fail(client, log)
    count = type(served.now.succession).check_mark

    def stop(self, side):
        in_background(served.interrupt).result(PATIENCE_S)
        count(self, side)

    monkeypatch.setattr(type(served.now.succession), "check_mark", stop)
    with pytest.raises(StoppedError):
        served.attach(other, False, None, False)
    ring = served.now._ring_memory.path
    served.stop()
    assert served.is_unfinished and os.path.exists(ring)
    os.unlink(ring)


def test_the_new_log_fails_meanwhile(pair, served, client, log, other, monkeypatch):
    """At each of its writes and syncs: the failed log stays the one, with its ring."""
    for block in range(300):
        client.write(b"a", block)
    fail(client, log)
    cache, left = served.now, 0
    originals = LogFile.write, LogFile.sync

    def limited(original):
        def call(device, *arguments):
            nonlocal left
            if device is not log:
                left -= 1
                if left < 0:
                    raise DeviceError("cannot write to the new log", errno.EIO)
            return original(device, *arguments)

        return call

    for calls in range(100):
        left = calls
        with monkeypatch.context() as patch:
            patch.setattr(LogFile, "write", limited(originals[0]))
            patch.setattr(LogFile, "sync", limited(originals[1]))
            try:
                served.attach(other, True, None, False)
                break
            except DeviceError:
                assert served.now is cache and os.path.exists(path_of(cache._superblock.uuid))
                assert mark(pair)[1:3] == (str(pair.log), DIRTY), calls
    assert 12 < calls < 99
    assert client.read(299) == b"a"
