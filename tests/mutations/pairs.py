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
    Mutation(
        "resize-cuts-off",
        "`wbcache resize` accepts a smaller origin although the log has data for what is beyond its end",
        "tools/resize.py",
        "        if data or cleared:\n",
        "        if False:\n",
        "tests/cli/test_resize.py::test_nothing_is_cut_off",
    ),
    Mutation(
        "resize-takes-any-origin",
        "`wbcache resize` does not look whether a smaller origin is as the log left it",
        "pairing/fingerprint.py",
        "        if min((block + 1) << PAGE_SHIFT, size) <= origin.size\n",
        "        if size <= origin.size\n",
        "tests/cli/test_resize.py::test_an_origin_that_was_changed_too",
    ),
)
