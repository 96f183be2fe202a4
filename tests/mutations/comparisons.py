# SPDX-License-Identifier: BSD-3-Clause
"""What changed between two moments, and how long both are held."""

from tests.mutations.mutation import Mutation

_MODEL = "tests/model/test_comparisons.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "changed-block-is-a-hole",
        "the export of what changed says hole for a trim that was the first request after the earlier moment",
        "volume/comparison.py",
        "_AS_BEFORE if entry_lsn(entry) < self._since else _CHANGED",
        "_AS_BEFORE if entry_lsn(entry) <= self._since else _CHANGED",
        _MODEL,
    ),
    Mutation(
        "zeroed-block-is-a-hole",
        "the export of what changed says hole for what was trimmed or zeroed, so that a backup keeps the old data",
        "volume/comparison.py",
        "_AS_BEFORE if entry_lsn(entry) < self._since else _CHANGED",
        "_AS_BEFORE if entry_lsn(entry) < self._since or entry >> 62 else _CHANGED",
        _MODEL,
    ),
    Mutation(
        "changed-block-is-not-listed",
        "the list of what changed lacks a trim that was the first request after the earlier moment",
        "volume/changed_extents.py",
        "if entry_lsn(entry) < since:",
        "if entry_lsn(entry) <= since:",
        _MODEL,
    ),
    Mutation(
        "next-page-of-the-list-begins-late",
        "the list of what changed lacks a block at the beginning of each page but the first",
        "server/diff_pages.py",
        "return found, byte_range(change, comparison.size)[0]",
        "return found, byte_range(change, comparison.size)[0] + 4096",
        _MODEL,
    ),
    Mutation(
        "start-of-a-comparison-is-let-go",
        "the earlier of two moments is not held while an export of what changed is open, so nobody can reconnect",
        "volume/comparison.py",
        "        self._opened = opened\n",
        "        self._opened = opened\n        release(opened)\n",
        _MODEL,
    ),
    Mutation(
        "open-snapshot-is-let-go",
        "a moment that is open is not held, and reads of what destaging has passed give later data",
        "volume/snapshot.py",
        "        self._release = release\n",
        "        self._release = release\n        release(image)\n",
        _MODEL,
    ),
)
