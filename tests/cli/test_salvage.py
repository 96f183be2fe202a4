# SPDX-License-Identifier: BSD-3-Clause
"""wbcache salvage: what it promises to bring back it brings back, and it says exactly what is lost."""

import pytest

from tests.cli.history import PAGE, History
from tests.support.matching import same
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError
from wbcache_core.format.segment import MAX_ENTRIES
from wbcache_core.memory.open_segment import MAX_RANGES_PER_PAGE
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.tools.checker import examine

COMPRESS = ("off", "zstd")


@pytest.fixture(params=COMPRESS)
def history(request):
    return History("salvage", commits=12, drained_at=(3,), compress=request.param)


def blocks_of(pages):
    return {page["block"] for page in pages}


def assert_volume(found, expected, left_out=()):
    """Fail unless the two are equal but for these blocks."""
    found, expected = bytearray(found), bytearray(expected)
    for block in left_out:
        for content in (found, expected):
            content[block * PAGE : (block + 1) * PAGE] = bytes(PAGE)
    same(found, expected)


def assert_usable(log, origin):
    """The pair is sound and serves what the origin has."""
    disks = MemoryDisk(bytearray(origin.read_bytes()), "origin"), MemoryDisk(bytearray(log.read_bytes()), "log")
    assert not examine(disks[1], disks[0]).findings
    cache = Cache(Config.from_pairs([("origin", "origin"), ("log", "log"), ("ring-size", "1M")]), *disks)
    volume = bytearray(cache.volume.size)
    cache.volume.read_into(volume, 0)
    assert volume == origin.read_bytes()
    cache.activate()
    cache.volume.write(b"x" * PAGE, 0)
    cache.drain()
    cache.stop()
    assert disks[0].content[:PAGE] == b"x" * PAGE


def salvage(wbcache, history, tmp_path, *words):
    """Look, then do it, then look again; returns what the first look said."""
    log, origin = history.save(tmp_path)
    before = log.read_bytes(), origin.read_bytes()
    told = wbcache("salvage", "--json", log, origin)
    assert told.status == 1
    assert told.json["needed"]
    assert (log.read_bytes(), origin.read_bytes()) == before
    done = wbcache("salvage", "--yes", *words, log, origin)
    assert done.status == 0, done
    assert_usable(log, origin)
    again = wbcache("salvage", "--yes", log, origin)
    assert again.status == 0
    assert "nothing to salvage" in again.stderr
    return told.json


def test_a_hole(wbcache, history, tmp_path):
    segments = history.segments()
    history.damage_descriptor(segments[3])
    told = salvage(wbcache, history, tmp_path)
    assert told["end_lsn"] == segments[3].first_lsn
    assert told["end_offset"] == segments[3].offset
    assert told["generation"] == segments[2].generation
    assert told["unknown_lsns"] == [[segments[3].first_lsn, segments[3].end_lsn]]
    assert [later["first_lsn"] for later in told["later"]] == [segment.first_lsn for segment in segments[4:]]
    same((tmp_path / "origin").read_bytes(), history.states[told["end_lsn"]])


def test_tags_end_with_the_log_that_had_them(wbcache, history, tmp_path):
    """Also one below the damage: the origin goes beyond it."""
    history.tag("there once")
    history.run(3)
    segments = history.segments()
    assert segments[-2].first_lsn > history.superblock.tags[0].end_lsn
    history.damage_descriptor(segments[-2])
    told = salvage(wbcache, history, tmp_path)
    same((tmp_path / "origin").read_bytes(), history.states[told["end_lsn"]])


