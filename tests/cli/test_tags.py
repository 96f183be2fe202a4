# SPDX-License-Identifier: BSD-3-Clause
"""wbcache tag, untag and history on a log that no server holds."""

import shutil
import time

import pytest

from tests.cli.history import PAGE, History
from tests.support.matching import same
from tests.support.old_images import image
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.device.file_device import FileDevice
from wbcache_core.format.superblock import SLOT_OFFSETS, TAG_COUNT, VERSION
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config


@pytest.fixture
def history():
    """Generations 3 (on the origin) to 8 can be opened."""
    return History("tags", commits=8, drained_at=(2,))


def tags_of(path):
    log = FileDevice(str(path), "log", read_only=True)
    try:
        return {tag.name: tag.generation for tag in newest(read_slots(log)).tags}
    finally:
        log.close()


def opened(folder, when):
    """The volume at a moment, served from files."""
    pairs = [("origin", str(folder / "origin")), ("log", str(folder / "log")), ("ring-size", "1M")]
    cache = Cache(Config.from_pairs(pairs))
    try:
        snapshot = cache.open_snapshot(when)
        content = bytearray(snapshot.size)
        snapshot.read_into(memoryview(content), 0)
        snapshot.close()
        return content
    finally:
        cache.stop()


def test_now_and_moments_before(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    rows = wbcache("history", "--json", log).json["rows"]
    states = {row["first"]: history.states[row["end_lsn"]] for row in rows}
    assert list(states) == [3, 4, 5, 6, 7, 8]
    time_of_4 = rows[1]["end"]
    whens = {
        "now": [], "five": [5], "again": ["five"], "last": ["last-flush"], "aged": ["-0s"], "at": ["@6"],
        "timed": [time_of_4],
    }  # fmt: skip
    for name, when in whens.items():
        outcome = wbcache("tag", log, name, *when)
        assert (outcome.status, outcome.stderr) == (0, ""), name
        assert outcome.stdout.startswith(f"tag '{name}': generation ")
    assert tags_of(log) == {"now": 8, "five": 5, "again": 5, "last": 8, "aged": 8, "at": 6, "timed": 4}
    for name, number in tags_of(log).items():
        same(opened(tmp_path, name), states[number])
    assert wbcache("untag", log, "five").stdout == "tag 'five' is removed\n"
    assert "five" not in tags_of(log) and len(tags_of(log)) == 6
    assert wbcache("check", log, "--origin", tmp_path / "origin").status == 0


def test_they_hold_the_origin_back(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    end = wbcache("history", "--json", log).json["rows"][2]["end_lsn"]
    wbcache("tag", log, "five", 5)
    pairs = [("origin", str(origin)), ("log", str(log)), ("ring-size", "1M"), ("on-exit", "destage")]
    cache = Cache(Config.from_pairs(pairs))
    cache.activate()
    cache.stop()
    same(opened(tmp_path, "five"), history.states[end])
    same(origin.read_bytes(), history.states[end])
    info = wbcache("info", log)
    assert "tag             'five' is generation 5 (" in info.stdout
    assert "window          generation 5 (" in info.stdout and "to generation" not in info.stdout
    assert wbcache("info", "--json", log).json["window"]["newest"]["generation"] == 8


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("-5m",), "cannot be the name"), (("a/b",), "cannot be the name"), ((" a",), "cannot be the name"),
        (("",), "cannot be the name"), (("a\nb",), "cannot be the name"), (("7",), "cannot be the name"),
        (("Last-Flush",), "cannot be the name"), (("\udc80",), "cannot be the name"), (("2026-11-22",), "cannot be"),
        (("a" * 65,), "at most 64 bytes"), (("\u00e4" * 33,), "at most 64 bytes"), (("kept",), "there is a tag 'kept'"),
        (("a", "99"), "outside the window; the log covers generation 3"), (("a", "2"), "outside the window"),
        (("a", "-9d"), "outside the window"), (("a", "2999-01-01"), "in the future"), (("a", "-5x"), "usage:"),
        (("a", "2026-13-01"), "is not a time"), (("a", ""), "is not a moment"),
        (("a", "b"), "no tag 'b' (tags: 'kept')"),
        (("a", "9" * 30), "larger than any generation"), (("a", "-1e9s"), "usage:"), (("a", "@-5x"), "is not a moment"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(wbcache, history, tmp_path, words, why):
    log, _ = history.save(tmp_path)
    wbcache("tag", log, "kept")
    before = log.read_bytes()
    outcome = wbcache("tag", log, *words)
    assert outcome.status == 2 and why in outcome.stderr and outcome.stdout == ""
    assert log.read_bytes() == before


def test_names_that_are_allowed(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    names = ["\u00e4\u00df \u2603", "a" * 64, "\u00e4" * 32, "it's", '"', "7a", "@x", "a.b,c;d"]
    for name in names:
        assert wbcache("tag", log, name).status == 0, name
    assert list(tags_of(log)) == names
    for name in names:
        assert wbcache("untag", log, name).status == 0, name
    assert tags_of(log) == {}


def test_as_many_as_there_may_be(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    for number in range(TAG_COUNT):
        assert wbcache("tag", log, f"t{number}", 3 + number % 6).status == 0
    assert f"there are {TAG_COUNT} tags already" in wbcache("tag", log, "one more").stderr
    assert wbcache("untag", log, "none").status == 2
    text = wbcache("history", log).stdout
    assert all(f"'t{number}' is generation {3 + number % 6} (" in text for number in range(TAG_COUNT))


def test_logs_that_cannot_be_tagged(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    holder = FileDevice(str(log), "log")
    for words in (("tag", log, "a"), ("untag", log, "a"), ("history", log)):
        outcome = wbcache(*words)
        assert outcome.status == 2 and "is in use" in outcome.stderr and "control=" in outcome.stderr
    holder.close()
    blank = tmp_path / "blank"
    blank.write_bytes(bytes(8 << 20))
    assert "is blank: it covers no moment" in wbcache("tag", blank, "a").stderr
    assert "is blank: it covers no moment" in wbcache("history", blank).stderr
    other = tmp_path / "other"
    other.write_bytes(b"letters " * (1 << 20))
    assert wbcache("tag", other, "a").status == wbcache("history", other).status == 1
    assert wbcache("history", tmp_path / "none").status == 2
    history.damage_descriptor(history.segments()[1])
    log, _ = history.save(tmp_path)
    before = log.read_bytes()
    outcome = wbcache("tag", log, "a")
    assert outcome.status == 1 and "is damaged at LSN" in outcome.stderr
    assert log.read_bytes() == before


def test_a_torn_last_commit_is_not_tagged(wbcache, history, tmp_path):
    history.damage_page(history.segments()[-1])
    log, _ = history.save(tmp_path)
    assert "outside the window" in wbcache("tag", log, "a", "8").stderr
    assert "generation 7" in wbcache("tag", log, "a").stdout
    same(opened(tmp_path, "a"), history.states[history.segments()[-1].first_lsn])


@pytest.mark.parametrize("command", ["tag", "untag"])
def test_a_crash_leaves_the_old_or_the_new(wbcache, history, tmp_path, command):
    """The page that is being written arrives up to any sector, or only some of its sectors do."""
    log, _ = history.save(tmp_path)
    wbcache("tag", log, "old", 4)
    before = log.read_bytes()
    assert wbcache(command, log, *(("new", 6) if command == "tag" else ("old",))).status == 0
    after = log.read_bytes()
    changed = [at for at in range(0, len(before), PAGE) if before[at : at + PAGE] != after[at : at + PAGE]]
    assert len(changed) == 1 and changed[0] in SLOT_OFFSETS
    old, new = {"old": 4}, {"old": 4, "new": 6} if command == "tag" else {}
    seen = []
    for sectors in [range(count) for count in range(9)] + [range(0, 8, 2), range(1, 8, 2), range(4, 8)]:
        image = bytearray(before)
        for sector in sectors:
            at = changed[0] + sector * 512
            image[at : at + 512] = after[at : at + 512]
        log.write_bytes(image)
        seen.append(tags_of(log))
        assert seen[-1] in (old, new)
        assert wbcache("check", log).status == 0
    assert old in seen and new in seen


def test_the_clock_was_set_back(wbcache, history, tmp_path, monkeypatch):
    """The history keeps what the clock said, in the order of the commits."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3600 * 10**9)
    history.run(3)
    log, _ = history.save(tmp_path)
    rows = wbcache("history", "--json", log).json["rows"]
    assert [row["last"] for row in rows] == list(range(rows[0]["last"], 12))
    assert "generation 11" in wbcache("tag", log, "a", "-0s").stdout
    assert wbcache("tag", log, "b", "last-flush").status == 0
    monkeypatch.undo()
    assert wbcache("tag", log, "c", rows[2]["end"]).status == 0
    assert tags_of(log) == {"a": 11, "b": 11, "c": rows[2]["last"]}


def test_history_in_words(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    wbcache("tag", log, "before upgrade", 5)
    lines = wbcache("history", log).stdout.splitlines()
    assert lines[0].startswith("window  generation 3 (20") and ") to 8 (20" in lines[0]
    assert lines[1].startswith("        6 generations in ") and "written" in lines[1]
    assert lines[2].startswith("tags    'before upgrade' is generation 5 (20")
    assert lines[4].split() == ["from", "to", "generations", "written", "cleared", "tags"]
    assert len(lines) == 11 and lines[7].endswith("before upgrade")
    facts = wbcache("history", "--json", log).json
    survey = history.segments()
    for row in facts["rows"][1:]:
        mine = [segment for segment in survey if segment.generation == row["first"]]
        assert row["written_bytes"] == PAGE * sum(segment.page_count for segment in mine)
        assert row["end_lsn"] == mine[-1].end_lsn


def test_many_generations(wbcache, tmp_path):
    history = History("many", commits=700, largest=2, log_bytes=64 << 20)
    log, _ = history.save(tmp_path)
    assert len(wbcache("history", log).stdout.splitlines()) <= 45
    assert len(wbcache("history", "--limit", 5, log).stdout.splitlines()) <= 10
    every = wbcache("history", "--all", "--json", log).json
    assert [row["first"] for row in every["rows"]] == list(range(701)) and every["next"] is None
    grouped = wbcache("history", "--json", "--limit", 3, log).json
    for kind in ("written_bytes", "cleared_bytes"):
        assert sum(row[kind] or 0 for row in grouped["rows"]) == sum(row[kind] or 0 for row in every["rows"]) > 0
    for limit in ("0", "201", "-1", "x"):
        assert wbcache("history", "--limit", limit, log).status == 2


def test_history_changes_nothing(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    copy = tmp_path / "copy"
    shutil.copy(log, copy)
    log.chmod(0o400)
    assert wbcache("history", log).status == 0
    assert log.read_bytes() == copy.read_bytes() and origin.read_bytes() == bytes(history.origin)


def test_tags_of_an_older_format(wbcache, tmp_path):
    """The first tag makes the superblock one of this version."""
    log = tmp_path / "log"
    log.write_bytes(image("log", 1))
    assert newest(read_slots(MemoryDisk(bytearray(log.read_bytes())))).version == 1
    assert wbcache("tag", log, "a").status == 0
    assert newest(read_slots(MemoryDisk(bytearray(log.read_bytes())))).version == VERSION
    assert wbcache("check", log).status == 0


def test_status_of_a_log(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    outcome = wbcache("status", log)
    assert outcome.status == 2 and "is not a socket" in outcome.stderr and "control=PATH" in outcome.stderr
