# SPDX-License-Identifier: BSD-3-Clause
"""A process dies and its ring stays: what the next one takes over, and what it leaves alone."""

import errno
import fcntl
import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.support.abandon import abandon
from tests.support.control import wbcache
from tests.support.local_pair import QUIET
from tests.support.simulated_disk import MemoryDisk
from wbcache_core import clock
from wbcache_core.device import shared_memory
from wbcache_core.errors import (
    DamagedLogError,
    DeviceError,
    DeviceInUseError,
    LogRefusedError,
    ReadOnlyError,
    RequestError,
)
from wbcache_core.flow import committer
from wbcache_core.format.shared_ring import Layout
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.cache import Cache
from wbcache_core.units import MIB, PAGE_BYTES

SIZE = 2 * MIB
RING_PAGES = MIB // PAGE_BYTES


def content(cache):
    found = bytearray(cache.volume.size)
    cache.volume.read_into(found, 0)
    return bytes(found)


def write_some(cache, letter, flushes=False):
    """Requests of all kinds; returns what the volume is now."""
    volume = cache.volume
    volume.write(letter * PAGE_BYTES, 3 * PAGE_BYTES)
    volume.write(letter * 100 * PAGE_BYTES, 20 * PAGE_BYTES)
    volume.trim(7 * PAGE_BYTES, 25 * PAGE_BYTES)
    volume.write(letter * 5000, 22 * PAGE_BYTES + 17)
    volume.zero(3 * PAGE_BYTES + 5, 40 * PAGE_BYTES + 3, may_trim=False)
    volume.write(letter * 10, 26 * PAGE_BYTES + 1)
    if flushes:
        volume.flush()
    return content(cache)


@pytest.fixture
def killed(pair):
    """A pair whose server died with something in the log, and more only in its ring: `before` and `after`."""
    pair.make_origin(os.urandom(SIZE))
    cache = pair.start(**QUIET)
    pair.before = write_some(cache, b"a", flushes=True)
    pair.after = write_some(cache, b"b")
    pair.ring = cache._ring_memory.path
    pair.committed = cache._line.committed
    abandon(cache, memory_stays=True)
    return pair


def opened(pair, **parameters):
    """A server that nobody has been let in to write to."""
    cache = Cache(pair.config(**{**QUIET, **parameters}))
    pair.own(cache)
    return cache


def ring_bytes(pair):
    with open(pair.ring, "rb") as file:
        return file.read()


def patch_ring(pair, offset, data):
    with open(pair.ring, "r+b") as file:
        file.seek(offset)
        file.write(data)


def served(pair, **parameters):
    cache = opened(pair, **parameters)
    try:
        return content(cache)
    finally:
        cache.stop()


def test_it_is_taken_over(killed):
    cache = killed.start(**QUIET)
    assert content(cache) == killed.after
    cache.volume.flush()
    abandon(cache)
    assert served(killed) == killed.after


def test_whoever_only_reads_changes_nothing(killed):
    log, ring = killed.log.read_bytes(), ring_bytes(killed)
    assert served(killed) == killed.after
    assert (killed.log.read_bytes(), ring_bytes(killed)) == (log, ring)


def test_again_and_again(killed):
    for letter in b"cdefgh":
        cache = killed.start(**QUIET)
        assert content(cache) == killed.after
        killed.after = write_some(cache, bytes([letter]))
        abandon(cache, memory_stays=True)
    assert served(killed) == killed.after


def test_what_was_taken_over_is_committed_soon(killed):
    cache = killed.start(**QUIET)
    with cache._line.lock:
        assert cache._line.moved.wait_for(lambda: cache._line.committed == cache._line.head, 10)


def test_a_clean_stop_removes_it(killed):
    cache = killed.start(**QUIET)
    cache.stop()
    assert not os.path.exists(killed.ring)
    assert served(killed) == killed.after


def test_only_its_user_may_open_it(killed):
    assert os.stat(killed.ring).st_mode & 0o7777 == 0o600