def test_what_is_behind_the_hole_is_named(wbcache, history, tmp_path):
    """All blocks that differ between the moment that can be had and the end."""
    segments = history.segments()
    history.damage_descriptor(segments[-3])
    before, after = history.states[segments[-2].first_lsn], history.states[segments[-1].end_lsn]
    log, origin = history.save(tmp_path)
    told = wbcache("salvage", "--json", log, origin).json
    named = {block for later in told["later"] for first, stop in later["blocks"] for block in range(first, stop)}
    changed = {at // PAGE for at in range(0, len(before), PAGE) if before[at : at + PAGE] != after[at : at + PAGE]}
    assert changed
    assert changed <= named
    text = wbcache("salvage", log, origin).stdout
    assert f"LSN {segments[-2].first_lsn} to {segments[-2].end_lsn - 1}, generation" in text
    assert f"LSN {segments[-3].first_lsn} to {segments[-3].end_lsn - 1}: it is not known what it held" in text


FULL_OF_ENTRIES = ["write"] * 60 + ["trim"] * (MAX_ENTRIES - 60)
FULL_OF_RANGES = ["trim"] * MAX_RANGES_PER_PAGE


@pytest.mark.parametrize("full", [FULL_OF_ENTRIES, FULL_OF_RANGES], ids=["entries", "ranges"])
def test_a_hole_inside_a_commit(wbcache, tmp_path, full):
    """A commit of several segments: the moment is that of the commit before it."""
    history = History("inside", commits=4, drained_at=(1,), pages=1000)
    before = history.segments()[-1]
    history.run_requests(*((kind, number, 1) for number, kind in enumerate([*full, *full, "trim"])))
    history.run(2)
    commit = [segment for segment in history.segments() if segment.generation == before.generation + 1]
    assert [segment.is_full for segment in commit] == [True, True, False]
    history.damage_descriptor(commit[2])
    log, origin = history.save(tmp_path)
    assert f"generation {commit[0].generation} that may be only part" in wbcache("salvage", log, origin).stdout
    told = salvage(wbcache, history, tmp_path)
    assert told["end_lsn"] == commit[2].first_lsn
    assert (told["generation"], told["is_whole"]) == (before.generation, False)
    assert f"generation {before.generation}" in wbcache("info", log).stdout


def test_a_hole_between_commits(wbcache, tmp_path):
    history = History("between", commits=4, drained_at=(1,), pages=1000)
    history.run_requests(*(("trim", number, 1) for number in range(600)))
    history.run(3)
    *_, after, between, last = history.segments()
    history.damage_descriptor(between)
    told = salvage(wbcache, history, tmp_path)
    assert (told["generation"], told["is_whole"]) == (after.generation, True)
    assert told["end_lsn"] == between.first_lsn
    assert last.generation == after.generation + 2


def test_the_first_dirty_segment_is_damaged(wbcache, history, tmp_path):
    segments = history.segments()
    history.damage_descriptor(segments[0])
    told = salvage(wbcache, history, tmp_path)
    assert (told["start_lsn"], told["end_lsn"]) == (segments[0].first_lsn, segments[0].first_lsn)
    same((tmp_path / "origin").read_bytes(), history.states[segments[0].first_lsn])


def test_damaged_pages_are_left_out(wbcache, tmp_path):
    history = History("pages", commits=12, drained_at=(3,))
    segment = history.segments()[4]
    lost = [(index, block) for index, block, is_newest in history.pages(segment) if is_newest][::3]
    for index, _ in lost:
        history.damage_page(segment, index)
    told = salvage(wbcache, history, tmp_path)
    assert {(page["lsn"], page["block"]) for page in told["pages"]} == {
        (segment.first_lsn + 1 + index, block) for index, block in lost
    }
    assert {page["generation"] for page in told["pages"]} == {segment.generation}
    assert not any(page["on_origin"] for page in told["pages"])
    after = (tmp_path / "origin").read_bytes()
    assert_volume(after, history.model, blocks_of(told["pages"]))
    for block in blocks_of(told["pages"]):
        same(after[block * PAGE :][:PAGE], history.origin[block * PAGE :][:PAGE])


def test_a_damaged_frame_loses_its_own_pages_only(wbcache, tmp_path):
    history = History("frames", commits=6, compress="zstd", largest=60)
    segment = history.segments()[-2]
    assert segment.encoded
    assert segment.page_count > 32
    lost = {index for index, _, is_newest in history.pages(segment) if is_newest and index < 16}
    history.damage_page(segment)
    told = salvage(wbcache, history, tmp_path)
    assert {page["lsn"] - segment.first_lsn - 1 for page in told["pages"]} == lost
    assert_volume((tmp_path / "origin").read_bytes(), history.model, blocks_of(told["pages"]))


def test_a_damaged_page_that_the_origin_has_is_not_lost(wbcache, tmp_path):
    """A batch under way had brought it there before it was damaged."""
    history = History("there", commits=5)
    segment = history.segments()[2]
    index, block = next((index, block) for index, block, is_newest in history.pages(segment) if is_newest)
    history.damage_page(segment, index)
    at = slice(block * PAGE, (block + 1) * PAGE)
    history.origin[at] = history.model[at]
    told = salvage(wbcache, history, tmp_path)
    assert [(page["block"], page["on_origin"]) for page in told["pages"]] == [(block, True)]
    same((tmp_path / "origin").read_bytes(), history.model)


def test_a_damaged_page_that_was_written_anew_needs_no_salvage(wbcache, tmp_path):
    history = History("anew", commits=8)
    segment, index = next(
        (segment, index)
        for segment in history.segments()
        for index, _, is_newest in history.pages(segment)
        if not is_newest
    )
    history.damage_page(segment, index)
    log, origin = history.save(tmp_path)
    assert wbcache("salvage", log, origin).status == 0
    assert wbcache("replay", log, origin).status == 0
    same(origin.read_bytes(), history.model)


def test_a_trim_spares_a_damaged_page_behind_it(wbcache, tmp_path):
    """The block stays as the origin has it, also where an earlier entry clears it."""
    history = History("trim", commits=2, drained_at=(1,))
    history.run_requests(("trim", 10, 20), ("write", 15, 1))
    history.run_requests(("write", 1, 1))
    history.damage_page(history.segments()[0])
    salvage(wbcache, history, tmp_path)
    after = (tmp_path / "origin").read_bytes()
    assert_volume(after, history.model, {15})
    same(after[15 * PAGE :][:PAGE], history.origin[15 * PAGE :][:PAGE])


def test_later_pages_that_a_batch_brought_to_the_origin_are_named(wbcache, tmp_path):
    history = History("ahead", commits=4, drained_at=(1,))
    hole, behind = history.segments()
    before = {block for _, block, _ in history.pages(hole)}
    _, block, _ = next(page for page in history.pages(behind) if page[2] and page[1] not in before)
    history.damage_descriptor(hole)
    history.begin_batch(behind.end_lsn)
    at = slice(block * PAGE, (block + 1) * PAGE)
    history.origin[at] = history.model[at]
    told = salvage(wbcache, history, tmp_path)
    assert blocks_of(told["ahead"]) == {block}
    assert_volume((tmp_path / "origin").read_bytes(), history.states[told["end_lsn"]], {block})


@pytest.mark.parametrize("size", [3 << 20, 1 << 20, 300 * 1024 + 5, 70 * 1024])
def test_a_log_that_was_cut_short(wbcache, tmp_path, size):
    history = History("cut", commits=20)
    segments = history.segments()
    del history.log[size:]
    told = salvage(wbcache, history, tmp_path)
    whole = [segment for segment in segments if segment.offset + segment.log_pages * PAGE <= size]
    assert told["end_lsn"] == (whole[-1].end_lsn if whole else 1)
    same((tmp_path / "origin").read_bytes(), history.states[told["end_lsn"]])
    assert (tmp_path / "log").stat().st_size == 8 << 20


def test_the_log_goes_round(wbcache, tmp_path):
    history = History("round", commits=0, log_bytes=4 << 20, largest=60)
    history.go_round()
    segments = history.segments()
    history.damage_descriptor(segments[2])
    told = salvage(wbcache, history, tmp_path)
    assert told["end_lsn"] == segments[2].first_lsn
    same((tmp_path / "origin").read_bytes(), history.states[told["end_lsn"]])


def test_a_changed_origin_is_not_written_over(wbcache, history, tmp_path):
    history.damage_descriptor(history.segments()[3])
    history.origin[:] = bytes(len(history.origin))
    log, origin = history.save(tmp_path)
    outcome = wbcache("salvage", "--yes", log, origin)
    assert outcome.status == 1
    assert "has changed behind its cache" in outcome.stdout
    assert "--force=origin-changed" in outcome.stderr
    assert origin.read_bytes() == history.origin
    assert log.read_bytes() == history.log
    assert wbcache("salvage", "--yes", "--force=origin-changed", log, origin).status == 0
    assert_usable(log, origin)


def test_an_origin_of_another_size(wbcache, history, tmp_path):
    history.damage_descriptor(history.segments()[3])
    del history.origin[-PAGE:]
    log, origin = history.save(tmp_path)
    outcome = wbcache("salvage", "--yes", log, origin)
    assert outcome.status == 2
    assert "wrong pair" in outcome.stderr
    assert log.read_bytes() == history.log


def test_an_origin_that_grew(wbcache, history, tmp_path):
    """What is in the log is as valid as before."""
    segments = history.segments()
    history.damage_descriptor(segments[3])
    history.origin.extend(bytes(2 * PAGE))
    log, origin = history.save(tmp_path)
    assert wbcache("salvage", "--yes", log, origin).status == 0
    same(origin.read_bytes(), history.states[segments[3].first_lsn] + bytes(2 * PAGE))
    info = wbcache("info", "--json", log).json
    assert (info["state"], info["origin"]["bytes"]) == ("clean", len(history.origin))


@pytest.mark.parametrize("content", [bytes(4 << 20), b"letters " * (1 << 19)], ids=["blank", "foreign"])
def test_what_is_no_log(wbcache, tmp_path, content):
    (tmp_path / "log").write_bytes(content)
    (tmp_path / "origin").write_bytes(bytes(1 << 20))
    outcome = wbcache("salvage", "--yes", tmp_path / "log", tmp_path / "origin")
    assert outcome.status == (2 if any(content[:10]) else 0)
    assert "nothing to salvage" in outcome.stdout + outcome.stderr
    assert (tmp_path / "log").read_bytes() == content


def test_a_log_that_cannot_be_written(wbcache, history, tmp_path, monkeypatch):
    """Nothing goes to the origin when the log could not be made new afterwards."""
    history.damage_descriptor(history.segments()[3])
    log, origin = history.save(tmp_path)
    monkeypatch.setattr(FileDevice, "_open_for_writing", lambda device, path: None)
    outcome = wbcache("salvage", "--yes", log, origin)
    assert outcome.status == 1
    assert "cannot be written" in outcome.stderr
    assert "salvage a copy" in outcome.stderr
    assert origin.read_bytes() == history.origin


class BadSectors:
    """Pages of the log that give read errors until they are written."""

    def __init__(self, monkeypatch, offsets):
        self._offsets = set(offsets)
        self._read, self._zero = FileDevice._read, FileDevice.zero
        monkeypatch.setattr(FileDevice, "_read", lambda *arguments: self.read(*arguments))
        monkeypatch.setattr(FileDevice, "zero", lambda *arguments, **names: self.zero(*arguments, **names))

    def read(self, device, fd, view, offset):
        if device.role == "log" and any(offset <= bad < offset + len(view) for bad in self._offsets):
            raise DeviceError("cannot read log: Input/output error")
        self._read(device, fd, view, offset)

    def zero(self, device, offset, length, may_trim):
        if device.role == "log":
            self._offsets = {bad for bad in self._offsets if not offset <= bad < offset + length}
        self._zero(device, offset, length, may_trim)


def test_pages_that_cannot_be_read(wbcache, tmp_path, monkeypatch):
    history = History("sectors", commits=8)
    segments = history.segments()
    index, block = next((index, block) for index, block, is_newest in history.pages(segments[2]) if is_newest)
    log, origin = history.save(tmp_path)
    BadSectors(monkeypatch, [segments[2].offset + (1 + index) * PAGE, segments[6].offset])
    assert wbcache("check", log).status == 1
    assert "cannot be read at byte" in wbcache("info", log).stdout
    told = wbcache("salvage", "--json", log, origin).json
    assert told["end_lsn"] == segments[6].first_lsn
    assert [page["block"] for page in told["pages"]] == [block]
    assert "(2 pages)" in told["reasons"][-1]
    assert wbcache("salvage", "--yes", log, origin).status == 0
    assert_volume(origin.read_bytes(), history.states[told["end_lsn"]], {block})
    assert_usable(log, origin)


def test_a_superblock_that_cannot_be_read(wbcache, tmp_path, monkeypatch):
    history = History("superblock", commits=8)
    history.damage_descriptor(history.segments()[5])
    log, origin = history.save(tmp_path)
    BadSectors(monkeypatch, [0])
    told = wbcache("salvage", "--json", log, origin).json
    assert told["end_lsn"] == History("superblock", commits=8).segments()[5].first_lsn
