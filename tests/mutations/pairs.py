# SPDX-License-Identifier: BSD-3-Clause
"""Which log belongs to which origin."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = ()
