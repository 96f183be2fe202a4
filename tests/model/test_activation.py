# SPDX-License-Identifier: BSD-3-Clause
"""activate() that fails at any step: the next client's activate() begins anew, nothing is lost, and one thread writes.

Nothing of the log may be left that a power cut during the next attempt could make unreadable.
"""

import contextlib
import itertools
import threading

import pytest

from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.injected_errors import each_line_once, error_at, threads_that_fail
from tests.support.invariants import check_generations, check_line
from tests.support.local_pair import QUIET, SMALL
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, DeviceInUseError, WbcacheError
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.units import MIB, PAGE_BYTES

OURS = ("wbcache-commit", "wbcache-destage")
STEPS = (
    "server/cache.py", "server/log_preparation.py", "server/ring_memory.py", "device/shared_memory.py", "threads.py",
    "log/superblocks.py", "log/takeover.py",
    "log/writer.py", "log/log_sync.py", "pairing/mark.py", "memory/generations.py", "memory/cursors.py",
    "device/file_device.py", "device/log_file.py", "flow/committer.py", "flow/destager.py", "flow/tags.py",
    "volume/volume.py",
)  # fmt: skip
MOST_LINES = 3000


def page(letter):
    return letter * PAGE_BYTES


def read(cache, block):
    found = bytearray(PAGE_BYTES)
    cache.volume.read_into(found, block * PAGE_BYTES)
    return bytes(found)


def our_threads():
    return sorted(thread.name for thread in threading.enumerate() if thread.name in OURS)


