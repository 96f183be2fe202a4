# SPDX-License-Identifier: BSD-3-Clause
"""Salvage of a log both of whose superblocks are damaged: found by its segments, replayed, never guessed in silence."""

import pytest

from tests.cli.history import PAGE, History
from tests.cli.test_salvage import assert_usable, assert_volume, blocks_of, salvage
from tests.support.matching import same


def sentences(told):
    return " ".join(doubt["text"] for doubt in told["doubts"])


def force_of(told):
    return {doubt["force"] for doubt in told["doubts"]} - {None}


@pytest.mark.parametrize("compress", ["off", "zstd"])
@pytest.mark.parametrize("at", [1000, 100], ids=["name", "cursors"])
def test_the_whole_volume_comes_back(wbcache, tmp_path, compress, at):
    """Whatever part of the superblocks is damaged."""
    history = History("both", commits=12, drained_at=(3, 5), compress=compress)
    history.damage_superblocks(at)
    told = salvage(wbcache, history, tmp_path)
    assert not force_of(told)
    assert "seems to be the right one" in sentences(told)
    assert "nothing is missing at the beginning" in sentences(told)
    same((tmp_path / "origin").read_bytes(), history.model)


def test_nothing_is_left_of_them(wbcache, tmp_path):
    history = History("wiped", commits=12, drained_at=(3, 5))
    history.wipe_superblocks()
    told = salvage(wbcache, history, tmp_path)
    assert told["start_lsn"] == 1
    assert "reach back to the first one" in sentences(told)
    assert "whether anything was written after" in sentences(told)
    same((tmp_path / "origin").read_bytes(), history.model)


def test_a_superblock_that_is_readable_in_part_tells_where_to_begin(wbcache, tmp_path):
    history = History("hint", commits=12, drained_at=(3, 5))
    destaged = history.superblock.destaged
    history.damage_superblocks()
    told = salvage(wbcache, history, tmp_path)
    assert told["start_lsn"] == destaged
    same((tmp_path / "origin").read_bytes(), history.model)


@pytest.mark.parametrize("seed", range(4))
def test_a_log_that_went_round(wbcache, tmp_path, seed):
    history = History(f"round {seed}", commits=0, log_bytes=4 << 20, largest=60)
    history.go_round()
    history.wipe_superblocks()
    told = salvage(wbcache, history, tmp_path)
    assert told["start_lsn"] > 1
    assert "has been overwritten by what followed" in sentences(told)
    same((tmp_path / "origin").read_bytes(), history.model)


def test_a_clean_log(wbcache, tmp_path):
    history = History("clean", commits=5, drained_at=(4,))
    history.damage_superblocks()
    told = salvage(wbcache, history, tmp_path)
    assert told["start_lsn"] == told["end_lsn"]
    same((tmp_path / "origin").read_bytes(), history.model)


def test_nothing_was_ever_written(wbcache, tmp_path):
    history = History("empty", commits=0)
    history.damage_superblocks()
    log, origin = history.save(tmp_path)
    outcome = wbcache("salvage", "--yes", log, origin)
    assert outcome.status == 2
    assert "no valid segment" in outcome.stderr
    assert log.read_bytes() == history.log


def test_a_damaged_page_besides(wbcache, tmp_path):
    """Replayed from an older moment than the origin's, its earlier versions must not take the place of a newer one."""
    history = History("page", commits=12, drained_at=(7,))
    segments = history.segments()
    history.wipe_superblocks()
    history.damage_page(segments[1])
    told = salvage(wbcache, history, tmp_path)
    assert_volume((tmp_path / "origin").read_bytes(), history.model, blocks_of(told["pages"]))


def test_a_damaged_page_in_what_the_origin_has(wbcache, tmp_path):
    history = History("clean page", commits=12, drained_at=(3,))
    first = history.first_segment()
    history.wipe_superblocks()
    history.damage_page(first)
    salvage(wbcache, history, tmp_path)
    same((tmp_path / "origin").read_bytes(), history.model)


