# SPDX-License-Identifier: BSD-3-Clause
"""The origin of a log has become larger or smaller: what `wbcache resize` keeps, and what it refuses."""

import os
import random
import shutil

import pytest

from tests.cli.history import PAGE, History, SalvageDisk
from tests.crash.replay import Replay
from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.local_pair import QUIET, LocalPair
from tests.support.matching import same
from tests.support.refusal import unchanged
from tests.support.simulated_disk import STYLES, Journal, MemoryDisk, SimulatedDisk
from wbcache_core.errors import LogRefusedError
from wbcache_core.pairing import mark as mark_module
from wbcache_core.pairing.mark import DIRTY, OriginSide
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config
from wbcache_core.tools.resize import Resize

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
PAGES = 400
USED = 200
"""The log holds something only for this many pages."""
SIZES = {"grown": PAGES + 100, "grown by a part of a page": PAGES + 0.5, "smaller": USED, "a little smaller": PAGES - 1}


def make(seed=SEED, **options):
    """Moments of a volume of which only the first half is written to."""
    history = History(f"resize {seed}", pages=USED, commits=0, **options)
    history.origin += random.Random(seed).randbytes((PAGES - USED) * PAGE)
    history.model[:] = history.origin
    history.states = {1: bytes(history.model)}
    history.run_requests(("write", 0, 1))

    def change(volume):
        count = history.random.choice((1, 2, 7))
        kind = history.random.choices(("write", "trim", "zero"), (80, 10, 10))[0]
        history._perform(volume, kind, history.random.randrange(USED - count), count)
        return count

    history._change = change
    history.run(6, drained_at=(1,))
    history.tag("kept")
    return history


def resized(content, size):
    return bytes(content[:size]) + bytes(max(size - len(content), 0))


def volume_of(log, origin, export=None):
    """The volume, or a past moment of it, as a server serves it."""
    config = Config.from_pairs([("origin", "origin"), ("log", "log"), ("ring-size", "1M")])
    cache = Cache(config, MemoryDisk(bytearray(origin), "origin"), MemoryDisk(bytearray(log), "log"))
    target = cache.open_snapshot(export) if export else cache.volume
    found = bytearray(target.size)
    target.read_into(found, 0)
    abandon(cache)
    return bytes(found)


