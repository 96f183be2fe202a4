# SPDX-License-Identifier: BSD-3-Clause
"""wbcache rewind: the volume is what it was, every moment before stays what it was, and it can be undone."""

import os
import random
import shutil

import pytest

from tests.cli.history import PAGE, QUIET, History
from tests.support.abandon import abandon
from tests.support.matching import same
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log.geometry import COMMIT_PAGES
from wbcache_core.memory.open_segment import MAX_RANGES_PER_PAGE
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.tools.checker import examine
from wbcache_core.tools.rewind import Rewind

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))


def rewind(history, when):
    """On the disks in memory; returns what was done."""
    job = Rewind(MemoryDisk(history.log, "log"), str(when))
    job.origin = MemoryDisk(history.origin, "origin") if job.needs_origin else None
    done = job.perform()
    target = history.covered()[done.target.number]
    history.states[done.after.end_lsn] = history.states[target]
    history.model[:] = history.states[target]
    return done


def assert_all_as_it_was(history):
    """The volume, and every moment that is covered, served; and the log is sound."""
    log, origin = MemoryDisk(bytearray(history.log), "log"), MemoryDisk(bytearray(history.origin), "origin")
    assert examine(log, origin).findings == []
    cache = Cache(Config.from_pairs([("origin", "origin"), ("log", "log"), ("ring-size", "1M")]), origin, log)
    found = bytearray(cache.volume.size)
    cache.volume.read_into(found, 0)
    same(found, history.model)
    for generation in cache.window()[0]:
        snapshot = cache.open_snapshot(str(generation.number))
        snapshot.read_into(found, 0)
        snapshot.close()
        # A server commits within large requests too.
        if generation.end_lsn in history.states:
            same(found, history.states[generation.end_lsn])
    cache.stop()
    return len(cache.window()[0])


def some_history(kind):
    print(f"seed {SEED}")
    if kind == "odd end":
        history = History(f"rewind {SEED} odd", commits=0, pages=40, log_bytes=4 << 20)
        del history.origin[-3 * 512 :], history.model[-3 * 512 :]
        history.log[:] = bytes(len(history.log))
        history.states = {1: bytes(history.model)}
        history.write(len(history.model) - 700, b"end" * 100)
    else:
        history = History(
            f"rewind {SEED} {kind}", commits=6, drained_at=(1,), compress="zstd" if kind == "zstd" else "off",
            log_bytes=12 << 20, pages=120,
        )  # fmt: skip
    if kind == "go round":
        history.go_round()
        history.run(4)
    history.run_requests(("trim", 3, 20), ("write", 10, 2), ("zero", 30, 5))
    history.write(33 * PAGE + 100, b"some bytes" * 900)
    history.write(len(history.model) - 50, b"x" * 50)
    history.run_requests(("write", 12, 9), ("trim", 10, 4))
    return history


@pytest.mark.parametrize("kind", ["off", "zstd", "go round", "odd end"])
def test_any_moment_and_back_again(kind):
    history = some_history(kind)
    choose = random.Random(f"rewinds {SEED}")
    before = len(history.covered())
    for turn in range(6):
        newest = list(history.covered().items())[-1]
        done = rewind(history, choose.choice(list(history.covered().items())[:-1])[0])
        assert (done.before.number, done.before.end_lsn) == newest
        assert (done.after.number, done.after.end_lsn) == list(history.covered().items())[-1]
        assert assert_all_as_it_was(history) == before + turn + 1
    rewind(history, newest[0])
    same(history.model, history.states[newest[1]])
    assert_all_as_it_was(history)
    history.run(3)
    assert_all_as_it_was(history)


def test_a_generation_of_many_segments():
    history = History(f"large {SEED}", commits=0, pages=1500, log_bytes=40 << 20)
    history.run_requests(("write", 1, 1))
    history.run_requests(*(("write", block, 60) for block in range(0, 1500, 60)))
    done = rewind(history, 1)
    assert done.page_count == 1500
    mine = [segment for segment in history.segments() if segment.generation == done.after.number]
    assert [segment.is_full for segment in mine] == [True] * 6 + [False]
    assert_all_as_it_was(history)


