# SPDX-License-Identifier: BSD-3-Clause
"""An origin that refuses requests or has bad sectors."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = ()
