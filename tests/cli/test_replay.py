# SPDX-License-Identifier: BSD-3-Clause
"""wbcache replay: the origin becomes the volume, or an image does; whatever happens in between."""

import os

import pytest

from tests.cli.history import PAGE, History
from tests.support.matching import same
from wbcache_core.device.file_device import FileDevice
from wbcache_core.log.superblocks import SuperblockStore, read_slots
from wbcache_core.pairing.mark import DIRTY, OriginSide


@pytest.fixture(params=("off", "zstd"))
def history(request):
    return History("replay", commits=12, drained_at=(3,), compress=request.param)


def test_the_origin_becomes_the_volume(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin)
    assert outcome.status == 0
    assert "is complete" in outcome.stdout
    assert "generation 12" in outcome.stdout
    same(origin.read_bytes(), history.model)
    assert wbcache("info", "--json", log).json["state"] == "clean"
    assert wbcache("check", log, "--origin", origin).status == 0
    again = wbcache("replay", log, origin)
    assert again.status == 0
    assert "held nothing that" in again.stdout


def test_to_an_image(wbcache, history, tmp_path):
    history.run_requests(("trim", 0, 199))
    history.run_requests(("write", 40, 3))
    log, origin = history.save(tmp_path)
    image = tmp_path / "image"
    outcome = wbcache("replay", log, origin, "--to", image)
    assert outcome.status == 0, outcome
    same(image.read_bytes(), history.model)
    assert image.stat().st_blocks * 512 <= 64 * PAGE
    assert log.read_bytes() == history.log
    assert origin.read_bytes() == history.origin
    assert {path.name for path in tmp_path.iterdir()} == {"log", "origin", "image"}


def test_an_image_that_exists_is_not_overwritten(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    (tmp_path / "image").write_bytes(b"mine")
    outcome = wbcache("replay", log, origin, "--to", tmp_path / "image")
    assert outcome.status == 2
    assert "exists already" in outcome.stderr
    assert (tmp_path / "image").read_bytes() == b"mine"


def test_what_a_killed_run_left_of_an_image_is_written_anew(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    (tmp_path / "image.partial").write_bytes(b"x" * 4 * len(history.model))
    assert wbcache("replay", log, origin, "--to", tmp_path / "image").status == 0
    same((tmp_path / "image").read_bytes(), history.model)


def test_a_folder_that_is_not_there(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin, "--to", tmp_path / "nowhere" / "image")
    assert outcome.status == 1
    assert "cannot write image" in outcome.stderr


def test_an_image_of_a_volume_with_a_lost_page(wbcache, tmp_path):
    history = History("lost", commits=6)
    segment = history.segments()[2]
    index, block = next((index, block) for index, block, is_newest in history.pages(segment) if is_newest)
    history.damage_page(segment, index)
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin, "--to", tmp_path / "image")
    assert outcome.status == 1
    assert f"at {block * PAGE} are lost" in outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"log", "origin"}


def test_a_lost_page_holds_it_up(wbcache, tmp_path, monkeypatch):
    monkeypatch.setattr("wbcache_core.flow.failure.ORIGIN_PATIENCE", 0.2)
    history = History("lost", commits=6)
    segment = history.segments()[2]
    index, block = next((index, block) for index, block, is_newest in history.pages(segment) if is_newest)
    history.damage_page(segment, index)
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin)
    assert outcome.status == 1
    assert f"the volume at {block * PAGE}" in outcome.stderr
    assert f"wbcache salvage '{log}' '{origin}'" in outcome.stderr


def test_a_refused_log(wbcache, history, tmp_path):
    history.damage_descriptor(history.segments()[2])
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin)
    assert outcome.status == 1
    assert "is damaged at LSN" in outcome.stderr
    assert log.read_bytes() == history.log
    assert origin.read_bytes() == history.origin


def test_a_changed_origin(wbcache, history, tmp_path):
    history.origin[:] = bytes(len(history.origin))
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin)
    assert outcome.status == 1
    assert "has changed behind its cache" in outcome.stderr
    assert origin.read_bytes() == history.origin
    assert wbcache("replay", "--force", "origin-changed", log, origin).status == 0
    assert wbcache("check", log, "--origin", origin).status == 0