def test_a_hole_besides_is_not_passed_over_in_silence(wbcache, tmp_path):
    """Whether the origin had what is missing is not known."""
    history = History("hole", commits=12, drained_at=(3,))
    hole = history.segments()[3]
    history.wipe_superblocks()
    history.damage_descriptor(hole)
    log, origin = history.save(tmp_path)
    told = wbcache("salvage", "--json", log, origin).json
    assert told["start_lsn"] == hole.end_lsn
    assert "uncertain-log" in force_of(told)
    outcome = wbcache("salvage", "--yes", "--force=origin-changed", log, origin)
    assert outcome.status == 1
    assert "--force=origin-changed,uncertain-log" in outcome.stderr
    assert (log.read_bytes(), origin.read_bytes()) == (history.log, history.origin)
    assert wbcache("salvage", "--yes", "--force=uncertain-log,origin-changed", log, origin).status == 0
    assert_usable(log, origin)


def test_a_hole_in_what_the_origin_has(wbcache, tmp_path):
    """With a superblock that still tells how far the origin was written, that does not matter."""
    history = History("clean hole", commits=12, drained_at=(3,))
    first = history.first_segment()
    history.damage_superblocks()
    history.damage_descriptor(first)
    told = salvage(wbcache, history, tmp_path)
    assert not force_of(told)
    same((tmp_path / "origin").read_bytes(), history.model)


def test_only_the_beginning_of_the_log_is_left(wbcache, tmp_path):
    history = History("beginning", commits=12, drained_at=(3,))
    del history.log[1 << 20 :]
    history.damage_superblocks()
    salvage(wbcache, history, tmp_path)
    assert (tmp_path / "log").stat().st_size == 4 << 20


def test_another_origin(wbcache, tmp_path):
    history = History("other", commits=12, drained_at=(3,))
    history.damage_superblocks()
    history.origin[:] = history.random.randbytes(len(history.origin))
    log, origin = history.save(tmp_path)
    outcome = wbcache("salvage", "--yes", log, origin)
    assert outcome.status == 1
    assert "nothing tells that origin" in outcome.stdout
    assert "--force=origin-changed" in outcome.stderr
    assert origin.read_bytes() == history.origin


def test_an_origin_that_is_too_small(wbcache, tmp_path):
    history = History("small", commits=12, drained_at=(3,))
    history.damage_superblocks()
    del history.origin[PAGE * 20 :]
    log, origin = history.save(tmp_path)
    outcome = wbcache("salvage", "--yes", "--force=origin-changed", log, origin)
    assert outcome.status == 2
    assert "ends at block 19" in outcome.stderr


def test_a_log_that_was_formatted_anew_and_not_written_since(wbcache, tmp_path):
    """Its segments are those of a volume that somebody gave up."""
    history = History("given up", commits=12, drained_at=(3,))
    history.format_anew()
    history.damage_superblocks()
    log, origin = history.save(tmp_path)
    told = wbcache("salvage", "--json", log, origin).json
    assert "uncertain-log" in force_of(told)
    assert "given up on purpose" in sentences(told)


def test_the_volume_that_wrote_last_is_taken(wbcache, tmp_path):
    old = History("old volume", commits=20, drained_at=(3,))
    old.format_anew()
    old.origin[:] = old.model
    old.run(3)
    new = old.superblock.uuid
    old.wipe_superblocks()
    told = salvage(wbcache, old, tmp_path, "--force=origin-changed")
    assert told["volume"].replace("-", "") == new.hex()
    assert "there are some of" in sentences(told)
    same((tmp_path / "origin").read_bytes(), old.model)


def test_a_copy_of_a_log_inside_the_volume_is_not_taken_for_the_log(wbcache, tmp_path):
    inner = History("inner", commits=12)
    history = History("outer", commits=4, pages=3000, log_bytes=16 << 20)
    history.write(0, bytes(inner.log[: 4 << 20]))
    history.run(2)
    uuid = history.superblock.uuid
    history.wipe_superblocks()
    told = salvage(wbcache, history, tmp_path, "--force=origin-changed")
    assert told["volume"].replace("-", "") == uuid.hex()
    same((tmp_path / "origin").read_bytes(), history.model)


