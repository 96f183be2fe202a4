# SPDX-License-Identifier: BSD-3-Clause
"""The list of mutations fits the core as it is; run.py shows that each is noticed."""

import re

import pytest

from tests.mutations.mutations import MUTATIONS
from tests.support.clients import REPOSITORY


def test_names_are_unique():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_reliability_lists_them():
    page = (REPOSITORY / "docs/reliability.md").read_text()
    listed = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", page, re.MULTILINE)
    assert sorted(listed) == sorted((mutation.name, mutation.what) for mutation in MUTATIONS)
    assert f"| deliberate bugs in the core | {len(MUTATIONS)} |" in page


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_applies(mutation):
    """The text to change is there once, the mutant is another and compiles, and the test that notices it exists."""
    source = (REPOSITORY / "wbcache_core" / mutation.file).read_text()
    assert source.count(mutation.text) == 1
    assert mutation.mutant != mutation.text
    compile(source.replace(mutation.text, mutation.mutant), mutation.file, "exec")
    assert (REPOSITORY / mutation.noticed_by.partition("::")[0]).exists()
