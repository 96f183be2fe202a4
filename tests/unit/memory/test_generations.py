# SPDX-License-Identifier: BSD-3-Clause
"""The packed index of generations, against a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.invariants import check_generations
from wbcache_core.clock import Reading
from wbcache_core.memory.generations import Generation, Generations

STEPS = st.lists(st.tuples(st.integers(1, 9), st.integers(2, 5)), max_size=30)


def made(steps, first=7):
    """An index and the same as a list: each step is (LSNs, ns) after the one before."""
    generations, plain = Generations(), []
    end, time_ns = 100, 10**18
    for number, (lsns, ns) in enumerate(steps, first):
        end, time_ns = end + lsns, time_ns + ns
        generations.append(number, end, Reading(time_ns))
        plain.append(Generation(number, end, time_ns))
    return generations, plain


def last_of(plain):
    return plain[-1] if plain else None


@given(STEPS, st.integers(90, 400), st.integers(-3, 200), st.integers(0, 50), st.integers(90, 400))
def test_look_ups(steps, lsn, ns, number, dropped_below):
    generations, plain = made(steps)
    generations.drop_below(dropped_below)
    plain = [generation for generation in plain if generation.end_lsn >= dropped_below]
    check_generations(generations)
    assert list(generations) == plain and len(generations) == len(plain)
    assert generations.newest == last_of(plain)
    assert generations.oldest == last_of(plain[:1])
    assert generations.numbered(number) == next((one for one in plain if one.number == number), None)
    time_ns = 10**18 + ns
    if plain:
        index = generations.times.at_wall(time_ns, Reading(10**19))
        expected = last_of([one for one in plain if one.time_ns <= time_ns])
        assert (generations.at(index) if index >= 0 else None) == expected
    assert generations.ending_at_or_below(lsn) == last_of([one for one in plain if one.end_lsn <= lsn])
    assert generations.ending_above(lsn) == next((one for one in plain if one.end_lsn > lsn), None)


def test_the_segments_of_a_commit_are_one_generation():
    generations = Generations()
    generations.append(3, 10, Reading(50))
    generations.append(3, 20, Reading(50))
    generations.append(4, 30, Reading(60))
    assert list(generations) == [Generation(3, 20, 50), Generation(4, 30, 60)]


def test_behind_a_gap_only_what_follows_is_kept():
    """No wbcache writes such a log; a check of one must not break down."""
    for number, time_ns in ((9, 70), (2, 70)):
        generations = Generations()
        generations.append(4, 10, Reading(60))
        generations.append(number, 20, Reading(time_ns))
        assert list(generations) == [Generation(number, 20, time_ns)]


def test_numbers_go_on_after_everything_was_dropped():
    generations, _ = made([(1, 1)] * 3)
    generations.drop_below(10**6)
    assert (generations.oldest, generations.newest, len(generations)) == (None, None, 0)
    generations.append(10, 200, Reading(2 * 10**18))
    assert generations.oldest == Generation(10, 200, 2 * 10**18)