def a_page_that_only_the_last_commit_writes(history):
    """(Segment, index of the page in it, another block of the segment for which that holds as well)."""
    *before, last = history.segments() or [history.first_segment()]
    written = {block for segment in before for _, block, _ in history.pages(segment)}
    (index, _), (_, other) = [
        (index, block) for index, block, is_newest in history.pages(last) if is_newest and block not in written
    ][:2]
    return last, index, other


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_a_damaged_page_of_the_last_commit_that_the_origin_has(wbcache, tmp_path, compress):
    """What looks like a torn last write is on the origin: to leave it out would mix two moments."""
    history = History("last", commits=6, compress=compress)
    segment, index, _ = a_page_that_only_the_last_commit_writes(history)
    history.origin[:] = history.model
    history.wipe_superblocks()
    history.damage_page(segment, index)
    told = salvage(wbcache, history, tmp_path)
    assert told["end_lsn"] == segment.end_lsn
    assert not force_of(told)
    assert not told["ahead"]
    same((tmp_path / "origin").read_bytes(), history.model)


def test_a_damaged_page_of_the_last_commit_of_which_the_origin_has_a_part(wbcache, tmp_path):
    """A torn write that a crash cut off, or a batch on its way: what follows for the origin is not decided in
    silence."""
    history = History("part", commits=6)
    segment, index, other = a_page_that_only_the_last_commit_writes(history)
    at = slice(other * PAGE, (other + 1) * PAGE)
    history.origin[at] = history.model[at]
    history.wipe_superblocks()
    history.damage_page(segment, index)
    log, origin = history.save(tmp_path)
    told = wbcache("salvage", "--json", log, origin).json
    assert "uncertain-log" in force_of(told)
    assert blocks_of(told["ahead"]) == {other}
    assert wbcache("salvage", "--yes", "--force=origin-changed", log, origin).status == 1
    assert (log.read_bytes(), origin.read_bytes()) == (history.log, history.origin)
    assert wbcache("salvage", "--yes", "--force=uncertain-log,origin-changed", log, origin).status == 0
    assert_volume(origin.read_bytes(), history.states[segment.first_lsn], {other})


@pytest.mark.parametrize("kind", ["trim", "zero"])
def test_a_damaged_last_commit_that_clears_blocks(wbcache, tmp_path, kind):
    """Zeros on the origin may have come from it, or have been there: nothing tells."""
    history = History("clears", commits=4)
    history.run_requests((kind, 150, 20), ("write", 190, 2))
    last = history.segments()[-1]
    history.damage_page(last)
    told = {}
    for damage in (history.damage_superblocks, history.wipe_superblocks):
        damage()
        told[damage] = wbcache("salvage", "--json", *history.save(tmp_path)).json
        assert told[damage]["end_lsn"] == last.first_lsn
    assert "uncertain-log" in force_of(told[history.wipe_superblocks])
    # What is left of both superblocks says that no batch had begun.
    assert "uncertain-log" not in force_of(told[history.damage_superblocks])


def test_a_torn_last_write_of_which_the_origin_has_nothing(wbcache, tmp_path):
    history = History("torn", commits=4, drained_at=(2,))
    history.run_requests(("write", 150, 20))
    last = history.segments()[-1]
    history.wipe_superblocks()
    history.damage_page(last, 3)
    told = salvage(wbcache, history, tmp_path)
    assert told["end_lsn"] == last.first_lsn
    same((tmp_path / "origin").read_bytes(), history.states[last.first_lsn])


@pytest.mark.parametrize("whole_log_destaged", [False, True])
def test_the_last_superblock_and_a_segment_that_only_the_older_one_needs(wbcache, tmp_path, whole_log_destaged):
    """What is left of the last one tells that the origin has what is damaged."""
    history = History("one", commits=6, drained_at=(5,) if whole_log_destaged else (3,))
    history.damage_descriptor(history.first_segment())
    history.damage_last_superblock()
    told = salvage(wbcache, history, tmp_path)
    assert told["end_lsn"] == max(history.states)
    assert "agrees with the segments" in sentences(told)
    same((tmp_path / "origin").read_bytes(), history.model)
