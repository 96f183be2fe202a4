# SPDX-License-Identifier: BSD-3-Clause
"""A clock that was wrong; names of moments."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = ()
