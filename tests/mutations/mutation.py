# SPDX-License-Identifier: BSD-3-Clause
"""Bugs that the suite has to notice: one change each, of the kind that costs data and that nobody sees at once."""

from typing import NamedTuple

CUTS = "tests/crash/test_power_cuts.py::test_power_cuts[{}]"


class Mutation(NamedTuple):
    """Text of one module of the core that occurs once, and what replaces it."""

    name: str
    what: str
    """What the core then does, for people."""
    file: str
    text: str
    mutant: str
    noticed_by: str
    """Arguments of pytest: the test that is expected to fail, tried first."""
