# SPDX-License-Identifier: BSD-3-Clause
"""Which log belongs to which origin, where the content of origins cannot tell."""

import errno
import os
import shutil

import pytest

from tests.support.abandon import abandon
from tests.support.local_pair import QUIET, LocalPair
from wbcache_core.errors import OtherLogError, WrongPairError
from wbcache_core.format.origin_facts import FILE, OriginFacts
from wbcache_core.pairing import identity as identity_module
from wbcache_core.pairing import mark as mark_module
from wbcache_core.pairing.mark import CLEAN, DIRTY, OriginSide
from wbcache_core.server.cache import Cache
from wbcache_core.units import MIB, PAGE_BYTES

OLD_END = MIB + 512
TWIN_HINTS = "force=origin-moved|force=other-log"


@pytest.fixture
def twins(tmp_path):
    """Two blank origins, each with a log that has a page for it, as a kill left them."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pair = LocalPair(tmp_path / name)
        pair.make_origin(MIB)
        write(pair, name)
        made.append(pair)
    yield made
    for pair in made:
        pair.abandon()


@pytest.fixture(autouse=True)
def known_inodes(monkeypatch):
    """Whatever file system the tests run on."""
    monkeypatch.setattr(
        identity_module, "_facts_of_file", lambda fd: OriginFacts(FILE, os.fstat(fd).st_ino, os.fstat(fd).st_dev)
    )


def write(pair, text, **parameters):
    cache = pair.start(**QUIET, **parameters)
    cache.volume.write(text.encode() * PAGE_BYTES, 0, fua=True)
    pair.abandon()


def start_of(cache, length):
    found = bytearray(length)
    cache.volume.read_into(found, 0)
    return bytes(found)


def mark_of(pair):
    return OriginSide.at(str(pair.origin)).mark


def test_each_with_the_log_of_the_other(twins):
    one, two = twins
    for origin, log in ((one, two), (two, one)):
        with pytest.raises((OtherLogError, WrongPairError), match=TWIN_HINTS):
            Cache(origin.config(log=str(log.log)))
    assert start_of(one.start(**QUIET), 3) == b"one"
    assert start_of(two.start(**QUIET), 3) == b"two"


def test_a_twin_without_a_log_of_its_own(twins, tmp_path):
    """Only the recorded identity tells."""
    one, _ = twins
    shutil.copyfile(one.origin, tmp_path / "copy")
    with pytest.raises(WrongPairError, match=r"is not the one that log .*force=origin-moved"):
        Cache(one.config(origin=str(tmp_path / "copy")))
    cache = Cache(one.config(origin=str(tmp_path / "copy"), force="origin-moved"))
    cache.activate()
    abandon(cache)
    # The copy is the origin from now on.
    with pytest.raises(WrongPairError, match="force=origin-moved"):
        Cache(one.config())


def test_a_log_that_was_forgotten(twins, tmp_path):
    one, _ = twins
    with pytest.raises(OtherLogError, match=r"lacks data that log .*force=other-log") as refusal:
        Cache(one.config(log=str(tmp_path / "new")))
    assert str(one.log) in str(refusal.value)
    assert not (tmp_path / "new").exists()


def test_two_dirty_logs_are_never_served_in_turn(twins, tmp_path):
    one, _ = twins
    with LocalCache(one, log=str(tmp_path / "new"), force="other-log") as cache:
        assert start_of(cache, 3) == bytes(3)
        cache.volume.write(b"new", 0, fua=True)
    with pytest.raises(OtherLogError, match="force=other-log"):
        Cache(one.config())
    with LocalCache(one, log=str(tmp_path / "new"), on_exit="destage"):
        pass
    # The other log is drained; the first one has another history all the same.
    with pytest.raises(WrongPairError, match="another log"):
        Cache(one.config())
    with LocalCache(one, force="origin-changed") as cache:
        assert start_of(cache, 3) == b"one"


class LocalCache:
    """A cache that is stopped at the end."""

    def __init__(self, pair, **parameters):
        self._cache = pair.start(**QUIET | parameters)

    def __enter__(self):
        return self._cache

    def __exit__(self, *_):
        self._cache.stop()


def test_a_drained_origin_may_have_any_log(twins, tmp_path):
    one, _ = twins
    assert mark_of(one).state == DIRTY
    with LocalCache(one, on_exit="destage"):
        pass
    assert mark_of(one).state == CLEAN
    with LocalCache(one, log=str(tmp_path / "new")) as cache:
        assert start_of(cache, 3) == b"one"


def test_a_log_that_is_discarded_on_purpose(twins):
    """The one that the mark names: nothing else needs to be said."""
    one, _ = twins
    one.log.write_bytes(b"x" * MIB * 4)
    cache = Cache(one.config(force="discard-log"))
    assert start_of(cache, 3) == bytes(3)
    abandon(cache)


@pytest.mark.parametrize("more", [512, PAGE_BYTES, MIB])
def test_an_origin_that_grew(tmp_path, more):
    pair = LocalPair(tmp_path)
    pair.make_origin(OLD_END)
    cache = pair.start(**QUIET)
    cache.volume.write(b"end", OLD_END - 3, fua=True)
    pair.abandon()
    os.truncate(pair.origin, OLD_END + more)
    with LocalCache(pair, on_exit="destage") as cache:
        assert cache.volume.size == OLD_END + more
        cache.volume.write(b"new", OLD_END + more - 3)
    content = pair.origin.read_bytes()
    assert (content[OLD_END - 3 : OLD_END], content[-3:]) == (b"end", b"new")
    with LocalCache(pair) as cache:
        assert cache.volume.size == OLD_END + more


def test_an_origin_that_grew_within_a_page_and_has_data_there(tmp_path):
    """The log has zeros for the rest of that page, which must not go over it."""
    pair = LocalPair(tmp_path)
    pair.make_origin(OLD_END)
    cache = pair.start(**QUIET)
    cache.volume.write(b"end", OLD_END - 3, fua=True)
    pair.abandon()
    with open(pair.origin, "ab") as origin:
        origin.write(b"x" * 512)
    with pytest.raises(WrongPairError, match="fill them with zeros"):
        Cache(pair.config())


def test_an_origin_that_shrank(tmp_path):
    pair = LocalPair(tmp_path)
    pair.make_origin(2 * MIB)
    write(pair, "x")
    os.truncate(pair.origin, MIB)
    with pytest.raises(WrongPairError, match="restore the old size"):
        Cache(pair.config())


def test_a_mark_that_could_not_be_written_is_written_for_a_later_client(pair, monkeypatch, caplog):
    """No space for it at the first client; the log has some."""
    pair.make_origin(MIB)
    error = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patched:
        for place in (mark_module._Attribute, mark_module._File):
            patched.setattr(place, "write", lambda *_: (_ for _ in ()).throw(error))
        cache = pair.start(**QUIET)
        cache.activate()
        assert mark_of(pair) is None
        assert caplog.text.count("cannot be marked") == 1
    cache.activate()
    assert mark_of(pair).is_dirty
    caplog.clear()
    cache.activate()
    assert not caplog.records
