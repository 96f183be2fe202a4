# SPDX-License-Identifier: BSD-3-Clause
"""wbcache dump: every segment and entry, and the filters."""

from datetime import datetime, timedelta, timezone

import pytest
from xxhash import xxh3_64_hexdigest

from tests.cli.history import PAGE, History


@pytest.fixture
def history():
    return History("dump", commits=8, drained_at=(3,))


def test_the_entries_make_the_volume(wbcache, history, tmp_path):
    """Who applies the lines in order has the checksum of every page that the log has changed."""
    log, _ = history.save(tmp_path)
    found = {}
    for line in wbcache("dump", "--json", log).json_lines:
        if line["type"] == "page":
            found[line["block"]] = line["xxh3"]
        elif line["type"] in ("trim", "zero"):
            found |= dict.fromkeys(range(line["block"], line["block"] + line["blocks"]), xxh3_64_hexdigest(bytes(PAGE)))
    assert len(found) > 50
    for block, checksum in found.items():
        assert checksum == xxh3_64_hexdigest(bytes(history.model[block * PAGE : (block + 1) * PAGE]))


def test_segments_and_their_states(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    segments = [line for line in wbcache("dump", "--json", log).json_lines if line["type"] == "segment"]
    assert [segment["state"] for segment in segments] == ["clean"] * 4 + ["dirty"] * 4
    assert [segment["generation"] for segment in segments] == list(range(1, 9))
    assert {segment["end_lsn"] for segment in segments} <= history.states.keys()


def test_what_damage_cut_off_is_loose(wbcache, history, tmp_path):
    history.damage_descriptor(history.segments()[1])
    log, _ = history.save(tmp_path)
    outcome = wbcache("dump", "--json", log)
    states = [line["state"] for line in outcome.json_lines if line["type"] == "segment"]
    assert outcome.status == 0
    assert states == ["clean"] * 4 + ["dirty", "loose", "loose"]


def test_without_superblocks(wbcache, history, tmp_path):
    history.wipe_superblocks()
    log, _ = history.save(tmp_path)
    lines = wbcache("dump", "--json", log).json_lines
    assert [line["state"] for line in lines if line["type"] == "segment"] == ["unknown"] * 8


@pytest.mark.parametrize(("words", "blocks"), [("17", range(17, 18)), ("20-29", range(20, 30))])
def test_blocks(wbcache, history, tmp_path, words, blocks):
    log, _ = history.save(tmp_path)
    everything = wbcache("dump", "--json", log).json_lines
    lines = wbcache("dump", "--json", "--block", words, log).json_lines
    entries = [line for line in lines if line["type"] != "segment"]
    assert entries == [
        line
        for line in everything
        if line["type"] != "segment" and line["block"] < blocks.stop and line["block"] + line["blocks"] > blocks.start
    ]
    assert {entry["segment"] for entry in entries} == {line["first_lsn"] for line in lines if line["type"] == "segment"}


def test_lsns(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    lines = wbcache("dump", "--json", "--lsn", "60-70", log).json_lines
    assert {line["lsn"] for line in lines if line["type"] != "segment"} <= set(range(60, 71))
    assert [line["lsn"] for line in lines if line["type"] == "page"]


def test_times(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    segments = [line for line in wbcache("dump", "--json", log).json_lines if line["type"] == "segment"]
    moment = datetime.fromtimestamp(segments[4]["time_ns"] // 1000 / 10**6, timezone.utc)
    since = wbcache("dump", "--json", "--since", f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z", log).json_lines
    until = wbcache("dump", "--json", "--until", (moment + timedelta(microseconds=1)).isoformat(), log).json_lines
    assert [line["generation"] for line in since if line["type"] == "segment"] == [5, 6, 7, 8]
    assert [line["generation"] for line in until if line["type"] == "segment"][:5] == [1, 2, 3, 4, 5]
    assert not wbcache("dump", "--until", "2001-01-01", log).stdout


def test_in_words(wbcache, history, tmp_path):
    log, _ = history.save(tmp_path)
    lines = wbcache("dump", log).stdout.splitlines()
    assert lines[0].startswith("segment LSN 1-")
    assert "at byte 65536: clean, generation 1" in lines[0]
    assert any(" page block " in line for line in lines)
    assert any(" trim blocks " in line for line in lines)


@pytest.mark.parametrize("words", [("--block", "x"), ("--block", "9-3"), ("--since", "yesterday"), ("--lsn", "")])
def test_a_filter_that_makes_no_sense(wbcache, history, tmp_path, words):
    log, _ = history.save(tmp_path)
    outcome = wbcache("dump", *words, log)
    assert outcome.status == 2
    assert words[0] in outcome.stderr
