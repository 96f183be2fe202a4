# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache report` about a server that works: in a headless browser, and what it says when something is wrong."""

import json

import pytest

from tests.support import clients
from tests.support.browser import assert_complete_in_itself, measured, screenshot
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from wbcache_core.server.series import FIELDS
from wbcache_core.tools.report import server_report
from wbcache_core.tools.report.server_report import ask_all, server_page

MIB = 1 << 20
PAGE = 4096
NAME = "<img src=x onerror=alert(1)>&'\"disk"
LARGE = "[...document.querySelectorAll('path.line')].filter(one => one.getBoundingClientRect().width > 200).length]"
PAGE_LIGHT = (246, 247, 249)


@pytest.fixture
def server(pair, folder, control):
    pair.origin = folder / NAME
    pair.make_origin(64 * MIB)
    with pair.serve(control=control, history="1h", commit_interval="50ms") as server:
        yield server


def work(server, rounds=40):
    with clients.connection(server.uri) as handle:
        for number in range(rounds):
            handle.pwrite(bytes([number + 1]) * 16 * PAGE, number % 30 * MIB)
            handle.pread(PAGE, number % 30 * MIB)
            handle.pread(PAGE, (number % 30 + 31) * MIB)
            handle.flush()
        handle.trim(MIB, 0)


def samples(control):
    found = ask(control, "series")
    assert found["ok"] and found["fields"] == list(FIELDS)
    return [dict(zip(FIELDS, sample, strict=True)) for sample in found["samples"]]


def test_the_series_of_a_server(server, control):
    work(server)
    wait_until(lambda: len(samples(control)) > 2)
    found = samples(control)
    assert found[0]["writes"] == 0 and found[0]["seconds"] <= found[1]["seconds"]
    last = found[-1]
    assert (last["writes"], last["write_bytes"], last["flushes"]) == (40, 40 * 16 * PAGE, 40)
    assert (last["reads_ring"], last["reads_origin"], last["clears"]) == (40, 40, 1)
    assert last["log_bytes"] >= last["dirty_bytes"] >= 40 * 16 * PAGE
    assert any(one["slowest_flushes"] for one in found)
    counters = ask(control, "status")["counters"]
    assert last["read_bytes"] == counters["read_bytes"] and last["commits"] == sum(counters["commits"]["counts"])


@pytest.mark.browser
def test_in_a_browser(server, control, folder):
    work(server)
    assert ask(control, "tag", name="<script>alert(2)</script>".replace("/", "|"))["ok"]
    assert wbcache("set", control, "destage-depth=9")[0] == 0
    wait_until(lambda: len(samples(control)) > 2)
    page = folder / "report.html"
    status, said, errors = wbcache("report", control, page)
    assert (status, said, errors) == (0, f"'{page}' is the report\n", "")
    words = assert_complete_in_itself(page.read_text())
    for text in (
        NAME, "<script>alert(2)<|script>", "Nothing needs attention", "What the log holds", "Flushes: 40 timed",
        "Over the server's life", "destage-depth: 64 \N{RIGHTWARDS ARROW} 9", "Written by clients, by time",
        "What was written where and when",
    ):  # fmt: skip
        assert text in words, text
    colours = screenshot(page, folder / "page.png", height=3000)
    assert colours[PAGE_LIGHT] > 100_000 and len(colours) > 200
    for colour in ((31, 111, 191), (194, 94, 18), (22, 133, 107)):
        assert colours.get(colour, 0) > 100, colour
    # On a phone nothing but what scrolls by itself is wider than the screen. Lines and bars are where they belong.
    found = "[document.documentElement.scrollWidth, document.querySelectorAll('svg').length, " + LARGE
    width, drawn, lines = map(int, measured(page, folder, found, width=390).split(","))
    assert width == 390 and drawn > 12 and lines >= 8


def test_what_needs_attention(server, control, folder):
    work(server, rounds=3)
    assert wbcache("quiesce", control)[0] == 0
    status, said, _ = wbcache("report", control, folder / "page.html", "--json")
    found = json.loads(said)
    assert status == 0 and found["report"] == str(folder / "page.html")
    assert [one["urgency"] for one in found["findings"]] == ["act"]
    assert "The volume is quiesced; 0 requests wait" in found["findings"][0]["what"]
    assert "wbcache resume lets them go on" in assert_complete_in_itself((folder / "page.html").read_text())
    wbcache("resume", control)


def test_before_anything_has_happened(server, control, folder):
    assert wbcache("report", control, folder / "page.html")[0] == 0
    words = assert_complete_in_itself((folder / "page.html").read_text())
    assert "Nothing yet." in words and "None yet." in words


def test_a_log_that_takes_too_long_to_look_at(server, control, folder, monkeypatch):
    work(server, rounds=3)
    page = server_page(ask_all(str(control)))[0]
    assert "What was written where and when" in page
    monkeypatch.setattr(server_report, "_PATIENCE_SECONDS", -1.0)
    page = server_page(ask_all(str(control)))[0]
    assert "What was written where and when" not in page and "The past that can be opened" in page


def test_a_server_without_a_log(server, control, folder):
    work(server, rounds=3)
    assert wbcache("detach", control, "--force")[0] == 0
    assert wbcache("report", control, folder / "page.html")[0] == 0
    words = assert_complete_in_itself((folder / "page.html").read_text())
    assert "What was written where and when" not in words


def test_the_log_of_a_server(server, pair, folder):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"x" * PAGE, 0)
    status, said, errors = wbcache("report", pair.log, folder / "page.html")
    assert (status, said) == (2, "") and "or name its socket (parameter control=) instead of the log" in errors


def test_there_is_a_file_of_that_name(server, control, folder):
    (folder / "page.html").write_text("mine")
    status, _, errors = wbcache("report", control, folder / "page.html")
    assert status == 2 and "exists already" in errors and (folder / "page.html").read_text() == "mine"
