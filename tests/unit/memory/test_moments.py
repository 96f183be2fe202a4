# SPDX-License-Identifier: BSD-3-Clause
"""WHEN: what may be written, what it means, and what is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.clock import Reading
from wbcache_core.errors import (
    ClockError,
    MalformedMomentError,
    MomentError,
    OutsideWindowError,
    PassingNameError,
    TagError,
)
from wbcache_core.format.superblock import Tag
from wbcache_core.memory import moments
from wbcache_core.memory.generations import Generation, Generations
from wbcache_core.memory.moments import check_tag_name, is_final, parse_when, resolve

S = 10**9
NOW = 1_800_000_000 * S
"""2027-01-15T08:00:00Z."""


def reading(wall_ns, ahead_ns=0, boot=7):
    """In one boot, which was a day ago; with the wall clock so much ahead of what is right."""
    return Reading(wall_ns + ahead_ns, wall_ns - NOW + 86400 * S, boot)


def window():
    """Generations 10 to 14, which end at LSN 1000 to 1400, one a minute, the last a minute ago."""
    generations = Generations()
    for number in range(10, 15):
        generations.append(number, 100 * number, reading(NOW - (15 - number) * 60 * S + 123_456_789))
    return generations


TAGS = (Tag("before", 11, 1100, 5), Tag("Überraschung nach 5", 13, 1300, 6))


def meaning(text, now=NOW):
    return resolve(parse_when(text), window(), TAGS, reading(now)).number


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


@pytest.mark.parametrize("ahead_ns", [-3600 * S, 3600 * S, 87600 * 3600 * S])
def test_ages_do_not_mind_a_clock_that_is_wrong_now(ahead_ns):
    now = reading(NOW, ahead_ns)
    for text, number in (("-0s", 14), ("last-flush", 14), ("14", 14), ("-60s", 13), ("-2m", 12)):
        assert resolve(parse_when(text), window(), TAGS, now).number == number
    with pytest.raises(OutsideWindowError, match="outside the window"):
        resolve(parse_when("-301s"), window(), TAGS, now)


def jumped(ahead_ns):
    """The window, one generation more with the clock wrong, and one when it was right again."""
    generations = window()
    generations.append(15, 1500, reading(NOW + 60 * S, ahead_ns))
    generations.append(16, 1600, reading(NOW + 120 * S))
    return generations


@pytest.mark.parametrize("ahead_ns", [-3600 * S, 3600 * S, 87600 * 3600 * S])
def test_one_commit_with_a_clock_that_was_wrong(ahead_ns):
    generations, now = jumped(ahead_ns), reading(NOW + 180 * S)
    for text, number in (("-1s", 16), ("-61s", 15), ("-2m", 15), ("-121s", 14), ("-4m", 13)):
        assert resolve(parse_when(text), generations, TAGS, now).number == number
    assert generations.kept_for(100 * S, now).number == 15
    assert resolve(parse_when("2027-01-15T08:02:30Z"), generations, TAGS, now).number == 16


def test_a_time_that_came_twice_names_the_clock():
    generations, now = window(), reading(NOW + 180 * S, -150 * S)
    generations.append(15, 1500, reading(NOW + 60 * S, -150 * S))
    with pytest.raises(ClockError, match=r"back by 2.5 m between generation 14 and 15; .* generation 13 .* or .*15"):
        resolve(parse_when("2027-01-15T07:58:40Z"), generations, TAGS, now)


def test_an_age_before_this_boot_goes_by_the_wall_clock_where_that_agrees():
    generations = window()
    now = Reading(NOW + 3600 * S, 60 * S, 8)
    assert resolve(parse_when("-62m"), generations, TAGS, now).number == 12
    generations.append(15, 1500, Reading(NOW + 87600 * 3600 * S, 50 * S, 8))
    assert resolve(parse_when("-5s"), generations, TAGS, now).number == 15
    with pytest.raises(ClockError, match=r"the clock was set back by .* after generation 15; name a generation"):
        resolve(parse_when("-62m"), generations, TAGS, now)


@pytest.mark.parametrize(
    ("text", "told"), [("2026-03-29T02:30", "does not exist"), ("2026-10-25T02:30", "occurs twice"),
                       ("2026-10-25T02:30:00.5", "occurs twice")],
)  # fmt: skip
def test_local_times_that_do_not_exist_or_exist_twice(monkeypatch, text, told):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        with pytest.raises(MalformedMomentError, match=rf"local time '{text}' {told}.*give it with a zone"):
            parse_when(text)
        assert parse_when(text + "+01:00").time_ns and parse_when(text + "Z").time_ns
        assert moments.iso(parse_when("2026-10-25T03:30").time_ns) == "2026-10-25T02:30:00.000000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


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
        resolve(parse_when("last-flush"), Generations(), (), reading(NOW))


@pytest.mark.parametrize("name", ["a", "before upgrade", "v1.2", "x@y", "é", "漢" * 21, "3 o'clock", "12a", "@5"])
def test_names_of_tags(name):
    check_tag_name(name)
    assert parse_when(name).tag == name


@pytest.mark.parametrize(
    "name",
    ["", "5", "-5m", "-x", "2027-01-15", "2027-01-15x", "last-flush", "LAST-FLUSH", "a/b", " a", "a ", "a\t", "x" * 65,
     "a..b", "5..9", "wait...", "漢" * 22, "\x7f", "\ud800"],
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
    found = resolve(when, window(), TAGS, reading(NOW))
    assert is_final(when, found, window().newest) is final
    later = window()
    later.append(15, 1500, reading(NOW + 30 * S))
    if final:
        assert resolve(when, later, TAGS, reading(NOW + 60 * S)) == found


@pytest.mark.parametrize("text", ["-2m", "last-flush", "2027-01-15T07:59:30Z", "12", "2027-01-15T07:57:30Z"])
def test_names_that_pass_are_no_exports(text):
    when = parse_when(text)
    found = resolve(when, window(), TAGS, reading(NOW))
    meant = moments.describe(found)
    if text in ("12", "2027-01-15T07:57:30Z"):
        moments.refuse_passing(text, meant, str(found.number), is_final(when, found, window().newest))
    else:
        with pytest.raises(PassingNameError, match=f"means generation {found.number} .* open '@{found.number}'"):
            moments.refuse_passing(text, meant, str(found.number), is_final(when, found, window().newest))


def test_describe():
    assert moments.describe(Generation(3, 9, 0)) == "generation 3 (1970-01-01T00:00:00.000000Z)"
