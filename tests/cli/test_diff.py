# SPDX-License-Identifier: BSD-3-Clause
"""wbcache diff: what it lists, and that one moment with the diff applied is the other, forwards and backwards."""

import itertools
import json
import os
import random

import pytest

from tests.cli.history import PAGE, History
from tests.support import clients
from tests.support.matching import same
from wbcache_core.format.segment import KIND_NAMES

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))


def touched(history, start, end):
    """The blocks written or cleared from one LSN to the other, in whatever order; True for those trimmed at last."""
    survey = history._survey()
    blocks = {}
    for segment in history.segments():
        if min(start, end) <= segment.first_lsn < max(start, end):
            for entry in survey.descriptor_of(segment).entries():
                blocks |= dict.fromkeys(range(entry.block, entry.block + entry.blocks), KIND_NAMES[entry.kind])
    return blocks


def apply(content, extents, raw):
    """What a restore does."""
    with open(raw, "rb") as file:
        for extent in extents:
            start, length = extent["start"], extent["length"]
            if extent["zero"]:
                content[start : start + length] = bytes(length)
            else:
                assert extent["offset"] == start
                file.seek(start)
                content[start : start + length] = file.read(length)


def blocks_of(extents):
    return [
        block
        for extent in extents
        for block in range(extent["start"] // PAGE, (extent["start"] + extent["length"] + PAGE - 1) // PAGE)
    ]


@pytest.fixture(params=("off", "zstd", "go round", "odd end"))
def history(request):
    kind = request.param
    print(f"seed {SEED}")
    history = History(
        f"diff {SEED} {kind}", commits=6, drained_at=(1,), compress="zstd" if kind == "zstd" else "off",
        log_bytes=4 << 20, pages=120,
    )  # fmt: skip
    if kind == "odd end":
        history = History(f"diff {SEED} odd", commits=0, pages=40, log_bytes=4 << 20)
        del history.origin[-3 * 512 :], history.model[-3 * 512 :]
        history.log[:] = bytes(len(history.log))
        history.states = {1: bytes(history.model)}
        history.write(len(history.model) - 700, b"end" * 100)
    if kind == "go round":
        history.go_round()
    else:
        history.run_requests(("trim", 3, 20), ("write", 10, 2), ("zero", 30, 5))
        history.write(33 * PAGE + 100, b"some bytes" * 900)
        history.write(len(history.model) - 50, b"x" * 50)
        history.run_requests(("write", 12, 9), ("trim", 10, 4))
    return history


def test_one_moment_with_the_diff_is_the_other(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    moments = list(history.covered().items())
    assert len(moments) > 3
    pairs = list(itertools.permutations(moments, 2))
    for number, (start, end) in enumerate(random.Random(SEED).sample(pairs, min(len(pairs), 14))):
        raw = tmp_path / f"raw{number}"
        outcome = wbcache("diff", log, start[0], end[0], "--origin", origin, "--json", "--raw", raw)
        assert (outcome.status, outcome.stderr) == (0, "")
        content = bytearray(history.states[start[1]])
        apply(content, outcome.json, raw)
        same(content, history.states[end[1]])
        assert raw.stat().st_size == len(history.model)
        assert blocks_of(outcome.json) == sorted(touched(history, start[1], end[1]))
    assert log.read_bytes() == history.log
    assert origin.read_bytes() == history.origin


def test_the_kinds_are_those_of_the_requests(wbcache, tmp_path):
    history = History("kinds", commits=0, pages=40)
    history.run_requests(("write", 1, 1))
    history.run_requests(("trim", 4, 8), ("zero", 10, 4), ("write", 12, 1), ("write", 30, 2), ("write", 32, 2))
    log, _ = history.save(tmp_path)
    extents = wbcache("diff", "--json", log, 1, 2).json
    assert [(one["start"] // PAGE, one["length"] // PAGE, one["zero"], one["data"]) for one in extents] == [
        (4, 6, True, False), (10, 2, True, True), (12, 1, False, True), (13, 1, True, True), (30, 4, False, True),
    ]  # fmt: skip
    assert all((one["depth"], one["present"], one["compressed"]) == (0, True, False) for one in extents)
    outcome = wbcache("diff", log, "1", "last-flush")
    assert outcome.status == 0
    assert [line.split() for line in outcome.stdout.splitlines()[:-1]] == [
        ["hole", "16384", "24576"], ["zero", "40960", "8192"], ["data", "49152", "4096"], ["zero", "53248", "4096"],
        ["data", "122880", "16384"],
    ]  # fmt: skip
    assert "from generation 1 (" in outcome.stdout
    assert "20.0 KiB of data, 12.0 KiB of zeros, 24.0 KiB of holes" in outcome.stdout


def test_a_hole_of_the_origin_is_a_hole(wbcache, tmp_path):
    history = History("holes", commits=0, pages=64)
    history.run_requests(("write", 1, 1))
    history.run_requests(("write", 20, 4))
    log, origin = history.save(tmp_path)
    os.truncate(origin, 0)
    os.truncate(origin, len(history.origin))
    with open(origin, "r+b") as file:
        file.seek(21 * PAGE + 100)
        file.write(b"x")
    again = bytearray(origin.read_bytes())
    history = History("holes of another", commits=0, pages=64)
    history.origin[:], history.model[:] = again, again
    history.log[:] = bytes(len(history.log))
    history.run_requests(("write", 1, 1))
    history.run_requests(("write", 20, 4))
    log.write_bytes(history.log)
    extents = wbcache("diff", "--json", log, 2, 1, "--origin", origin).json
    assert [(one["start"] // PAGE, one["length"] // PAGE, one["zero"], one["data"]) for one in extents] == [
        (20, 1, True, False), (21, 1, False, True), (22, 2, True, False)
    ]  # fmt: skip


def test_nothing_has_changed(wbcache, tmp_path):
    log, _ = History("same", commits=3).save(tmp_path)
    assert wbcache("diff", "--json", log, "2", "2").json == []
    assert "nothing has changed" in wbcache("diff", log, "last-flush", "3").stdout


@pytest.mark.parametrize("age", ["-0s", "-0.0m", "@-0h"])
def test_an_age_is_no_option(wbcache, tmp_path, age):
    log, _ = History("age", commits=3).save(tmp_path)
    outcome = wbcache("diff", log, "1", age)
    assert outcome.status == 0, outcome.stderr
    assert "to generation 3 (" in outcome.stdout


def test_backwards_the_origin_has_to_be_there(wbcache, tmp_path):
    history = History("backwards", commits=3)
    log, origin = history.save(tmp_path)
    assert wbcache("diff", log, 1, 3).status == 0
    outcome = wbcache("diff", log, 3, 1)
    assert outcome.status == 2
    assert "name it with --origin" in outcome.stderr
    origin.write_bytes(bytes(len(history.origin)))
    outcome = wbcache("diff", log, 3, 1, "--origin", origin)
    assert outcome.status == 1
    assert "has changed behind its cache" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("0", "99"), "'99' is outside the window; the log covers generation 0 ("),
        (("0", "tomorrow"), "there is no tag 'tomorrow'"),
        (("0", "2999-01-01"), "is in the future"),
        (("-9d", "0"), "'-9d' is outside the window"),
        (("0", "-"), "'-' is not a moment"),
    ],
)
def test_moments_that_are_not_there(wbcache, tmp_path, words, said):
    log, _ = History("moments", commits=3).save(tmp_path)
    outcome = wbcache("diff", log, *words)
    assert outcome.status == 2
    assert said in outcome.stderr


def test_a_tag(wbcache, tmp_path):
    history = History("tag", commits=2)
    history.tag("before")
    history.run_requests(("write", 7, 1))
    log, _ = history.save(tmp_path)
    assert blocks_of(wbcache("diff", "--json", log, "before", "last-flush").json) == [7]


def test_a_blank_log(wbcache, tmp_path):
    history = History("blank", commits=1)
    history.log[:] = bytes(len(history.log))
    log, _ = history.save(tmp_path)
    outcome = wbcache("diff", log, "0", "1")
    assert outcome.status == 2
    assert "is blank" in outcome.stderr


def test_a_refused_log(wbcache, tmp_path):
    history = History("refused", commits=5)
    history.damage_descriptor(history.segments()[2])
    log, _ = history.save(tmp_path)
    outcome = wbcache("diff", log, "0", "1")
    assert outcome.status == 1
    assert "is damaged at LSN" in outcome.stderr


def test_a_damaged_page_leaves_no_file(wbcache, tmp_path):
    history = History("lost", commits=4)
    segment = history.segments()[1]
    history.damage_page(segment, 2)
    log, _ = history.save(tmp_path)
    outcome = wbcache("diff", log, "1", "2", "--raw", tmp_path / "raw")
    assert outcome.status == 1
    assert "are lost" in outcome.stderr
    assert f"'{tmp_path / 'raw'}' has not been made" in outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"log", "origin"}


def test_a_file_that_exists_is_not_overwritten(wbcache, tmp_path):
    log, origin = History("exists", commits=2).save(tmp_path)
    before = origin.read_bytes()
    outcome = wbcache("diff", log, "1", "2", "--raw", origin)
    assert outcome.status == 2
    assert "exists already" in outcome.stderr
    assert origin.read_bytes() == before


def test_the_map_is_as_qemu_img_has_it(wbcache, tmp_path):
    """qemu-img finds the data in the file where the list says, and names things in the same words."""
    history = History("qemu", commits=0)
    history.run_requests(("write", 0, 1))
    history.run_requests(("write", 16, 16), ("trim", 48, 16), ("write", 150, 5))
    log, _ = history.save(tmp_path)
    raw = tmp_path / "raw"
    ours = [extent for extent in wbcache("diff", "--json", "--raw", raw, log, 1, 2).json if extent["data"]]
    theirs = json.loads(clients.run("qemu-img", "map", "-f", "raw", "--output=json", raw))
    assert [(one["start"], one["length"], one["offset"]) for one in theirs if one["data"]] == [
        (one["start"], one["length"], one["offset"]) for one in ours
    ]
    assert theirs[0].keys() <= ours[0].keys()
