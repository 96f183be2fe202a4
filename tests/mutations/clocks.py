# SPDX-License-Identifier: BSD-3-Clause
"""A clock that was wrong; names of moments."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "history-by-wall-clock",
        "history= and ages use the wall clock, which can be set",
        "clock.py",
        "    return later.boot_ns - earlier.boot_ns if is_one_boot else None",
        "    return max(later.wall_ns - earlier.wall_ns, 0) if is_one_boot else None",
        "tests/unit/memory/test_moments.py",
    ),
    Mutation(
        "passing-names-are-exports",
        "an age is exported, so that a copy that reconnects continues with another moment",
        "memory/moments.py",
        "    if not is_final:\n        raise PassingNameError(",
        "    if False:\n        raise PassingNameError(",
        "tests/unit/memory/test_moments.py",
    ),
)
