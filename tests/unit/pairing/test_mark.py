# SPDX-License-Identifier: BSD-3-Clause
"""The mark of an origin: where it is kept, what it says, and what happens where it cannot be kept or read."""

import errno
import json
import os
import shutil

import pytest

from wbcache_core.errors import FormatError
from wbcache_core.format.origin_facts import FILE, OriginFacts
from wbcache_core.pairing import mark as mark_module
from wbcache_core.pairing.mark import ATTRIBUTE, CLEAN, DIRTY, SIDECAR_SUFFIX, Mark, OriginSide, decode, encode

ONE, TWO = b"1" * 16, b"2" * 16
FACTS = OriginFacts(FILE, inode=7, birth_ns=5)


@pytest.fixture
def origin(tmp_path):
    path = tmp_path / "origin.img"
    path.write_bytes(bytes(4096))
    return path


def no_attributes(monkeypatch):
    """A file system that has none."""

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    for name in ("getxattr", "setxattr", "removexattr"):
        monkeypatch.setattr(mark_module.os, name, refuse)


def state_of(path):
    mark = OriginSide.at(str(path)).mark
    return mark and (mark.volume, mark.state)


@pytest.mark.parametrize("state", [DIRTY, CLEAN])
def test_what_is_encoded_is_decoded(state):
    mark = Mark(ONE, "/srv/log \udcff", state, "nbd://host", FACTS)
    assert decode(encode(mark)) == mark


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"7", b"\xff", b'{"wbcache": 2}'])
def test_what_is_no_mark(raw):
    with pytest.raises(FormatError):
        decode(raw)


@pytest.mark.parametrize(
    "change", [{"state": "x"}, {"wbcache": 2}, {"volume": "x"}, {"facts": "zz"}, {"facts": "ff" * 300}]
)
def test_a_mark_that_is_not_understood(change):
    value = json.loads(encode(Mark(ONE, "log", DIRTY))) | change
    with pytest.raises(FormatError):
        decode(json.dumps(value).encode())


@pytest.mark.parametrize("attributes", [True, False], ids=["attribute", "sidecar"])
def test_the_mark_is_found_by_every_way_to_the_file(origin, tmp_path, monkeypatch, attributes):
    if not attributes:
        no_attributes(monkeypatch)
    assert state_of(origin) is None
    assert OriginSide.at(str(origin)).put(ONE, str(tmp_path / "log"), DIRTY)
    link = tmp_path / "link.img"
    link.symlink_to(origin)
    monkeypatch.chdir(tmp_path)
    assert {state_of(way) for way in (origin, link, "origin.img")} == {(ONE, DIRTY)}
    assert (tmp_path / ("origin.img" + SIDECAR_SUFFIX)).exists() != attributes
    OriginSide.at(str(origin)).put(TWO, str(tmp_path / "log"), CLEAN)
    assert state_of(link) == (TWO, CLEAN)


def test_the_attribute_goes_with_the_file(origin, tmp_path):
    OriginSide.at(str(origin)).put(ONE, "log", DIRTY)
    assert ATTRIBUTE in os.listxattr(origin)
    os.link(origin, tmp_path / "hard.img")
    moved = origin.rename(tmp_path / "moved.img")
    assert state_of(moved) == state_of(tmp_path / "hard.img") == (ONE, DIRTY)
    assert list(tmp_path.glob("*" + SIDECAR_SUFFIX)) == []


def test_a_newer_place_takes_the_mark_from_the_older(origin, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        no_attributes(without)
        OriginSide.at(str(origin)).put(ONE, "log", DIRTY)
    assert state_of(origin) == (ONE, DIRTY)
    OriginSide.at(str(origin)).put(ONE, "log", CLEAN)
    assert state_of(origin) == (ONE, CLEAN)
    assert list(tmp_path.glob("*" + SIDECAR_SUFFIX)) == []


def test_an_export_is_marked_in_the_registry():
    uri, other = "nbd+unix:///a?socket=/nowhere", "nbd+unix:///b?socket=/nowhere"
    assert OriginSide.at(uri).put(ONE, "/srv/log", DIRTY)
    assert (state_of(uri), state_of(other)) == ((ONE, DIRTY), None)
    assert len(os.listdir(os.environ["WBCACHE_PAIRS"])) == 1


def test_where_no_mark_can_be_kept_it_is_said(origin, monkeypatch, caplog):
    no_attributes(monkeypatch)
    monkeypatch.setattr(mark_module._File, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
    assert not OriginSide.at(str(origin)).put(ONE, "log", DIRTY)
    assert "cannot be marked" in caplog.text
    assert state_of(origin) is None


@pytest.mark.parametrize("registry", [False, True], ids=["sidecar", "registry"])
@pytest.mark.parametrize("value", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_synced_keeps_marks(origin, monkeypatch, caplog, value, registry):
    """As on CIFS and 9p, and for a user who may write to the folder and not read it."""
    no_attributes(monkeypatch)
    real = os.fsync

    def fsync(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(value, os.strerror(value))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    name = "nbd+unix:///a?socket=/nowhere" if registry else str(origin)
    assert OriginSide.at(name).put(ONE, "log", DIRTY)
    assert state_of(name) == (ONE, DIRTY)
    assert OriginSide.at(name).put(ONE, "log", CLEAN)
    assert state_of(name) == (ONE, CLEAN)
    sidecar = origin.with_name(origin.name + SIDECAR_SUFFIX)
    assert sidecar.exists() != registry
    assert not caplog.text


def test_a_folder_whose_sync_fails_is_tried_no_more(origin, monkeypatch):
    """An I/O error leaves it open whether the mark is durable: it is kept elsewhere."""
    no_attributes(monkeypatch)
    monkeypatch.setattr(mark_module, "sync_folder", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    assert not OriginSide.at(str(origin)).put(ONE, "log", DIRTY)


def test_a_mark_that_cannot_be_read_is_left_out(origin, caplog):
    os.setxattr(origin, ATTRIBUTE, b"{broken")
    assert state_of(origin) is None
    assert "ignoring the mark" in caplog.text


def test_a_copy_has_the_mark_and_is_known_for_one(origin, tmp_path):
    OriginSide.at(str(origin)).put(ONE, "log", DIRTY)
    copy = tmp_path / "copy.img"
    shutil.copy2(origin, copy)
    side = OriginSide.at(str(copy))
    assert side.mark.origin == str(origin)
    assert side.mark.facts == OriginSide.at(str(origin)).facts
