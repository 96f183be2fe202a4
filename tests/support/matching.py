# SPDX-License-Identifier: BSD-3-Clause
"""Comparisons of whole volumes that say where the first difference is instead of printing megabytes."""

import itertools


def first_difference(found, expected):
    """The lowest index at which two byte strings of the same length differ, or None."""
    assert len(found) == len(expected)
    if found == expected:
        return None
    low, high = 0, len(found)
    while high - low > 1:
        middle = (low + high) // 2
        if found[low:middle] == expected[low:middle]:
            low = middle
        else:
            high = middle
    return low


def same(found, expected, offset=0):
    """Fail unless the two are equal; offset is where in the volume they begin."""
    at = first_difference(found, expected)
    assert at is None, (
        f"first difference at byte {offset + at} (page {(offset + at) >> 12}): "
        f"found {bytes(found[at : at + 16]).hex()}, not {bytes(expected[at : at + 16]).hex()}"
    )


def is_between(found, states):
    """Whether found is one of the states, or one on the way to its successor.

    A request takes its place on the number line page by page, upwards. So what a crash leaves of it is a first part:
    the successor up to some byte, the state before it from there on.
    """
    if found == states[0]:
        return True
    for before, after in itertools.pairwise(states):
        at = first_difference(found, after)
        if at is None or found[at:] == before[at:]:
            return True
    return False
