# SPDX-License-Identifier: BSD-3-Clause
"""What the map may forget, and how readers notice."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "forget-trims-too-early",
        "the map forgets trims that the origin does not have yet",
        "flow/sweeper.py",
        "_AT_ONCE, line.oldest, line.destaged)",
        "_AT_ONCE, line.oldest, line.committed)",
        "tests/model/test_memory_given_back.py::test_what_a_tag_holds_back_is_kept",
    ),
    Mutation(
        "forget-without-a-word",
        "readers of the origin do not notice that the map forgot a trim meanwhile",
        "memory/block_map.py",
        "        self.dropped_below = max(self.dropped_below, oldest, clean)\n",
        "        self.dropped_below = max(self.dropped_below, oldest)\n",
        "tests/model/test_traps.py",
    ),
    Mutation(
        "trim-cuts-intervals-short",
        "a trim inside an older one makes the map forget what is behind it",
        "memory/interval_leaf.py",
        "        if end > stop:\n",
        "        if False:\n",
        "tests/unit/memory/test_block_map.py",
    ),
)
