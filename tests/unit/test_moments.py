# SPDX-License-Identifier: BSD-3-Clause
"""WHEN: what may be written, what it means, and what is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core import moments
from wbcache_core.errors import MalformedMomentError, MomentError, OutsideWindowError, TagError
from wbcache_core.generations import Generation, Generations
from wbcache_core.moments import check_tag_name, is_final, parse_when, resolve
from wbcache_core.superblock_format import Tag

S = 10**9
NOW = 1_800_000_000 * S
"""2027-01-15T08:00:00Z."""


def window():
    """Generations 10 to 14, which end at LSN 1000 to 1400, one a minute, the last a minute ago."""
    generations = Generations()
    for number in range(10, 15):
        generations.append(number, 100 * number, NOW - (15 - number) * 60 * S + 123_456_789)
    return generations


TAGS = (Tag("before", 11, 1100, 5), Tag("Überraschung nach 5", 13, 1300, 6))


def meaning(text, now=NOW):
    return resolve(parse_when(text), window(), TAGS, now).number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10", 10), ("014", 14), ("last-flush", 14), ("before", 11), ("Überraschung nach 5", 13),
        ("-0s", 14), ("-59s", 14), ("-60s", 13), ("-90s", 13), ("-1.5m", 13), ("-2m", 12), ("-0.05h", 11),
        ("-0.003d", 10), ("2027-01-15T07:59:01Z", 14), ("2027-01-15T07:59:00Z", 13),
        ("2027-01-15T08:59:00+01:00", 13), ("2027-01-15 07:56:30+00:00", 11),
    ],
)  # fmt: skip
def test_what_it_means(text, number):
    assert meaning(text) == number


def test_a_time_without_zone_is_local(monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    try:
        assert meaning("2027-01-15T10:58:30") == 13
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("generation", window())
def test_a_time_that_was_shown_finds_its_generation_again(generation):
    """Shown to the microsecond, kept in nanoseconds."""
    assert meaning(moments.iso(generation.time_ns)) == generation.number


@pytest.mark.parametrize(
    "text",
    ["9", "15", "0", "-301s", "-1d", "2026-01-01", "2027-01-15T07:55:00Z", "-999999999999d"],
)
def test_outside_the_window(text):
    with pytest.raises(OutsideWindowError, match=f"'{text}' is outside the window; the log covers generation 10 .*14 "):
        meaning(text)


@pytest.mark.parametrize("text", ["2027-01-15T08:00:01Z", "2999-01-01", "9999-12-31T23:59:59Z"])
def test_the_future(text):
    with pytest.raises(OutsideWindowError, match="is in the future; the log covers generation 10"):
        meaning(text)


@pytest.mark.parametrize("text", ["-0s", "last-flush", "14", "2027-01-15T07:59:00.123456Z"])
def test_a_clock_that_was_set_back_does_not_hide_the_newest(text):
    """It is in the window, though the clock says that it is yet to come."""
    assert meaning(text, now=NOW - 3600 * S) == 14
    assert meaning("-60s", now=NOW - 3600 * S) == 13
    with pytest.raises(OutsideWindowError, match="in the future"):
        meaning("2027-01-15T07:59:01Z", now=NOW - 3600 * S)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-", "-5", "-5w", "-5 m", "--5m", "-m", "-1e3s", "-५s", " before", "before ", "a/b", "a\nb", "a\0b",
        "2027-13-01", "2027-01-15T25:00", "2027-01-15Tfoo", "2027-01", "\ud800", "18446744073709551616",
    ],
)  # fmt: skip
def test_malformed(text):
    with pytest.raises(MalformedMomentError):
        parse_when(text)


def test_an_unknown_tag_is_told_with_the_known_ones():
    with pytest.raises(TagError, match=r"no tag 'befor' .tags: 'before', 'Überraschung nach 5'"):
        meaning("befor")


@given(st.text())
def test_any_text_means_something_or_is_refused(text):
    try:
        assert meaning(text) in range(10, 15)
    except MomentError as error:
        assert str(error)


def test_nothing_covered():
    with pytest.raises(OutsideWindowError, match="covers no generation"):
        resolve(parse_when("last-flush"), Generations(), (), NOW)


@pytest.mark.parametrize("name", ["a", "before upgrade", "v1.2", "x@y", "é", "漢" * 21, "3 o'clock", "12a", "@5"])
def test_names_of_tags(name):
    check_tag_name(name)
    assert parse_when(name).tag == name


@pytest.mark.parametrize(
    "name",
    ["", "5", "-5m", "-x", "2027-01-15", "2027-01-15x", "last-flush", "LAST-FLUSH", "a/b", " a", "a ", "a\t", "x" * 65,
     "漢" * 22, "\x7f", "\ud800"],
)  # fmt: skip
def test_what_is_no_name_of_a_tag(name):
    with pytest.raises(TagError):
        check_tag_name(name)


@pytest.mark.parametrize(
    ("text", "final"),
    [("12", True), ("before", True), ("2027-01-15T07:57:30Z", True), ("2027-01-15T07:59:30Z", False), ("-2m", False),
     ("last-flush", False)],
)  # fmt: skip
def test_what_will_mean_the_same_for_ever(text, final):
    when = parse_when(text)
    found = resolve(when, window(), TAGS, NOW)
    assert is_final(when, found, window()) is final
    later = window()
    later.append(15, 1500, NOW + 30 * S)
    if final:
        assert resolve(when, later, TAGS, NOW + 60 * S) == found


def test_describe():
    assert moments.describe(Generation(3, 9, 0)) == "generation 3 (1970-01-01T00:00:00.000000Z)"
