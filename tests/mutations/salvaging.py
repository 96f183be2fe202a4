# SPDX-License-Identifier: BSD-3-Clause
"""What is saved of a damaged log."""

from tests.mutations.mutation import Mutation

MUTATIONS = (
    Mutation(
        "take-back-what-the-origin-has",
        "salvage leaves out a last commit that the origin has, for a damaged page, and mixes two moments",
        "tools/salvage/plan.py",
        " and not self._has_origin_the_rest(segment, image):",
        ":",
        "tests/cli/test_lost_superblocks.py::test_a_damaged_page_of_the_last_commit_that_the_origin_has",
    ),
    Mutation(
        "salvage-without-asking",
        "salvage leaves out a last commit of which the origin may have a part, without being forced",
        "tools/salvage/plan.py",
        "        if not (ahead or clears):\n",
        "        if ahead or clears:\n",
        "tests/cli/test_lost_superblocks.py::test_a_damaged_last_commit_that_clears_blocks",
    ),
)
