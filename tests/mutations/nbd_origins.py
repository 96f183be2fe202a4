# SPDX-License-Identifier: BSD-3-Clause
"""Connections to an NBD origin, and what was under way on one that was lost."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = ()