def test_a_flush_before_it_can_be_committed_fails(killed):
    cache = opened(killed)
    with pytest.raises(ReadOnlyError, match="cannot be committed"):
        cache.volume.flush()


def test_the_size_that_it_has_stays(killed, caplog):
    caplog.set_level(logging.INFO)
    cache = killed.start(**QUIET | {"ring_size": "4M"})
    assert content(cache) == killed.after
    assert "the ring has 1.0 MiB, as that server had it" in caplog.text
    killed.after = write_some(cache, b"x")
    cache.stop()
    assert served(killed) == killed.after


def test_private_memory_takes_it_over_too(killed):
    assert served(killed, ring_memory="private") == killed.after


def test_one_that_was_committed_is_of_no_use(pair):
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET)
    volume = write_some(cache, b"a", flushes=True)
    ring = cache._ring_memory.path
    abandon(cache, memory_stays=True)
    cache = pair.start(**QUIET | {"ring_size": "2M"})
    assert content(cache) == volume
    assert cache._ring_memory.path == ring
    assert os.path.getsize(ring) == Layout(2 * RING_PAGES, 2 * RING_PAGES).file_bytes


@pytest.mark.parametrize(
    ("offset", "data", "said"),
    [
        (0, b"x", "header is damaged"),
        (100, b"x", "header is damaged"),
        (PAGE_BYTES, (2**40).to_bytes(8, "little"), "it says that LSN"),
        (PAGE_BYTES + 8, (2**20).to_bytes(8, "little"), "not in order"),
    ],
)
def test_damage_is_told_and_ignored(killed, caplog, offset, data, said):
    patch_ring(killed, offset, data)
    cache = killed.start(**QUIET)
    assert content(cache) == killed.before
    assert said in caplog.text and "is ignored" in caplog.text
    volume = write_some(cache, b"z")
    abandon(cache, memory_stays=True)
    assert served(killed) == volume


