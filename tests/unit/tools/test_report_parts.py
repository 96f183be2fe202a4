# SPDX-License-Identifier: BSD-3-Clause
"""What a report is made of: text that stays text, charts that stay in their frame, and what is said to need attention.
"""

import copy
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.counters import BUCKETS, Counters, Histogram, bucket_seconds
from wbcache_core.tools import scales
from wbcache_core.tools.report.advice import findings
from wbcache_core.tools.report.charts import Line, Part, Span, Step, bar, histogram, over_time
from wbcache_core.tools.report.density import png
from wbcache_core.tools.report.markup import element
from wbcache_core.tools.report.page import ACT, GOOD, WATCH
from wbcache_core.tools.standard_streams import printable

BEGAN = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
SETTINGS = {"destage-delay": "5s", "history": "off"}


class Reader(HTMLParser):
    def __init__(self, document):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_data(self, data):
        self.texts.append(data)


@given(st.text(max_size=40), st.text(max_size=40))
def test_text_stays_text(content, attribute):
    found = Reader(element("p", content, title=attribute))
    assert found.tags == [("p", [("title", printable(attribute))])]
    assert "".join(found.texts) == printable(content)


@given(st.floats(0, 1e18, allow_nan=False), st.booleans())
def test_a_linear_scale(most, in_bytes):
    ticks = scales.linear(most, in_bytes)
    assert ticks[0] == 0 and ticks[-1] >= most * (1 - 1e-9) and 2 <= len(ticks) <= 6
    assert len(set(map(scales.size if in_bytes else str, ticks))) == len(ticks)


@given(st.floats(1e-7, 1e4), st.floats(1, 1e6))
def test_a_logarithmic_scale(least, factor):
    ticks = scales.decades(least, least * factor)
    assert ticks[0] <= least * (1 + 1e-9) and ticks[-1] >= least * factor * (1 - 1e-9) and len(ticks) >= 2


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), st.floats(0.001, 4e8))
def test_times_on_an_axis(start, seconds):
    end = start + timedelta(seconds=seconds)
    ticks = scales.clock_ticks(start, end)
    assert len(ticks) <= 6 and all(start <= moment <= end for moment, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (2.5e-7, "0.25 \N{MICRO SIGN}s"), (1e-6, "1 \N{MICRO SIGN}s"), (0.0025, "2.5 ms"), (1.5, "1.5 s"),
        (90, "1.5 min"), (7200, "2 h"), (200_000, "2.31 d"),
    ],
)  # fmt: skip
def test_durations(seconds, words):
    assert scales.duration(seconds) == words


steps = st.lists(st.tuples(st.floats(0.001, 1e5), st.just(0.0) | st.floats(1e-9, 1e15)), max_size=20)


@given(steps, steps, st.booleans())
def test_lines_stay_in_their_frame(one, two, logarithmic):
    lines, seconds = [], 1.0
    for name, values in (("one", one), ("two", two)):
        at, found = 0.0, []
        for length, value in values:
            found.append(Step(at, at + length, value))
            at += length
        lines.append(Line(name, "blue", found))
        seconds = max(seconds, at)
    drawn = over_time("title", Span(BEGAN, seconds), lines, scales.rate, logarithmic=logarithmic)
    assert "nan" not in drawn and "inf" not in drawn
    for path in re.findall(r' d="([^"]*)"', drawn):
        assert re.fullmatch(r"(M-?[\d.]+ -?[\d.]+|[HV]-?[\d.]+)*", path)
        for place in re.findall(r"[HM](-?[\d.]+)", path):
            assert 65.9 <= float(place) <= 510.1
        for place in re.findall(r"(?:V|M-?[\d.]+ )(-?[\d.]+)", path):
            assert 9.9 <= float(place) <= 166.1
    has_any = any(value > 0 for _, value in one + two)
    assert ("Nothing yet" in drawn) != has_any


@given(st.lists(st.integers(0, 10**12), min_size=BUCKETS + 1, max_size=BUCKETS + 1))
def test_histograms(counts):
    drawn = histogram("title", counts, [("median", 0.5)], "note")
    assert ("None yet" in drawn) != any(counts)
    for tall in re.findall(r'height="([\d.]+)"', drawn):
        assert 0 <= float(tall) <= 156.1


