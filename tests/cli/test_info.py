# SPDX-License-Identifier: BSD-3-Clause
"""wbcache info: whose log it is, what it holds, and, where it is refused, why."""

import struct

import pytest
from xxhash import xxh3_64_intdigest

from tests.cli.history import PAGE, History
from tests.support.old_images import image
from wbcache_core.format import superblock as superblock_format


@pytest.fixture
def history():
    return History("info", commits=6, drained_at=(2,))


def test_a_dirty_log(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    segments = history.segments()
    facts = wbcache("info", "--json", log)
    assert (facts.status, facts.json["state"], facts.json["problem"]) == (0, "dirty", None)
    dirty = facts.json["dirty"]
    assert dirty["segments"] == len(segments) == 3
    assert dirty["pages"] == sum(segment.page_count for segment in segments)
    assert dirty["log_bytes"] == sum(segment.log_pages for segment in segments) * PAGE
    assert dirty["oldest"]["first_lsn"] == segments[0].first_lsn == facts.json["cursors"]["destaged"]
    assert dirty["newest"]["end_lsn"] == segments[-1].end_lsn == facts.json["cursors"]["head"]
    assert dirty["newest"]["generation"] == 6
    assert facts.json["origin"] == {
        "name": "origin", "bytes": len(history.origin), "identity": ["unknown"], "mark": None
    }  # fmt: skip
    alone = facts.json["origin_alone"]
    assert (alone["generation"], alone["batch_under_way"]) == (3, False)


def test_in_words(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    text = wbcache("info", log).stdout
    for words in (f"{log}, 8.0 MiB", "dirty", "in 3 segments", "oldest dirty    generation 4", "generation 3", "head"):
        assert words in text


def test_the_epochs(wbcache, tmp_path):
    history = History("epochs", commits=2)
    for _ in range(2):
        history.run(1)
    log, _ = history.save(tmp_path)
    superblock = history.superblock
    facts, text = wbcache("info", "--json", log).json, wbcache("info", log).stdout
    assert len(superblock.history) >= 3 and superblock.history[-1].epoch == superblock.epoch
    assert facts["epoch"] == {"number": superblock.epoch.number, "id": f"{superblock.epoch.id:016x}"}
    assert [(one["number"], one["first_lsn"]) for one in facts["epochs"]] == [
        (switch.epoch.number, switch.first_lsn) for switch in superblock.history
    ]
    assert f"epoch           {superblock.epoch.number}, id {superblock.epoch.id:016x}" in text
    for switch in superblock.history[1:]:
        place = f"epoch {switch.epoch.number} began at LSN {switch.first_lsn}"
        assert f"{place}, after the descriptor {switch.previous:016x}" in text


def test_a_log_from_before_epochs(wbcache, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(image("log", 3))
    before = log.read_bytes()
    facts = wbcache("info", "--json", log).json
    assert (facts["format"], facts["epoch"], facts["epochs"], facts["dirty"]["segments"]) == (3, None, [], 3)
    assert "\nepoch " not in wbcache("info", log).stdout
    assert wbcache("check", log).status == 0
    assert log.read_bytes() == before


def test_a_clean_log(wbcache, tmp_path):
    log, _ = History("clean", commits=2, drained_at=(1,)).save(tmp_path)
    outcome = wbcache("info", log)
    assert outcome.status == 0
    assert "nothing: the origin has all of it" in outcome.stdout


def test_a_batch_under_way(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    superblock = history.superblock
    later = superblock.with_changes(sequence=superblock.sequence + 1, batch_end=superblock.committed + 5)
    slot = superblock_format.SLOT_OFFSETS[later.sequence % 2]
    history.log[slot : slot + PAGE] = superblock_format.encode(later)
    log, _ = history.save(tmp_path)
    assert wbcache("info", "--json", log).json["origin_alone"]["batch_under_way"]
    assert "perhaps partly over it" in wbcache("info", log).stdout


def test_a_blank_log(wbcache, tmp_path):
    (tmp_path / "log").write_bytes(bytes(4 << 20))
    outcome = wbcache("info", tmp_path / "log")
    assert outcome.status == 0
    assert "blank" in outcome.stdout


def test_a_hole_in_the_durable_part(wbcache, history, tmp_path):
    history.damage_descriptor(history.segments()[1])
    log, _ = history.save(tmp_path)
    outcome = wbcache("info", log)
    assert outcome.status == 1
    for words in ("refused", "is damaged at LSN", "generation 3", "sequence"):
        assert words in outcome.stdout


def test_a_torn_last_commit(wbcache, history, tmp_path):
    last = history.segments()[-1]
    history.damage_page(last)
    log, _ = history.save(tmp_path)
    outcome = wbcache("info", log)
    assert outcome.status == 0
    assert f"an incomplete last commit, from LSN {last.first_lsn}" in outcome.stdout


def test_one_superblock_of_two(wbcache, history, tmp_path):
    history.flip(100)
    log, _ = history.save(tmp_path)
    outcome = wbcache("info", log)
    assert outcome.status == 0
    assert "at byte 0: not valid" in outcome.stdout


def test_no_superblock(wbcache, history, tmp_path):
    history.damage_superblocks()
    log, _ = history.save(tmp_path)
    outcome = wbcache("info", "--json", log)
    assert outcome.status == 1
    assert outcome.json["state"] == "refused"
    assert "both superblocks" in outcome.json["problem"]


def test_cut_short(wbcache, history, tmp_path):
    del history.log[1 << 20 :]
    log, _ = history.save(tmp_path)
    outcome = wbcache("info", log)
    assert outcome.status == 1
    assert "it has been cut short" in outcome.stdout
    assert "volume" in outcome.stdout


def test_a_later_version(wbcache, history, tmp_path):
    page = history.log[:PAGE]
    struct.pack_into("<I", page, 8, 9)
    struct.pack_into("<Q", page, PAGE - 8, xxh3_64_intdigest(bytes(page[:-8])))
    history.log[:PAGE] = page
    log, _ = history.save(tmp_path)
    for command in ("info", "check", "dump"):
        outcome = wbcache(command, log)
        assert outcome.status == 2
        assert "version 9" in outcome.stderr


def test_something_else(wbcache, tmp_path):
    (tmp_path / "log").write_bytes(b"letters " * (1 << 20))
    outcome = wbcache("info", tmp_path / "log")
    assert outcome.status == 1
    assert "not a wbcache log" in outcome.stdout


def test_no_file(wbcache, tmp_path):
    outcome = wbcache("info", tmp_path / "log")
    assert outcome.status == 2
    assert "No such file" in outcome.stderr