@pytest.mark.parametrize("word", [SIZE // PAGE_BYTES, 2**63], ids=["beyond the end", "of no kind"])
def test_an_impossible_block_is_told_and_ignored(killed, caplog, word):
    at = Layout(RING_PAGES, RING_PAGES).blocks_at + 8 * ((killed.committed + 1) % RING_PAGES)
    patch_ring(killed, at, word.to_bytes(8, "little"))
    assert served(killed) == killed.before
    assert "is impossible" in caplog.text


def test_a_ring_that_was_cut_short(killed, caplog):
    os.truncate(killed.ring, os.path.getsize(killed.ring) - PAGE_BYTES)
    assert served(killed) == killed.before
    assert "instead of" in caplog.text


def test_a_ring_of_another_boot(killed, caplog, monkeypatch):
    monkeypatch.setattr(clock, "_BOOT", clock._BOOT ^ 1)
    assert served(killed) == killed.before
    assert "from before the machine was started" in caplog.text


def hide_boot_id(monkeypatch):
    """As systemd does with ProcSubset=pid."""
    monkeypatch.setattr(clock, "_BOOT_ID", Path("/nowhere/boot_id"))
    monkeypatch.setattr(clock, "_BOOT", clock._this_boot())


def test_a_ring_whose_boot_cannot_be_told_is_kept(killed, monkeypatch):
    with monkeypatch.context() as hidden:
        hide_boot_id(hidden)
        with pytest.raises(DeviceError, match=r"boot_id cannot be read .*remove the ring to give that up"):
            killed.start(**QUIET)
    assert served(killed) == killed.after


def test_a_ring_that_nobody_could_take_over_is_private(pair, caplog, monkeypatch):
    hide_boot_id(monkeypatch)
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET)
    assert cache._ring_memory.path == ""
    assert "the ring is in private memory: /nowhere/boot_id cannot be read" in caplog.text


def test_a_ring_of_another_volume(killed, caplog, tmp_path):
    other = type(killed)(tmp_path / "other")
    (tmp_path / "other").mkdir()
    other.make_origin(SIZE)
    cache = other.start(**QUIET)
    write_some(cache, b"o")
    ring = cache._ring_memory.path
    abandon(cache, memory_stays=True)
    os.replace(ring, killed.ring)
    assert served(killed) == killed.before
    assert "another volume" in caplog.text


def test_a_log_that_went_on_without_it(killed, caplog):
    os.rename(killed.ring, killed.ring + ".aside")
    cache = killed.start(**QUIET)
    volume = write_some(cache, b"n", flushes=True)
    cache.stop()
    os.rename(killed.ring + ".aside", killed.ring)
    cache = killed.start(**QUIET)
    assert content(cache) == volume
    assert "in another way" in caplog.text and "pages, is lost" in caplog.text
    cache.stop()
    assert not os.path.exists(killed.ring)


def test_a_log_that_ends_where_the_ring_does_but_is_another(killed, caplog):
    """The same requests, so the same LSNs, at another time."""
    os.rename(killed.ring, killed.ring + ".aside")
    cache = killed.start(**QUIET)
    write_some(cache, b"n", flushes=True)
    assert cache._line.committed > killed.committed
    volume = content(cache)
    cache.stop()
    os.rename(killed.ring + ".aside", killed.ring)
    assert served(killed) == volume
    assert "in another way" in caplog.text


def test_a_log_whose_last_commit_is_another(pair, tmp_path, caplog):
    """It ends at the very LSN at which the ring goes on."""
    pair.make_origin(SIZE)
    pair.start(**QUIET).stop()
    shutil.copy(pair.log, tmp_path / "older")
    committed = []
    for letter in b"ax":
        cache = pair.start(**QUIET)
        volume = write_some(cache, bytes([letter]), flushes=True)
        committed.append(cache._line.committed)
        write_some(cache, b"b")
        ring = cache._ring_memory.path
        abandon(cache, memory_stays=True)
        if letter == ord("a"):
            shutil.move(ring, tmp_path / "ring")
            shutil.copy(tmp_path / "older", pair.log)
    assert committed[0] == committed[1]
    os.unlink(ring)
    shutil.move(tmp_path / "ring", ring)
    assert served(pair) == volume
    assert "in another way" in caplog.text


def test_a_commit_that_was_under_way_and_a_ring_that_comes_round_again(pair):
    """What the anchor said when the first server died is overwritten by the second, which cannot commit."""
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET)
    write_some(cache, b"a", flushes=True)
    write_some(cache, b"b")

    def refuse(*_arguments):
        raise DeviceError("no")

    cache._writer._sync.sync = refuse
    with pytest.raises(RequestError):
        cache.volume.flush()
    write_some(cache, b"m")
    abandon(cache, memory_stays=True)
    cache = opened(pair)
    anchor = cache._ring.journal.anchor
    assert cache._line.committed > anchor.lsn, "the commit is in the log"
    cache._writer.write = refuse
    cache.activate()
    with pytest.raises(RequestError):
        for page in range(2 * RING_PAGES):
            cache.volume.write(b"c" * PAGE_BYTES, page * PAGE_BYTES % SIZE)
    assert cache._line.head > anchor.lsn + RING_PAGES
    volume = content(cache)
    abandon(cache, memory_stays=True)
    assert served(pair) == volume


def test_what_a_stop_could_not_commit_stays(pair, monkeypatch, caplog):
    monkeypatch.setattr(committer, "_STOP_PATIENCE", 0.1)
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET)
    volume = write_some(cache, b"a")

    def refuse(*_arguments):
        raise DeviceError("no")

    cache._log.write = refuse
    cache.stop()
    assert "stay in memory, in '" in caplog.text
    assert served(pair) == volume


def test_a_log_that_lost_what_the_ring_knows_to_be_durable(pair, tmp_path):
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET)
    write_some(cache, b"a", flushes=True)
    shutil.copy(pair.log, tmp_path / "older")
    write_some(cache, b"b", flushes=True)
    ring = cache._ring_memory.path
    abandon(cache, memory_stays=True)
    shutil.copy(tmp_path / "older", pair.log)
    with pytest.raises(DamagedLogError, match="older copy"):
        opened(pair)
    os.unlink(ring)
    served(pair)