@pytest.mark.parametrize("what", SIZES)
def test_everything_stays(wbcache, tmp_path, what):
    history = make()
    log, origin = history.save(tmp_path)
    size = int(SIZES[what] * PAGE)
    os.truncate(origin, size)
    moments = wbcache("history", log, "--all", "--json").json
    with unchanged(tmp_path):
        outcome = wbcache("resize", log, origin)
        assert outcome.status == 0 and "nothing has been changed; to let" in outcome.stdout
    outcome = wbcache("resize", log, origin, "--yes", "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    covered = history.covered()
    assert outcome.json == {
        "log": str(log), "origin": str(origin), "recorded_bytes": PAGES * PAGE, "bytes": size,
        "dirty_bytes": (history.segments()[-1].end_lsn - history.superblock.destaged) * PAGE, "past_is_gone": False,
        "generations": len(covered), "tags": 1, "done": True,
    }  # fmt: skip
    assert wbcache("info", log, "--json").json["origin"]["bytes"] == size
    assert wbcache("history", log, "--all", "--json").json == moments
    images = log.read_bytes(), origin.read_bytes()
    same(volume_of(*images), resized(history.model, size))
    same(volume_of(*images, "kept"), resized(history.model, size))
    for generation in covered:
        same(volume_of(*images, f"{generation}"), resized(history.state_of(generation), size))
    check_pair(log, origin)
    assert wbcache("replay", log, origin).status == 0
    same(origin.read_bytes(), resized(history.model, size))


def test_a_start_after_it_has_nothing_to_say(tmp_path, wbcache, caplog):
    history = make()
    log, origin = history.save(tmp_path)
    os.truncate(origin, SIZES["grown"] * PAGE)
    pair = LocalPair(tmp_path)
    for words in ("has grown from 1638400 to 2048000", ""):
        caplog.clear()
        cache = Cache(pair.config())
        assert words in caplog.text and ("grown" in caplog.text) == bool(words)
        abandon(cache)
        assert wbcache("resize", log, origin, "--yes").status == 0


@pytest.mark.parametrize(
    ("request_", "end", "words"),
    [
        (("write", 250, 3), 252 * PAGE, "holds 4096 bytes of data, and 0 that"),
        (("write", 250, 3), 253 * PAGE - 512, "holds 512 bytes of data, and 0 that"),
        (("write", 250, 3), 200 * PAGE, "holds 12288 bytes of data, and 0 that"),
        (("trim", 250, 150), 300 * PAGE, "holds 0 bytes of data, and 409600 that"),
        (("zero", 250, 3), 250 * PAGE, "holds 0 bytes of data, and 12288 that"),
    ],
)
def test_nothing_is_cut_off(wbcache, tmp_path, request_, end, words):
    history = make()
    history.run_requests(request_)
    history.run(1)
    log, origin = history.save(tmp_path)
    os.truncate(origin, end)
    with unchanged(tmp_path):
        for options in ([], ["--yes"], ["--yes", "--force=origin-changed,origin-moved,other-log"]):
            outcome = wbcache("resize", log, origin, *options)
            assert outcome.status == 1 and not outcome.stdout
            assert words in outcome.stderr and "restore the old size" in outcome.stderr
    os.truncate(origin, PAGES * PAGE)
    origin.write_bytes(history.origin)
    assert wbcache("replay", log, origin).status == 0
    os.truncate(origin, end)
    assert wbcache("resize", log, origin, "--yes").status == 0
    same(volume_of(log.read_bytes(), origin.read_bytes()), resized(history.model, end))


def test_a_moment_needs_what_the_present_does_not(wbcache, tmp_path):
    """The block is trimmed now; two moments ago it had data, and the log is where it is."""
    history = make()
    history.run_requests(("write", 300, 1))
    history.run_requests(("trim", 300, 1))
    log, origin = history.save(tmp_path)
    os.truncate(origin, 300 * PAGE)
    assert wbcache("resize", log, origin, "--yes").status == 1


def test_the_same_size_and_a_blank_log(wbcache, tmp_path):
    log, origin = make().save(tmp_path)
    with unchanged(tmp_path):
        outcome = wbcache("resize", log, origin, "--yes")
        assert outcome.status == 0 and "there is nothing to do" in outcome.stdout
    log.write_bytes(bytes(8 << 20))
    with unchanged(tmp_path):
        outcome = wbcache("resize", log, origin, "--yes")
        assert outcome.status == 0 and "is blank" in outcome.stdout


def test_an_origin_that_was_changed_too(wbcache, tmp_path):
    """With a dirty log it is refused, unless forced; with a clean one the past is gone, as after a start."""
    history = make()
    log, origin = history.save(tmp_path)
    size = 300 * PAGE

    def change():
        content = bytearray(history.origin[:size])
        content[: 290 * PAGE] = b"\xcc" * (290 * PAGE)
        origin.write_bytes(content)

    change()
    with unchanged(tmp_path):
        outcome = wbcache("resize", log, origin, "--yes")
        assert outcome.status == 1 and "has changed behind its cache" in outcome.stderr
    outcome = wbcache("resize", log, origin, "--yes", "--force=origin-changed", "--json")
    assert outcome.status == 0 and outcome.json["past_is_gone"]
    assert wbcache("history", log, "--json").json["tags"] == []
    history.run(1, drained_at=(0,))
    log, origin = history.save(tmp_path)
    change()
    outcome = wbcache("resize", log, origin, "--yes")
    assert outcome.status == 0 and "past moments and tags are gone" in outcome.stdout
    check_pair(log, origin)


@pytest.mark.parametrize("is_dirty", [True, False])
def test_the_mark_of_the_origin(wbcache, tmp_path, is_dirty):
    """It stays; an origin that was moved gets it, as long as the log has something for it."""
    pair = LocalPair(tmp_path)
    pair.make_origin(PAGES * PAGE)
    cache = pair.start(**QUIET | {"on_exit": "commit" if is_dirty else "destage"})
    cache.volume.write(b"x" * PAGE, 0)
    cache.stop()
    before = OriginSide.at(str(pair.origin)).mark
    assert before.is_dirty == is_dirty
    os.truncate(pair.origin, USED * PAGE)
    assert wbcache("resize", pair.log, pair.origin, "--yes").status == 0
    after = OriginSide.at(str(pair.origin)).mark
    assert (after.volume, after.log, after.state) == (before.volume, before.log, before.state)
    moved = tmp_path / "moved"
    shutil.copyfile(pair.origin, moved)
    os.truncate(moved, (USED + 1) * PAGE)
    words = ["resize", pair.log, moved, "--yes"]
    if is_dirty:
        assert wbcache(*words).status == 1
        assert wbcache(*words, "--force=origin-moved").status == 0
        found = OriginSide.at(str(moved)).mark
        assert (found.volume, found.state) == (before.volume, DIRTY)


def test_another_log_has_data_for_it(wbcache, tmp_path):
    log, origin = make().save(tmp_path)
    side = OriginSide.at(str(origin))
    assert side.put(b"v" * 16, "/other", DIRTY)
    os.truncate(origin, USED * PAGE)
    outcome = wbcache("resize", log, origin, "--yes")
    assert outcome.status == 1 and "belongs to another log" in outcome.stderr
    assert wbcache("resize", log, origin, "--yes", "--force=other-log").status == 0


def test_what_only_the_ring_of_a_killed_server_has(wbcache, tmp_path, monkeypatch):
    log, origin = make().save(tmp_path)
    monkeypatch.setattr("wbcache_core.tools.log_history.describe_uncommitted", lambda *_: "there is more in '/ring'")
    os.truncate(origin, USED * PAGE)
    outcome = wbcache("resize", log, origin, "--yes")
    assert outcome.status == 1 and "there is more in '/ring'; nothing has been changed" in outcome.stderr


def test_a_size_that_no_origin_can_have(wbcache, tmp_path):
    log, origin = make().save(tmp_path)
    for size, words in ((0, "a size of 0 bytes"), (USED * PAGE + 1, "not a multiple of 512")):
        os.truncate(origin, size)
        outcome = wbcache("resize", log, origin, "--yes")
        assert outcome.status == 2 and words in outcome.stderr


@pytest.mark.parametrize("what", ["grown by a part of a page", "smaller"])
def test_power_cuts(what):
    """At each write and sync: a start refuses the pair or serves what it has to, and a second run completes the first.
    """
    print(f"seed {SEED}")
    history, size = make(), int(SIZES[what] * PAGE)
    old_origin, new_origin = bytes(history.origin), resized(history.origin, size)
    image, journal = bytes(history.log), Journal()
    job = Resize(SimulatedDisk(image, "log", journal), MemoryDisk(bytearray(new_origin), "origin"), ())
    job.perform()
    rng = random.Random(f"cuts {SEED}")
    replay = Replay([image], journal.events)
    outcomes = set()
    for event in [*journal.events, None]:
        for style in STYLES:
            with replay.after_cut(replay.survivors(rng, style)) as (log,):
                where = f"cut before event {replay.position}, {style}"
                print(where)
                outcomes.add(_check(history, log, old_origin, new_origin))
                again = SalvageDisk(bytearray(log))
                second = Resize(again, MemoryDisk(bytearray(new_origin), "origin"), ())
                if second.is_needed:
                    second.perform()
                same(volume_of(again.content, new_origin), resized(history.model, size))
                same(volume_of(again.content, new_origin, "kept"), resized(history.model, size))
        if event:
            replay.advance()
    assert outcomes == ({"served"} if size > PAGES * PAGE else {"served", "refused"})


def _check(history, log, old_origin, new_origin):
    """What a start says to the new size. The old one, which a user may restore meanwhile, is served in either case, or
    refused as too small."""
    try:
        same(volume_of(log, old_origin), history.model)
    except LogRefusedError:
        assert len(old_origin) < len(new_origin)
    try:
        same(volume_of(log, new_origin), resized(history.model, len(new_origin)))
    except LogRefusedError:
        assert len(new_origin) < len(old_origin)
        return "refused"
    return "served"


@pytest.fixture(autouse=True)
def own_registry(tmp_path_factory, monkeypatch):
    monkeypatch.setenv(mark_module.REGISTRY_VARIABLE, str(tmp_path_factory.mktemp("pairs")))
