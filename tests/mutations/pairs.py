# SPDX-License-Identifier: BSD-3-Clause
"""Which log belongs to which origin."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "twins-are-one",
        "a dirty log accepts any origin whose samples match, whatever identity it recorded",
        "pairing/pairing.py",
        "    if told and ORIGIN_MOVED not in force:",
        "    if False:",
        "tests/model/test_pair_identity.py",
    ),
    Mutation(
        "forget-dirty-logs",
        "an origin is not marked as lacking what its log holds",
        "server/cache.py",
        "                self._is_marked = self._side.put(self._superblock.uuid, self._config.log, DIRTY)\n",
        "                pass\n",
        "tests/model/test_pair_identity.py",
    ),
)