def test_trims_are_charged_as_those_of_clients_are():
    """Or a rewind could leave sixty times as much for map and records as a server lets clients leave."""
    history = History(f"trims {SEED}", commits=1, pages=700)
    blocks = range(1, 603, 2)
    history.run_requests(*(("trim", block, 1) for block in blocks))
    target = history.segments()[-1].generation
    history.run_requests(*(("write", block, 1) for block in blocks))
    done = rewind(history, target)
    assert (done.page_count, done.cleared_blocks) == (0, len(blocks))
    mine = [segment for segment in history.segments() if segment.generation == done.after.number]
    assert [segment.is_full for segment in mine] == [True] * (len(mine) - 1) + [False]
    assert len(mine) == -(-len(blocks) // MAX_RANGES_PER_PAGE)
    assert done.after.end_lsn == mine[-1].end_lsn == history.superblock.committed
    assert_all_as_it_was(history)
    rewind(history, done.before.number)
    assert_all_as_it_was(history)


def test_a_generation_longer_than_any_commit():
    """A server commits 32 MiB at most at a time, and recovery looks no further ahead; a rewind may be longer."""
    pages = COMMIT_PAGES + 1000
    history = History(f"longer {SEED}", commits=0, pages=pages, log_bytes=160 << 20)
    history.run_requests(("write", 1, 1))
    history.run_requests(("write", 0, pages))
    done = rewind(history, 1)
    assert done.page_count == pages
    assert_all_as_it_was(history)
    history.run_requests(("write", 5, 3))
    assert_all_as_it_was(history)
    rewind(history, done.before.number)
    assert_all_as_it_was(history)


def test_the_command(wbcache, tmp_path):
    history = some_history("off")
    log, origin = history.save(tmp_path)
    (number, lsn), (newest, newest_lsn) = list(history.covered().items())[1], list(history.covered().items())[-1]
    outcome = wbcache("rewind", log, number, "--origin", origin)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert f"the volume is as of generation {number} (" in outcome.stdout
    assert f"wbcache rewind '{log}' {newest}" in outcome.stdout
    assert origin.read_bytes() == history.origin
    assert wbcache("check", log, "--origin", origin).status == 0
    assert wbcache("replay", log, origin, "--to", tmp_path / "then").status == 0
    same((tmp_path / "then").read_bytes(), history.states[lsn])
    again = wbcache("rewind", log, "last-flush")
    assert again.status == 0
    assert "there is nothing to rewind" in again.stdout
    assert wbcache("rewind", log, newest, "--origin", origin).status == 0
    assert wbcache("replay", log, origin).status == 0
    same(origin.read_bytes(), history.states[newest_lsn])


def test_tags_stay(wbcache, tmp_path):
    history = History("tags", commits=3)
    history.tag("here")
    history.run(2)
    log, origin = history.save(tmp_path)
    tags = history.superblock.tags
    assert wbcache("rewind", log, "here", "--origin", origin).status == 0
    history.log[:] = log.read_bytes()
    assert history.superblock.tags == tags
    assert wbcache("check", log).status == 0
    assert wbcache("replay", log, origin, "--to", tmp_path / "then").status == 0
    same((tmp_path / "then").read_bytes(), history.states[tags[0].end_lsn])


def test_the_log_knows_its_origin(wbcache, pair):
    """It is where the server had it."""
    pair.make_origin(64 * PAGE)
    cache = pair.start(**{name: value for name, value in QUIET.items() if name != "ring_size"}, history="1h")
    cache.volume.write(b"a" * PAGE, 0)
    cache.volume.flush()
    cache.volume.write(b"b" * 3 * PAGE, 0)
    cache.volume.flush()
    abandon(cache)
    assert wbcache("rewind", pair.log, 1).status == 0
    cache = pair.start()
    found = bytearray(3 * PAGE)
    cache.volume.read_into(found, 0)
    same(found, b"a" * PAGE + bytes(2 * PAGE))


def assert_refused(wbcache, tmp_path, log, words, status, said):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = wbcache("rewind", log, *words)
    assert outcome.status == status, outcome
    assert said in outcome.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_moment_outside_the_window(wbcache, tmp_path):
    history = History("outside", commits=6, drained_at=(2,))
    log, _ = history.save(tmp_path)
    for words in (("1",), ("7",), ("-1d",), ("no such tag",)):
        assert wbcache("rewind", log, *words).status == 2
    assert_refused(wbcache, tmp_path, log, ("1",), 2, "'1' is outside the window; the log covers generation 3 (")


def test_a_batch_that_was_under_way_ends_the_moments_before_its_end(wbcache, tmp_path):
    history = History("batch", commits=6, drained_at=(1,))
    segments = history.segments()
    third = next(segment for segment in segments if segment.generation == 4)
    history.begin_batch(third.first_lsn)
    log, origin = history.save(tmp_path)
    assert_refused(wbcache, tmp_path, log, ("2",), 2, "'2' is outside the window; the log covers generation 3 (")
    assert wbcache("rewind", log, "3", "--origin", origin).status == 0
    assert wbcache("check", log).status == 0


def test_not_enough_room(wbcache, tmp_path):
    history = History("room", commits=0, pages=700, log_bytes=6 << 20)
    history.run_requests(("write", 1, 1))
    history.run_requests(*(("write", block, 60) for block in range(0, 700, 60) if block + 60 <= 700))
    log, origin = history.save(tmp_path)
    assert_refused(
        wbcache, tmp_path, log, ("1", "--origin", origin), 1, "needs 4.5 MiB of free log, and log"
    )  # fmt: skip
    newest = list(history.covered().items())[-1][0]
    assert wbcache("rewind", log, newest - 1, "--origin", origin).status == 0


def test_as_much_as_there_is_room_for():
    """One commit less is written until it can be done; then a server goes on with what is left of the log."""
    history = History(f"full {SEED}", commits=0, pages=400, log_bytes=4 << 20)
    history.run_requests(("write", 1, 1))
    history.run_requests(("write", 5, 100), ("write", 170, 100))
    done = rewind(history, 1)
    used = history.segments()[-1].offset + history.segments()[-1].log_pages * PAGE - DATA_START
    assert used > (4 << 20) // 3
    assert done.page_count == 200
    history.run(1)
    assert_all_as_it_was(history)


def test_an_origin_that_changed(wbcache, tmp_path):
    history = History("changed", commits=4)
    history.origin[:] = bytes(len(history.origin))
    log, origin = history.save(tmp_path)
    assert_refused(wbcache, tmp_path, log, ("1", "--origin", origin), 1, "has changed behind its cache")


def test_an_origin_that_is_not_there(wbcache, tmp_path):
    log, _ = History("gone", commits=4).save(tmp_path)
    assert_refused(wbcache, tmp_path, log, ("1",), 2, "name it with --origin")
    assert_refused(wbcache, tmp_path, log, ("1", "--origin", tmp_path / "other"), 2, "cannot open origin")


def test_a_damaged_page_that_is_needed(wbcache, tmp_path):
    """Superblocks may be written by then; the volume and its moments are as they were."""
    history = History("damaged", commits=2)
    segment = history.segments()[0]
    index, block, _ = history.pages(segment)[0]
    history.run_requests(("write", block, 1))
    history.damage_page(segment, index)
    log, origin = history.save(tmp_path)
    shutil.copy(log, tmp_path / "copy")
    outcome = wbcache("rewind", log, "2", "--origin", origin)
    assert outcome.status == 1
    assert "are lost" in outcome.stderr
    assert "the volume is as it was" in outcome.stderr
    assert wbcache("info", "--json", log).json["dirty"] == wbcache("info", "--json", tmp_path / "copy").json["dirty"]
    assert wbcache("rewind", log, "0", "--origin", origin).status == 0


@pytest.mark.parametrize("damage", ["blank", "hole"])
def test_a_log_without_moments(wbcache, tmp_path, damage):
    history = History("none", commits=4)
    if damage == "blank":
        history.log[:] = bytes(len(history.log))
    else:
        history.damage_descriptor(history.segments()[1])
    log, _ = history.save(tmp_path)
    status, said = (2, "is blank") if damage == "blank" else (1, "is damaged at LSN")
    assert_refused(wbcache, tmp_path, log, ("1",), status, said)
