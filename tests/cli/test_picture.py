# SPDX-License-Identifier: BSD-3-Clause
"""wbcache picture: what is counted, that each thing has its colour on the picture, and what it does not accept."""

import contextlib
import itertools
import random
import sys

import pytest

from tests.cli.history import PAGE, History
from wbcache_core.device.file_device import FileDevice
from wbcache_core.format.segment import KIND_SHIFT, RAW, TRIM, ZERO, Descriptor
from wbcache_core.tools.write_density import WriteDensity, touched_blocks

GREEN, GREY, ORANGE, RED, DARKEST_BLUE = (46, 139, 87), (184, 188, 194), (242, 160, 61), (179, 18, 60), (8, 48, 107)


def colours(path):
    """{(red, green, blue): pixels}"""
    from matplotlib.image import imread

    counts = {}
    for row in (imread(path)[:, :, :3] * 255).round().astype(int).tolist():
        for pixel in row:
            counts[tuple(pixel)] = counts.get(tuple(pixel), 0) + 1
    return counts


def draw(wbcache, history, folder):
    log, _ = history.save(folder)
    outcome = wbcache("picture", log, folder / "picture.png")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {path.name for path in folder.iterdir()} == {"log", "origin", "picture.png"}
    return colours(folder / "picture.png")


def test_each_thing_has_its_colour(wbcache, tmp_path):
    history = History("picture", commits=0)
    history.run_requests(("write", 0, 100), ("zero", 150, 40))
    history.tag("a $name_{with}^signs \u4e2d\u6587")
    history.run_requests(("write", 20, 30))
    found = draw(wbcache, history, tmp_path)
    for colour in (GREEN, ORANGE, RED, DARKEST_BLUE, (0, 0, 0)):
        assert found.get(colour, 0) > 20, colour
    assert GREY not in found


def test_what_is_not_there_is_not_drawn(wbcache, tmp_path):
    history = History("picture", commits=0)
    history.run_requests(("write", 0, 100))
    found = draw(wbcache, history, tmp_path)
    assert DARKEST_BLUE in found
    assert not {ORANGE, RED, GREY} & found.keys()


def test_what_the_origin_has_already(wbcache, tmp_path):
    history = History("clean", commits=8, drained_at=(4,))
    assert history.superblock.oldest < history.superblock.destaged
    assert draw(wbcache, history, tmp_path)[GREY] > 200


@pytest.mark.parametrize("kind", ["no commit", "one commit", "only a trim", "batch", "damaged clean part", "clean"])
def test_logs_of_all_kinds(wbcache, tmp_path, kind):
    history = History(kind, commits={"no commit": 0, "only a trim": 0, "one commit": 1}.get(kind, 6),
                      drained_at={"clean": (5,), "damaged clean part": (3,)}.get(kind, ()))  # fmt: skip
    if kind == "only a trim":
        history.run_requests(("trim", 5, 1))
    elif kind == "batch":
        history.begin_batch(history.segments()[2].end_lsn)
    elif kind == "damaged clean part":
        history.damage_descriptor(history.first_segment())
    assert GREEN in draw(wbcache, history, tmp_path)


def test_many_tags(wbcache, tmp_path):
    history = History("tags", commits=2)
    for number in range(32):
        history.tag(f"tag{'x' * number} {number}")
        if number % 3:
            history.run(1)
    assert draw(wbcache, history, tmp_path)[RED] > 500


@pytest.mark.parametrize("name", ["picture.jpg", "log", "there.png", "missing/picture.png"])
def test_files_that_it_does_not_make(wbcache, tmp_path, name):
    log, _ = History("file", commits=2).save(tmp_path)
    (tmp_path / "there.png").write_bytes(b"mine")
    outcome = wbcache("picture", log, tmp_path / name)
    assert outcome.status == 2
    assert name in outcome.stderr
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_without_matplotlib(wbcache, tmp_path, monkeypatch):
    log, _ = History("library", commits=2).save(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = wbcache("picture", log, tmp_path / "picture.png")
    assert outcome.status == 2
    assert "install python3-matplotlib" in outcome.stderr
    assert not (tmp_path / "picture.png").exists()


def test_a_log_that_is_held(wbcache, tmp_path):
    log, _ = History("held", commits=2).save(tmp_path)
    with contextlib.closing(FileDevice(str(log), "log")):
        outcome = wbcache("picture", log, tmp_path / "picture.png")
    assert outcome.status == 2
    assert "in use by another wbcache" in outcome.stderr


def test_a_refused_log(wbcache, tmp_path):
    history = History("refused", commits=5)
    history.damage_descriptor(history.segments()[2])
    log, _ = history.save(tmp_path)
    assert wbcache("picture", log, tmp_path / "picture.png").status == 1


def descriptor(time_ns, entries):
    """entries as (kind, block, blocks), kind None for pages."""
    entry_words, arguments = [], []
    for kind, block, count in entries:
        for one in range(count if kind is None else 1):
            entry_words.append(block + one if kind is None else kind << KIND_SHIFT | block)
            arguments.append(1 if kind is None else count)
    pages = sum(count for kind, _, count in entries if kind is None)
    return Descriptor(
        RAW, pages, bytes(16), 1, time_ns, 1, 1, 0, pages * PAGE, (), tuple(entry_words), tuple(arguments)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_the_grid_counts_every_block_once(seed):
    choose = random.Random(seed)
    first, total = choose.randrange(50), choose.randrange(1, 500)
    columns, rows = choose.randrange(1, 40), choose.randrange(1, min(total, 60) + 1)
    shown = range(first, first + total)
    times = 10**18, 10**18 + choose.randrange(1000)
    density = WriteDensity(columns, rows, times, shown)
    written, cleared = {}, {}
    for _ in range(20):
        time_ns = choose.randint(*times)
        kinds = [choose.choice((None, None, TRIM, ZERO)) for _ in range(choose.randrange(1, 8))]
        entries = [(kind, choose.randrange(first + total), choose.randrange(1, 80)) for kind in kinds]
        density.add(descriptor(time_ns, entries))
        column = min((time_ns - times[0]) * columns // max(times[1] - times[0], 1), columns - 1)
        for kind, block, count in entries:
            for one in range(block, block + count):
                if one in shown:
                    place = (one - first) * rows // total, column
                    grid = written if kind is None else cleared
                    grid[place] = grid.get(place, 0) + 1
    for grid, counts in ((density.written, written), (density.cleared, cleared)):
        for row, column in itertools.product(range(rows), range(columns)):
            assert grid[row][column] == counts.get((row, column), 0)
    assert sum(density.written_at()) == sum(written.values())


def test_touched_blocks():
    assert touched_blocks([]) == range(0)
    assert touched_blocks([descriptor(1, [])]) == range(0)
    assert touched_blocks([descriptor(1, [(None, 7, 3)]), descriptor(1, [(None, 2, 1)])]) == range(2, 10)
    assert touched_blocks([descriptor(1, [(None, 7, 3)]), descriptor(1, [(TRIM, 5, 100)])]) == range(5, 105)