def test_a_blank_log(wbcache, history, tmp_path):
    history.log[:] = bytes(len(history.log))
    log, origin = history.save(tmp_path)
    outcome = wbcache("replay", log, origin)
    assert outcome.status == 0
    assert "blank" in outcome.stdout
    assert log.read_bytes() == history.log


def test_no_log(wbcache, history, tmp_path):
    """None is made."""
    log, origin = history.save(tmp_path)
    os.unlink(log)
    assert wbcache("replay", log, origin).status == 2
    assert not log.exists()


@pytest.mark.parametrize("command", [("replay",), ("salvage", "--yes"), ("check", "--origin")])
def test_the_same_file_twice(wbcache, tmp_path, command):
    log, _ = History("same", commits=2).save(tmp_path)
    outcome = wbcache(*command, log, log)
    assert outcome.status == 2
    assert "are the same" in outcome.stderr


@pytest.mark.parametrize("which", ["log", "origin"])
def test_what_cannot_be_written(wbcache, history, tmp_path, monkeypatch, which):
    """Refused before the first byte, and the message leads on; both are unchanged, and an image can be had."""
    log, origin = history.save(tmp_path)
    names = {"log": log, "origin": origin}
    opened = FileDevice._open_for_writing
    monkeypatch.setattr(
        FileDevice, "_open_for_writing",
        lambda device, path: None if path == str(names[which]) else opened(device, path),
    )  # fmt: skip
    outcome = wbcache("replay", log, origin)
    assert outcome.status == 1
    assert f"{which} '{names[which]}' cannot be written; " in outcome.stderr.replace(", so the", "; so the")
    for words in ("nothing has been changed", "wbcache replay --to FILE"):
        assert words in outcome.stderr
    assert "salvage" not in outcome.stderr
    assert ("replay the copy" in outcome.stderr) == (which == "log")
    assert (log.read_bytes(), origin.read_bytes()) == (history.log, history.origin)
    assert wbcache("replay", log, origin, "--to", tmp_path / "image").status == 0
    same((tmp_path / "image").read_bytes(), history.model)
    copy = tmp_path / "copy"
    copy.write_bytes(log.read_bytes())
    if which == "log":
        assert wbcache("replay", copy, origin).status == 0
        same(origin.read_bytes(), history.model)


def test_an_origin_that_grew(wbcache, history, tmp_path):
    history.origin.extend(bytes(3 * PAGE))
    log, origin = history.save(tmp_path)
    grown = history.model + bytes(3 * PAGE)
    assert wbcache("check", log, "--origin", origin).status == 0
    assert wbcache("replay", log, origin, "--to", tmp_path / "image").status == 0
    same((tmp_path / "image").read_bytes(), grown)
    assert wbcache("replay", log, origin).status == 0
    same(origin.read_bytes(), grown)
    assert wbcache("check", log, "--origin", origin).status == 0


def test_an_origin_that_another_log_has_data_for(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    OriginSide.at(str(origin)).put(b"other" + bytes(11), "/srv/other.log", DIRTY)
    for words in (("replay", log, origin), ("replay", log, origin, "--to", tmp_path / "image")):
        outcome = wbcache(*words)
        assert outcome.status == 1
        assert "/srv/other.log" in outcome.stderr
        assert "other-log" in outcome.stderr
    assert "of another volume" in wbcache_info_of(wbcache, log, origin)
    assert origin.read_bytes() == history.origin
    assert wbcache("replay", log, origin, "--force=other-log").status == 0
    same(origin.read_bytes(), history.model)
    told = wbcache("info", "--json", log).json["origin"]
    assert told["mark"]["state"] == "clean"
    assert told["mark"]["of_this_log"]
    assert told["identity"][0] == "file"


def wbcache_info_of(wbcache, log, origin):
    """What info says of a log whose superblocks name this origin."""
    device = FileDevice(str(log), "log")
    try:
        store = SuperblockStore(device, read_slots(device))
        store.write(origin_name=str(origin))
    finally:
        device.close()
    return wbcache("info", log).stdout
