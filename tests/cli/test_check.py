# SPDX-License-Identifier: BSD-3-Clause
"""wbcache check: findings, remarks, exit statuses. What it finds is tested with the checker itself."""

import pytest

from tests.cli.history import History


@pytest.fixture
def history():
    return History("check", commits=6, drained_at=(2,))


def test_sound(wbcache, history, tmp_path):
    log, origin = history.save(tmp_path)
    outcome = wbcache("check", log, "--origin", origin)
    assert outcome.status == 0, outcome
    assert "is sound" in outcome.stdout
    facts = wbcache("check", "--json", log).json
    assert facts["sound"]
    assert (facts["findings"], facts["segments"]) == ([], 6)


def test_a_damaged_page_is_named(wbcache, history, tmp_path):
    segment = history.segments()[1]
    history.damage_page(segment)
    log, _ = history.save(tmp_path)
    outcome = wbcache("check", log)
    assert outcome.status == 1
    assert outcome.stdout.startswith("damaged: ")
    assert f"segment at byte {segment.offset}" in outcome.stdout
    assert "is sound" not in outcome.stdout
    assert len(wbcache("check", "--json", log).json["findings"]) == 1


def test_a_remark_is_no_damage(wbcache, history, tmp_path):
    history.flip(100)
    log, _ = history.save(tmp_path)
    outcome = wbcache("check", log)
    assert outcome.status == 0
    assert outcome.stdout.startswith("remark: the superblock at byte 0")


def test_a_changed_origin(wbcache, history, tmp_path):
    history.origin[:] = bytes(len(history.origin))
    log, origin = history.save(tmp_path)
    assert wbcache("check", log).status == 0
    outcome = wbcache("check", log, "--origin", origin)
    assert outcome.status == 1
    assert "changed behind its cache" in outcome.stdout


def test_blank(wbcache, tmp_path):
    (tmp_path / "log").write_bytes(bytes(4 << 20))
    outcome = wbcache("check", tmp_path / "log")
    assert outcome.status == 0
    assert "blank" in outcome.stdout


@pytest.mark.parametrize("missing", ["log", "origin"])
def test_it_cannot_look(wbcache, history, tmp_path, missing):
    log, origin = history.save(tmp_path)
    (tmp_path / missing).unlink()
    outcome = wbcache("check", log, "--origin", origin)
    assert outcome.status == 2
    assert f"cannot open {missing}" in outcome.stderr