def test_the_bar_of_a_histogram_says_what_it_counts():
    taken = Histogram()
    for nanoseconds in (10, 3000, 3000, 10**11):
        taken.note(nanoseconds)
    drawn = histogram("title", taken.counts, [], "")
    named = re.findall(r"<title>(.*?)</title>", drawn)
    assert named[0] == "1: 0 s to 1.02 \N{MICRO SIGN}s" and "2: 2.05 \N{MICRO SIGN}s to 4.1 \N{MICRO SIGN}s" in named
    assert named[-1] == f"1: longer than {scales.duration(bucket_seconds(BUCKETS - 1))}"


def test_parts_of_nothing_and_of_something():
    assert "Nothing yet" in bar("title", [Part("a", "blue", 0)], scales.size)
    drawn = bar("title", [Part("<a>", "blue", 3), Part("b", "grey", 1)], str)
    assert "&lt;a&gt;" in drawn and "(75%)" in drawn


def test_a_png_is_read_by_others():
    from matplotlib.image import imread

    rows = [[(255, 0, 0, 255), (0, 255, 0, 128)], [(0, 0, 255, 0), (1, 2, 3, 4)], [(9, 9, 9, 255)] * 2]
    found = (imread(BytesIO(png(rows))) * 255).round().astype(int).tolist()
    assert [[tuple(pixel) for pixel in row] for row in found] == rows


def healthy():
    """The answer to status of a server that has nothing to complain of."""
    return {
        "state": "writable", "errors": {"log": None, "origin": None}, "bad_blocks": {"bytes": 0}, "tags": [],
        "snapshots": [], "bytes": {"dirty": 100, "log": 1000}, "dirty_seconds": 3.0, "drain": {"state": "off"},
        "throttling": {"waiting_for_log_space": 0, "active": False}, "quiesce": {"quiesced": False, "waiting": 0},
        "counters": Counters().facts(),
    }  # fmt: skip


def slow_flushes(status):
    status["counters"]["flushes"]["counts"][17] = 1000


def small_writes(status):
    status["counters"] |= {"write_count": 1000, "write_bytes": 512_000, "log_pages": 1200}


def was_throttled(status):
    status["counters"]["throttled"]["seconds"] = 30.0


CASES = [
    (lambda status: status.update(state="failed"), ACT, "failed for good"),
    (lambda status: status["errors"].update(log="no space"), ACT, "Writes to the log fail: no space"),
    (lambda status: status["errors"].update(origin="gone"), ACT, "The origin fails: gone"),
    (lambda status: status.update(state="detached"), WATCH, "No log is attached: writes go to the origin."),
    (lambda status: status["bad_blocks"].update(bytes=8192), ACT, "rejects 8.0 KiB"),
    (lambda status: status["counters"].update(checksum_failures=2), ACT, "2 times a page of the log"),
    (lambda status: status["counters"].update(commit_failures=3), WATCH, "3 commits failed"),
    (lambda status: status["throttling"].update(waiting_for_log_space=4), ACT, "4 requests wait"),
    (lambda status: status["throttling"].update(active=True), WATCH, "slowed at the moment"),
    (lambda status: status["bytes"].update(dirty=900), WATCH, "90% of the log"),
    (lambda status: status.update(dirty_seconds=500.0), WATCH, "has lacked for 8.33 min"),
    (lambda status: status["quiesce"].update(quiesced=True, waiting=7), ACT, "7 requests wait"),
    (lambda status: status.update(drain={"state": "draining", "bytes_left": 4096}), WATCH, "4.0 KiB are left"),
    (was_throttled, WATCH, "slowed for 30 s"), (slow_flushes, WATCH, "One flush in a hundred"),
    (small_writes, WATCH, "9.6 bytes for each byte"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "urgency", "words"), CASES, ids=[words for *_, words in CASES])
def test_what_needs_attention(change, urgency, words):
    assert [one.urgency for one in findings(healthy(), SETTINGS, 1000.0)] == [GOOD]
    status = copy.deepcopy(healthy())
    change(status)
    (found,) = findings(status, SETTINGS, 1000.0)
    assert found.urgency == urgency and words in found.what and found.advice


def test_the_most_urgent_first():
    status = healthy()
    for change, *_ in reversed(CASES):
        change(status)
    order = [one.urgency for one in findings(status, SETTINGS, 1000.0)]
    assert order == sorted(order) and len(order) > 8


def test_old_data_is_no_surprise_where_something_holds_it_back():
    status = healthy() | {"dirty_seconds": 10_000.0}
    for change in ({"tags": [1]}, {"snapshots": [1]}):
        assert [one.urgency for one in findings(status | change, SETTINGS, 1.0)] == [GOOD]
    assert [one.urgency for one in findings(status, SETTINGS | {"history": "1h"}, 1.0)] == [GOOD]
