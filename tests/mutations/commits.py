# SPDX-License-Identifier: BSD-3-Clause
"""What stands between a durable write and the cursor; stops and drains."""

from tests.mutations.mutation import CUTS, Mutation

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "commit-behind-a-gap",
        "after an error between the durable write and the table, the next commit continues beyond the gap",
        "flow/committer.py",
        "            fail(line, LogFailedError(_INTERNAL.format(repr(error))))\n            raise\n",
        "            self._unfinished = False\n            raise\n",
        "tests/model/test_no_memory.py::test_a_commit",
    ),
    Mutation(
        "write-behind-half-a-write",
        "after an error between map, segment and head, the next write gets the same LSN",
        "flow/admission.py",
        "    line.writes_ended = True\n    line.limit = line.soft_limit = 0\n",
        "",
        "tests/model/test_no_memory.py::test_a_write",
    ),
    Mutation(
        "undrained-log-is-not-told-of",
        "a stop with `on-exit=destage` that drained nothing, because no client connected, says nothing",
        "server/cache.py",
        "            tell_undrained(line, pair)\n            return False\n",
        "            return True\n",
        "tests/model/test_stop.py::test_a_log_that_no_client_came_to_write_is_told_of",
    ),
    Mutation(
        "one-thread-starts-alone",
        "where the destager's thread cannot be started, the committer keeps running, and the next client gets another",
        "threads.py",
        "        self._may_run = False\n        self._decision.release()\n        for thread in self._threads:\n"
        "            if thread.ident:\n                thread.join()\n",
        "        self._may_run = True\n        self._decision.release()\n",
        "tests/model/test_activation.py::test_a_thread_that_cannot_be_started",
    ),
    Mutation(
        "next-attempt-with-stale-superblocks",
        "an activation after a failed one overwrites the only valid superblock",
        "server/cache.py",
        "            self._log, self._store, self._found, self._line",
        "            self._log, SuperblockStore(self._log, self._pair.slots) if self._pair else self._store,\n"
        "            self._found, self._line",
        "tests/model/test_activation.py::test_a_log_that_fails_twice",
    ),
    Mutation(
        "repeat-at-another-place",
        "a commit whose write failed is written after the position where it failed, which recovery then "
        "mistakes for the end",
        "log/writer.py",
        "        prepared = self._prepared\n        assert prepared\n",
        "        prepared, self._prepared = self._prepared, None\n        assert prepared\n"
        "        self.end = self.end._replace(place=prepared.end.place)\n",
        CUTS.format("log fails at times"),
    ),
    Mutation(
        "sync-again",
        "a failed sync of the log counts as a failed write: it is retried, and the retry is believed",
        "log/log_sync.py",
        "                except Exception as error:\n",
        "                except ArithmeticError as error:\n",
        "tests/model/test_failing_log.py::test_a_failed_sync_is_for_good",
    ),
    Mutation(
        "sync-error-taken-by-another",
        "a commit counts as durable although the sync of a superblock has received its error",
        "log/log_sync.py",
        "                    self._error = SyncFailedError(str(error), value)\n",
        "                    raise SyncFailedError(str(error), value) from None\n",
        "tests/model/test_failing_log.py::test_nobody_takes_the_error_of_a_sync_from_another",
    ),
)