class Disturbed(FileDevice):
    """A log of which one operation fails, counted from arm() on; a write that fails has been torn."""

    def __init__(self, path):
        super().__init__(str(path), "log", direct=True)
        self.failed = None
        self._countdown = None

    def arm(self, countdown):
        self.failed, self._countdown = None, countdown

    def _is_struck(self, what):
        if self._countdown is None:
            return False
        self._countdown -= 1
        if self._countdown >= 0:
            return False
        self.failed, self._countdown = what, None
        return True

    def _disturb(self, what):
        if self._is_struck(what):
            raise DeviceError(f"cannot {what} log: as the test wants it")

    def read_into(self, view, offset):
        self._disturb("read")
        super().read_into(view, offset)

    def write(self, views, offset):
        if self._is_struck("write"):
            torn = bytearray(b"\xa5" * PAGE_BYTES)
            torn[: PAGE_BYTES // 2] = b"".join(views)[: PAGE_BYTES // 2]
            with open(self.name, "r+b") as file:
                file.seek(offset)
                file.write(torn)
            raise DeviceError("cannot write to log: as the test wants it")
        super().write(views, offset)

    def sync(self):
        self._disturb("sync")
        super().sync()

    def grow(self, length):
        self._disturb("grow")
        super().grow(length)


class Situation:
    """What activate() finds. `content` is what the first blocks of the volume have."""

    def __init__(self, pair, kind):
        self.pair, self.kind = pair, kind
        self.content = {0: b"o", 1: b"o"}

    def make(self):
        """From nothing."""
        pair = self.pair
        pair.abandon()
        # A new file: the one before is marked as that of its log.
        pair.origin.unlink(missing_ok=True)
        pair.log.unlink(missing_ok=True)
        pair.make_origin(b"o" * 2 * MIB)
        if self.kind == "empty log":
            pair.log.touch()
        elif self.kind == "dirty log":
            cache = pair.start(**QUIET)
            cache.volume.write(page(b"a"), 0, fua=True)
            cache.tag("kept")
            cache.volume.write(page(b"b"), 7 * PAGE_BYTES, fua=True)
            pair.abandon()
            self.content |= {0: b"a", 7: b"b"}

    def open(self, log=None):
        cache = Cache(self.pair.config(**QUIET), log=log)
        self.pair.own(cache)
        return cache

    def check_use(self, cache):
        """Write through an active cache, kill it, and look at what recovery and origin have."""
        assert our_threads() == sorted(OURS)
        with cache._line.lock:
            check_line(cache._line)
            check_generations(cache._covered.generations)
        content = self.content | {9: b"n"}
        cache.volume.write(page(b"n"), 9 * PAGE_BYTES, fua=True)
        tags = {tag.name for tag in cache.window()[1]}
        self.pair.abandon()
        check_pair(self.pair.log, self.pair.origin)
        again = self.pair.start(**QUIET)
        assert {tag.name for tag in again.window()[1]} == tags == ({"kept"} if self.kind == "dirty log" else set())
        for name in tags:
            again.untag(name)
        for block, letter in content.items():
            assert read(again, block) == page(letter)
        again.drain()
        origin = self.pair.origin.read_bytes()
        for block, letter in content.items():
            assert origin[block * PAGE_BYTES :][:PAGE_BYTES] == page(letter)
        self.pair.abandon()


@pytest.mark.parametrize("kind", ["no log", "dirty log"])
def test_memory_error_at_every_line(pair, kind):
    situation = Situation(pair, kind)
    situation.make()
    with error_at(MOST_LINES, STEPS, ("activate",)) as undisturbed:
        situation.open().activate()
    assert not undisturbed.struck
    struck = []
    for countdown in each_line_once(undisturbed):
        situation.make()
        cache = situation.open()
        failed = True
        with error_at(countdown, STEPS, ("activate",)) as injection, contextlib.suppress(WbcacheError, MemoryError):
            cache.activate()
            failed = False
        struck.append(injection.struck)
        assert our_threads() == ([] if failed else sorted(OURS)), injection.struck
        try:
            cache.activate()
        except DeviceError as error:
            # As with a sync that fails, see below: nobody knows what is durable.
            assert "start the server again" in str(error), injection.struck
            assert any(word in injection.struck for word in ("sync", "durable")), injection.struck
            pair.abandon()
            cache = pair.start(**QUIET)
        situation.check_use(cache)
    assert len(struck) > 80
    for module in ("cache.py", "superblocks.py", "mark.py", "committer.py", "destager.py"):
        assert any(where.startswith(module) for where in struck), module


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=["limit", "memory"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_thread_that_cannot_be_started(pair, monkeypatch, nth, error):
    """One has been started and the other cannot be: both or none."""
    situation = Situation(pair, "no log")
    situation.make()
    cache = situation.open()
    for _ in range(3):
        with (
            threads_that_fail(monkeypatch, nth, error),
            pytest.raises(WbcacheError, match="cannot start a thread"),
        ):
            cache.activate()
        assert our_threads() == []
        with pytest.raises(WbcacheError, match="read-only"):
            cache.volume.write(page(b"x"), 0)
    cache.activate()
    situation.check_use(cache)


@pytest.mark.parametrize("kind", ["empty log", "dirty log"])
def test_a_log_that_fails_twice(pair, kind):
    """At any operation of the first attempt, and at any of the second. What is torn stays torn until it is written."""
    situation = Situation(pair, kind)
    struck = set()
    for first in itertools.count():
        for second in itertools.count():
            situation.make()
            log = Disturbed(pair.log)
            cache = situation.open(log)
            log.arm(first)
            with contextlib.suppress(DeviceError):
                cache.activate()
            if log.failed is None:
                assert len(struck) > 3
                return
            struck.add((first, log.failed))
            is_final = kind == "dirty log" and first == 0
            assert log.failed == "sync" or not is_final
            log.arm(second)
            with contextlib.suppress(DeviceError):
                cache.activate()
            again = log.failed
            log.arm(MOST_LINES)
            # Power may go at any time: one superblock at least is whole.
            assert kind != "dirty log" or newest(read_slots(log)), (first, second)
            if is_final:
                # What recovery saw may have been in the page cache alone: nobody knows what is durable.
                with pytest.raises(DeviceError, match="start the server again"):
                    cache.activate()
                break
            cache.activate()
            situation.check_use(cache)
            if again is None:
                break


def test_a_log_file_that_was_made_and_cannot_be_opened(pair, monkeypatch):
    situation = Situation(pair, "no log")
    situation.make()
    cache = situation.open()
    opened = FileDevice.__init__

    def fail(device, path, *arguments, **settings):
        if str(path) == str(pair.log):
            raise DeviceError(f"cannot open log '{path}': Too many open files")
        opened(device, path, *arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(FileDevice, "__init__", fail)
        for _ in range(2):
            with pytest.raises(DeviceError, match="Too many open files"):
                cache.activate()
    cache.activate()
    situation.check_use(cache)


def test_a_log_that_somebody_else_has_made_meanwhile(pair, tmp_path):
    """Between the start and the first client: it is not touched."""
    situation = Situation(pair, "no log")
    situation.make()
    cache = situation.open()
    (tmp_path / "other").write_bytes(b"i" * MIB)
    other = Cache(Config.from_pairs([("origin", str(tmp_path / "other")), ("log", str(pair.log)), *SMALL.items()]))
    pair.own(other)
    other.activate()
    other.volume.write(page(b"i"), 0, fua=True)
    with pytest.raises(DeviceInUseError):
        cache.activate()
    abandon(other)
    before = pair.log.read_bytes()
    with pytest.raises(WbcacheError, match="has appeared"):
        cache.activate()
    assert pair.log.read_bytes() == before


def test_a_sync_that_failed_for_a_snapshot_fails_the_activation(pair):
    """The kernel tells of what it could not write once: a second sync would succeed."""
    situation = Situation(pair, "dirty log")
    situation.make()
    log = Disturbed(pair.log)
    cache = situation.open(log)
    log.arm(0)
    with pytest.raises(DeviceError):
        cache.open_snapshot("0")
    assert log.failed == "sync"
    with pytest.raises(DeviceError, match="start the server again"):
        cache.activate()
    pair.abandon()
    again = pair.start(**QUIET)
    situation.check_use(again)
