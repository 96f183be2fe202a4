# SPDX-License-Identifier: BSD-3-Clause
"""The ring that gives memory back while it is read and written."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "ring-takes-back-what-it-gave",
        "a ring that grows again reads pages from memory that it has released",
        "memory/cursors.py",
        "        self.ring_start = self.ring_floor\n",
        "",
        "tests/unit/flow/test_ring_keeper.py",
    ),
    Mutation(
        "release-what-came-round",
        "the slots of pages that the ring no longer keeps are released after the writers have come round to them",
        "flow/ring_keeper.py",
        "                first = max(self.low, line.head - most)\n",
        "                first = self.low\n",
        "tests/unit/flow/test_ring_keeper.py",
    ),
    Mutation(
        "release-what-is-volatile",
        "where memory is short the ring gives up pages that are not in the log yet",
        "flow/ring_keeper.py",
        "max(may_take - self._ahead, line.volatile_pages)",
        "max(may_take - self._ahead, line.volatile_pages - 1)",
        "tests/unit/flow/test_ring_keeper.py",
    ),
    Mutation(
        "release-before-it-is-left-out",
        "slots are released that readers may still use",
        "flow/ring_keeper.py",
        "        self._release(floor)\n",
        "        self._release(floor + 1)\n",
        "tests/unit/flow/test_ring_keeper.py",
    ),
    Mutation(
        "volatile-without-limit",
        "writers may fill the whole ring before anything is committed",
        "memory/cursors.py",
        "        room = min(self.volatile_pages - self.carry_ring,",
        "        room = min(self.ring_pages - self.carry_ring,",
        "tests/unit/flow/test_ring_keeper.py",
    ),
)