def test_a_ring_that_another_server_uses(killed, monkeypatch):
    monkeypatch.setattr(shared_memory, "_LOCK_PATIENCE_S", 0.05)
    with open(killed.ring, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DeviceInUseError, match="ring-memory=private"):
            opened(killed)
        assert served(killed, ring_memory="private") == killed.before
    assert served(killed) == killed.after


def test_a_lock_that_a_dying_server_still_holds_is_waited_for(killed, monkeypatch):
    other = open(killed.ring, "rb")
    fcntl.flock(other, fcntl.LOCK_EX)
    monkeypatch.setattr(shared_memory.time, "sleep", lambda seconds: other.close())
    assert served(killed) == killed.after


def test_one_that_others_could_have_written_is_not_touched(killed):
    os.chmod(killed.ring, 0o622)
    with pytest.raises(DeviceError, match="not a file of this user alone"):
        opened(killed)
    os.chmod(killed.ring, 0o600)
    assert served(killed) == killed.after


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EOPNOTSUPP])
def test_no_room_for_it(pair, monkeypatch, caplog, number):
    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET)
    assert "the ring is in private memory" in caplog.text
    assert not os.listdir(os.environ["WBCACHE_SHM"])
    volume = write_some(cache, b"a")
    cache.stop()
    assert served(pair) == volume


def test_no_folder_for_it(pair, monkeypatch, caplog):
    monkeypatch.setenv("WBCACHE_SHM", "/nowhere")
    pair.make_origin(SIZE)
    write_some(pair.start(**QUIET), b"a")
    assert "cannot create '/nowhere/wbcache-" in caplog.text


def test_it_is_not_wanted(pair, caplog):
    pair.make_origin(SIZE)
    pair.start(ring_memory="private")
    assert not os.listdir(os.environ["WBCACHE_SHM"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestTools:
    def test_info_and_check_tell(self, killed):
        status, said, _ = wbcache("info", killed.log)
        assert status == 0 and "only in memory" in said and "dirty" in said
        status, said, _ = wbcache("check", killed.log, "--origin", killed.origin)
        assert status == 0 and "only in memory" in said

    def test_rewind_refuses(self, killed):
        log = killed.log.read_bytes()
        status, _, said = wbcache("rewind", killed.log, "0", "--origin", killed.origin)
        assert status == 1 and "only in memory" in said
        assert killed.log.read_bytes() == log
        assert served(killed) == killed.after

    def test_replay_takes_it_over(self, killed, tmp_path):
        ring = ring_bytes(killed)
        assert wbcache("replay", "--to", tmp_path / "image", killed.log, killed.origin)[0] == 0
        assert (tmp_path / "image").read_bytes() == killed.after
        assert ring_bytes(killed) == ring
        assert wbcache("replay", killed.log, killed.origin)[0] == 0
        assert killed.origin.read_bytes() == killed.after
        assert not os.path.exists(killed.ring)

    def test_diff_tells(self, killed):
        status, _, said = wbcache("diff", killed.log, "0", "last-flush")
        assert status == 0 and "only in memory" in said


def test_a_log_that_is_discarded(killed):
    """Its ring goes with it, and the new volume has one of its own."""
    killed.origin.write_bytes(os.urandom(SIZE))
    with pytest.raises(LogRefusedError):
        opened(killed)
    cache = killed.start(force="discard-log,other-log", **QUIET)
    assert cache._ring_memory.path != killed.ring
    assert not os.path.exists(killed.ring)
    after = write_some(cache, b"n")
    abandon(cache, memory_stays=True)
    assert served(killed) == after


def test_the_name_of_the_file(killed):
    volume = newest(read_slots(MemoryDisk(bytearray(killed.log.read_bytes())))).uuid
    assert killed.ring == shared_memory.path_of(volume)
