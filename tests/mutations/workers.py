# SPDX-License-Identifier: BSD-3-Clause
"""The process that writes to the origin, and its server."""

from tests.mutations.mutation import Mutation

MUTATIONS = (
    Mutation(
        "worker-outlives-its-server",
        "what writes to the origin goes on when its server is killed",
        "worker/lifetime.py",
        "_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)",
        "_PR_SET_PDEATHSIG, ctypes.c_ulong(0)",
        "tests/unit/worker/test_process.py::test_it_dies_with_the_thread_that_started_it",
    ),
    Mutation(
        "worker-starts-without-its-server",
        "what writes to the origin does not notice that its server was killed before it could be tied to it",
        "worker/lifetime.py",
        "    if os.getppid() != parent:\n",
        "    if parent < 0:\n",
        "tests/unit/worker/test_process.py::test_a_worker_whose_server_is_gone_at_its_start",
    ),
    Mutation(
        "hand-over-too-early",
        "a worker gets the files, and with them the locks, before it is tied to its server",
        "worker/process.py",
        "            if self._channel.receive() != TIED:\n",
        "            if self._channel is None:\n",
        "tests/unit/worker/test_process.py::test_a_worker_gets_the_files_when_it_cannot_outlive_the_server",
    ),
    Mutation(
        "leave-a-silent-worker-alone",
        "a worker that hangs may go on writing beside the one that replaces it",
        "worker/process.py",
        "        self._process.kill()\n        self.end()\n",
        "        self.has_ended = True\n",
        "tests/model/test_worker.py::test_a_worker_that_hangs_is_ended_before_the_next_one_starts",
    ),
    Mutation(
        "take-any-answer",
        "the answer to an earlier request counts for this one",
        "worker/process.py",
        "        assert answered == number\n",
        "",
        "tests/unit/worker/test_process.py::test_an_answer_to_another_request_is_not_taken",
    ),
    Mutation(
        "worker-without-locks",
        "what writes to an origin without locks may still be dying when the next server starts",
        "worker/launch.py",
        "    if not locked.is_locked:\n",
        "    if False:\n",
        "tests/model/test_worker.py::test_an_origin_without_locks",
    ),
    Mutation(
        "trust-the-ring",
        "what a worker has copied from the ring while its server wrote on counts without a look at its checksums",
        "flow/batch_executor.py",
        "        return None if found[1] else found\n",
        "        return found[0], []\n",
        "tests/model/test_ring_for_worker.py::test_slots_that_were_used_again",
    ),
    Mutation(
        "worker-locks-the-ring",
        "a worker that is still dying keeps the ring of its server locked, and the next one cannot take it over",
        "device/shared_memory.py",
        'os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)',
        "os.dup(self._fd)",
        "tests/unit/worker/test_ring_file.py",
    ),
)
