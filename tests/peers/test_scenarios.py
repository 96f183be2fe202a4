# SPDX-License-Identifier: BSD-3-Clause
"""The protocol of peers keeps its invariants, and the search finds what goes wrong without each of its rules."""

import pathlib

import pytest

from tests.peers import gate, own_origins, ownership_rules, standby_log
from tests.peers.scenarios import BROKEN, EXHAUSTIVE, NEEDLESS, NEEDLESS_EXHAUSTIVE, WHOLE
from tests.peers.search import search

RULES = (*standby_log.RULES, *gate.RULES, *own_origins.RULES, *ownership_rules.RULES)
PAGE = pathlib.Path(__file__).parents[2] / "docs/peers-model.md"


@pytest.mark.parametrize("name", WHOLE)
def test_with_all_rules(name):
    result = search(WHOLE[name](), progress=True)
    assert result.complete
    assert result.violation is None, str(result)


@pytest.mark.parametrize("name", BROKEN)
def test_without_a_rule(name):
    model, violation, length = BROKEN[name]
    result = search(model(), progress=True)
    assert result.violation is not None, "nothing goes wrong without it"
    assert result.violation.startswith(violation), str(result)
    assert len(result.trace) == length, str(result)


@pytest.mark.parametrize("name", NEEDLESS)
def test_rules_that_others_make_needless(name):
    result = search(NEEDLESS[name](), progress=True)
    assert result.complete
    assert result.violation is None, str(result)


def test_a_segment_is_written_in_each_lap():
    """Within the bounds that are searched, places are used again more than once."""
    model = WHOLE["laps over two places"]()
    assert model.segments // model.places >= 2


def test_each_rule_is_left_out_somewhere():
    models = [*NEEDLESS.values(), *(model for model, _violation, _length in BROKEN.values())]
    assert {rule for model in models for rule in model().without} == set(RULES)


def test_the_page_names_every_rule_and_scenario():
    page = " ".join(PAGE.read_text().split())
    missing = [
        words for words in (*RULES, *WHOLE, *EXHAUSTIVE, *BROKEN, *NEEDLESS, *NEEDLESS_EXHAUSTIVE) if words not in page
    ]
    assert not missing
