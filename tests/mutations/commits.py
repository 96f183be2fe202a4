# SPDX-License-Identifier: BSD-3-Clause
"""What stands between a durable write and the cursor; stops and drains."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = ()
