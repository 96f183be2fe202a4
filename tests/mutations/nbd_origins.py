# SPDX-License-Identifier: BSD-3-Clause
"""Connections to an NBD origin, and what was under way on one that was lost."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "repeat-before-it-settles",
        "a batch is repeated while what was under way on a lost connection may still be carried out",
        "nbd_device.py",
        "                    self._settles_at = time.monotonic() + self._times.settle\n",
        "                    pass\n",
        "tests/nbdkit/test_lost_requests.py::test_a_write_that_lands_after_its_connection_was_cut",
    ),
    Mutation(
        "trust-a-killed-server",
        "a start does not wait for what the killed server before had under way",
        "cache.py",
        "            self._origin.suspect_requests()\n",
        "            pass\n",
        "tests/nbdkit/test_lost_requests.py::test_a_write_that_lands_after_the_cache_was_killed",
    ),
)
