# SPDX-License-Identifier: BSD-3-Clause
"""Workers that a test watches, kills, stops, or replaces by a thread of its own."""

import contextlib
import os
import signal
import socket
import threading

from wbcache_core.errors import WorkerLostError
from wbcache_core.worker import launch, serving
from wbcache_core.worker.channel import Channel
from wbcache_core.worker.process import Worker


def is_there(pid):
    """Whether a process of that number exists, as a zombie at least."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class Workers:
    """`started` are all workers, oldest first. `signals` are sent to the present one, each before the next request of a
    name: a list of (name, signal)."""

    def __init__(self, monkeypatch, silent_seconds=40.0):
        self.started = []
        self.signals = []
        self.asked = []
        workers = self

        class Watched(Worker):
            def __init__(self, *arguments):
                assert not any(is_there(pid) for pid in workers.pids), "two at the same time"
                super().__init__(*arguments, silent_seconds=silent_seconds)
                workers.started.append(self)

            def ask(self, name, *arguments):
                workers.asked.append(name)
                if workers.signals and workers.signals[0][0] == name:
                    os.kill(self.pid, workers.signals.pop(0)[1])
                return super().ask(name, *arguments)

        monkeypatch.setattr(launch, "Worker", Watched)

    @property
    def pids(self):
        return [worker.pid for worker in self.started]

    def kill_present(self):
        """kill -9, whatever it is doing."""
        if self.started and not self.started[-1].has_ended:
            os.kill(self.started[-1].pid, signal.SIGKILL)


def serve_in_a_thread(monkeypatch, origin):
    """The worker's side runs in a thread of this process and writes to a device of the test."""

    class InThread(Worker):
        pid = 0

        def _spawn(self):
            ours, theirs = socket.socketpair()

            def serve():
                channel = Channel(theirs)
                setup = serving.take_setup(theirs, channel)
                executor = serving.executor_for(setup, origin, self._page)
                channel.send((0, (serving.ANSWER, None)))
                serving.serve(channel, self._page, executor, threading.Event())
                for fd in setup.descriptors:
                    os.close(fd)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            return ThreadAsProcess(thread), ours

    monkeypatch.setattr(launch, "Worker", InThread)


class ThreadAsProcess:
    """What Worker needs of subprocess.Popen."""

    def __init__(self, thread):
        self._thread = thread

    def wait(self, seconds=None):
        self._thread.join(seconds)
        return 0

    def kill(self):
        raise WorkerLostError("a thread cannot be killed")
