# SPDX-License-Identifier: BSD-3-Clause
"""Connections to an NBD origin, and what was under way on one that was lost."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "repeat-before-it-settles",
        "a batch is repeated while requests on a lost connection may still be carried out",
        "device/nbd_device.py",
        "                    self._settles_at = time.monotonic() + self._times.settle\n",
        "                    pass\n",
        "tests/nbdkit/test_lost_requests.py::test_a_write_that_lands_after_its_connection_was_cut",
    ),
    Mutation(
        "trust-a-killed-server",
        "a start does not wait for the requests of the killed server before it",
        "server/cache.py",
        "            self._origin.suspect_requests()\n",
        "            pass\n",
        "tests/nbdkit/test_lost_requests.py::test_a_write_that_lands_after_the_cache_was_killed",
    ),
    Mutation(
        "wait-for-silent-servers",
        "the cache waits without end for a server that has gone silent",
        "device/nbd_connection.py",
        "            raise connection.give_up(now - self._since)\n",
        "            pass\n",
        "tests/nbdkit/test_silent_origin.py::test_all_that_wait_for_a_silent_server_go_on",
    ),
    Mutation(
        "given-up-writes-need-not-settle",
        "writes that a silent server has not answered count as never sent",
        "device/nbd_connection.py",
        "        self.state = State.SILENT\n",
        "        self.state = State.SILENT\n        self.unanswered = 0\n",
        "tests/nbdkit/test_silent_origin.py::test_writes_that_got_no_answer_have_to_settle",
    ),
)
