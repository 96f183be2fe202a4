# SPDX-License-Identifier: BSD-3-Clause
"""wbcache report about a log that no server holds: what the page says, and what it does not accept."""

import json
import os

import pytest

from tests.cli.history import History
from tests.support.browser import DARK, assert_complete_in_itself, measured, screenshot
from tests.support.refusal import unchanged

EVIL = "<b>&\"'/script><script>x"[:12]
PAGE_LIGHT, PAGE_DARK = (246, 247, 249), (18, 22, 28)


def write_report(wbcache, folder, log, status=0):
    """The page, and its text."""
    page = folder / "report.html"
    outcome = wbcache("report", log, page)
    assert (outcome.status, outcome.stderr) == (status, "")
    document = page.read_text()
    return page, assert_complete_in_itself(document), outcome.stdout


@pytest.fixture
def history():
    history = History("report", commits=12, drained_at=(3,))
    history.tag("before <b>&")
    history.run(2)
    return history


def test_what_it_says(wbcache, tmp_path, history):
    log, _ = history.save(tmp_path)
    (tmp_path / "out").mkdir()
    before = log.read_bytes()
    page, words, said = write_report(wbcache, tmp_path / "out", log)
    assert log.read_bytes() == before and os.listdir(tmp_path / "out") == ["report.html"]
    assert said.splitlines() == [
        f"'{page}' is the report", "watch: The origin alone is not the volume: keep this log with it."
    ]  # fmt: skip
    info = wbcache("info", log, "--json").json
    generations = info["window"]["generations"]
    for text in (
        str(log), f"covers {generations} moments", "before <b>&", info["volume"], "What was written where and when",
        "Written by clients, by time", "wbcache replay LOG ORIGIN", "All times are UTC",
    ):  # fmt: skip
        assert text in words, text


@pytest.mark.browser
def test_in_a_browser(wbcache, tmp_path, history):
    log, _ = history.save(tmp_path)
    page, _, _ = write_report(wbcache, tmp_path, log)
    light, dark = (screenshot(page, tmp_path / f"{scheme}.png", scheme=scheme) for scheme in (1, DARK))
    assert max(light, key=light.get) == PAGE_LIGHT and max(dark, key=dark.get) == PAGE_DARK
    assert len(light) > 200 and len(dark) > 200
    # On a phone nothing but what scrolls by itself is wider than the screen.
    tall = "document.querySelector('.density').getBoundingClientRect().height > 99"
    assert measured(page, tmp_path, f"[document.documentElement.scrollWidth, {tall}]", width=390) == "390,true"


def nothing_written(history):
    history.__init__("nothing", commits=0)


def drained(history):
    history.run(1, drained_at=(0,))


def batch_under_way(history):
    history.begin_batch(history.segments()[2].end_lsn)


def only_a_trim(history):
    history.__init__("trim", commits=0)
    history.run_requests(("trim", 5, 1))


def many_tags(history):
    for number in range(25):
        history.tag(f"{'<&x>' * min(number, 12)}t{number}")


@pytest.mark.parametrize("change", [nothing_written, drained, batch_under_way, only_a_trim, many_tags])
def test_sound_logs_of_all_kinds(wbcache, tmp_path, history, change):
    change(history)
    log, _ = history.save(tmp_path)
    _, words, said = write_report(wbcache, tmp_path, log)
    assert "moments" in words
    if change is drained:
        assert "Nothing needs attention" in words and "watch" not in said
    if change is batch_under_way:
        assert "perhaps with parts of a later batch over it" in words


def hole(history):
    history.damage_descriptor(history.segments()[1])


def no_superblocks(history):
    history.damage_superblocks()


def foreign(history):
    history.log[:] = b"<script>" * (len(history.log) // 8)


def cut_short(history):
    del history.log[100_000:]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (hole, "is damaged at LSN"), (no_superblocks, "both superblocks of log"), (foreign, "is not a wbcache log"),
        (cut_short, "it has been cut short"),
    ],
)  # fmt: skip
def test_a_log_that_is_refused(wbcache, tmp_path, history, damage, problem):
    damage(history)
    log, _ = history.save(tmp_path)
    with unchanged(log):
        _, words, said = write_report(wbcache, tmp_path, log, status=1)
    assert "A server refuses this log" in words and problem in words and "act: A server refuses" in said


@pytest.mark.parametrize("size", [0, 8 << 20])
def test_a_blank_log(wbcache, tmp_path, size):
    log = tmp_path / "log"
    log.write_bytes(bytes(size))
    _, words, said = write_report(wbcache, tmp_path, log)
    assert "The log is blank" in words and said.count("\n") == 1


def test_names_are_only_text(wbcache, tmp_path, history):
    """Of files and of tags: whatever they are, a reader sees them as they are."""
    folder = tmp_path / EVIL.replace("/", "|")
    folder.mkdir()
    log, _ = history.save(folder)
    os.rename(log, folder / "\x1b<i>\udcff")
    page = tmp_path / "page.html"
    assert wbcache("report", folder / "\x1b<i>\udcff", page).status == 0
    words = assert_complete_in_itself(page.read_text())
    assert f"{folder}/\\x1b<i>\\udcff" in words and "before <b>&" in words
    assert "<i>" not in page.read_text()


def test_as_json(wbcache, tmp_path, history):
    log, _ = history.save(tmp_path)
    outcome = wbcache("report", log, tmp_path / "page.html", "--json")
    assert json.loads(outcome.stdout) == {
        "report": str(tmp_path / "page.html"),
        "findings": [
            {
                "urgency": "watch", "what": "The origin alone is not the volume: keep this log with it.",
                "advice": "Start a server, or write it to the origin: wbcache replay LOG ORIGIN.",
            }
        ],
    }  # fmt: skip


def test_files_that_cannot_be_written(wbcache, tmp_path, history):
    log, _ = history.save(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    with unchanged(tmp_path):
        for name, words in (
            (tmp_path / "there.html", "exists already"), (tmp_path / "page.png", "does not end in .html"),
            ("-", "standard output cannot be used"), (tmp_path / "none" / "page.html", "cannot write report"),
        ):  # fmt: skip
            outcome = wbcache("report", log, name)
            assert outcome.status == 2 and words in outcome.stderr and not outcome.stdout


def test_a_log_that_is_not_there(wbcache, tmp_path):
    outcome = wbcache("report", tmp_path / "none", tmp_path / "page.html")
    assert outcome.status == 2 and "No such file" in outcome.stderr
    assert not os.listdir(tmp_path)


def test_many_moments_take_few_bytes(wbcache, tmp_path):
    history = History("many", commits=150, largest=2, pages=100)
    log, _ = history.save(tmp_path)
    page, words, _ = write_report(wbcache, tmp_path, log)
    assert f"covers {len(history.covered())} moments" in words and len(history.covered()) > 120
    assert page.stat().st_size < 100_000
