# SPDX-License-Identifier: BSD-3-Clause
"""Connections to an NBD origin, and what was under way on one that was lost."""

from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "repeat-before-it-settles",
        "a batch is repeated while requests on a lost connection may still be carried out",
        "device/nbd_device.py",
        "                    self._settles_at = max(self._settles_at, time.monotonic() + self._times.settle)\n",
        "                    pass\n",
        "tests/nbdkit/test_lost_requests.py::test_a_write_that_lands_after_its_connection_was_cut",
    ),
    Mutation(
        "trust-a-killed-server",
        "a start does not wait for the requests of the killed server before it",
        "server/cache.py",
        "            self._origin.suspect_requests(self._claimed_at)\n",
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
    Mutation(
        "settle-from-too-early",
        "what a killed server has sent need not settle for as long, because the next one connected before its end",
        "server/opening.py",
        "    claimed_at = time.monotonic()\n",
        "    claimed_at = time.monotonic() - 1.0\n",
        "tests/model/test_lifecycle.py::test_what_a_killed_server_has_sent_settles_from_when_its_log_was_free",
    ),
    Mutation(
        "a-killed-worker-leaves-nothing",
        "a batch is repeated while what a killed worker had sent to an NBD origin may still be carried out",
        "worker/worker_executor.py",
        "                    self._direct.suspect_requests(time.monotonic())\n",
        "                    pass\n",
        "tests/nbdkit/test_nbd_worker.py::test_a_killed_worker_and_a_write_that_lands_later",
    ),
    Mutation(
        "a-worker-keeps-to-itself-what-it-abandoned",
        "the server does not learn of writes on a connection that its worker has lost",
        "worker/serving.py",
        "            page.show_settling(executor.settles_at)\n",
        "",
        "tests/nbdkit/test_nbd_worker.py::test_what_a_worker_abandoned_outlives_it",
    ),
    Mutation(
        "ask-before-it-settles",
        "a worker is asked to write while what others have abandoned may still be carried out",
        "worker/worker_executor.py",
        "        self._direct.prepare(depth)\n",
        "",
        "tests/unit/worker/test_worker_executor.py::test_it_is_asked_to_write_when_the_origin_has_settled",
    ),
    Mutation(
        "worker-without-multi-conn",
        "a worker writes to an NBD origin whose other connections need not see what it has flushed",
        "worker/launch.py",
        "isinstance(opened, NbdExport) and not opened.is_multi_conn:",
        "isinstance(opened, NbdExport) and not opened.size:",
        "tests/nbdkit/test_nbd_worker.py::test_no_worker_where_connections_do_not_see_the_same",
    ),
    Mutation(
        "worker-of-another-export",
        "a worker writes to an export that has another size than the one that the server knows",
        "device/nbd_device.py",
        "        device._use(export)\n",
        "        device._use(cls(export.uri, 1, export.times).export)\n",
        "tests/nbdkit/test_nbd_restarts.py::test_another_process_refuses_what_is_not_the_same_export",
    ),
)
