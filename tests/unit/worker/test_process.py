# SPDX-License-Identifier: BSD-3-Clause
"""What the server makes of a worker's answers, and what a worker does when its server is gone."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.gated_origin import wait_until
from tests.support.watched_workers import is_there
from tests.support.worker_processes import is_running
from wbcache_core.device.file_device import OpenFile
from wbcache_core.device.image_claim import WORKER
from wbcache_core.errors import DeviceError, WorkerLostError
from wbcache_core.units import PAGE_BYTES
from wbcache_core.worker import process
from wbcache_core.worker.channel import Channel, ChannelEndedError, PackedError
from wbcache_core.worker.process import Worker
from wbcache_core.worker.serving import ANSWER, BUG, FAILURE, LOG, TIED, Setup, interpreter_facts, take_setup
from wbcache_core.worker.shared_page import SharedPage, Wanted

READY = (0, (ANSWER, None))


def calm():
    return Wanted(stop=False, calm=True, patient=False, ring_floor=0)


def setup_for(path):
    fd = os.open(path, os.O_RDWR)
    file = OpenFile(str(path), "origin", fd, -1, False, PAGE_BYTES, True, True, False)
    return Setup(interpreter_facts(), file, file, None, 4096, b"u" * 16, 16)


@pytest.fixture
def setup(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE_BYTES))
    made = setup_for(path)
    yield made
    os.close(made.origin.fd)


@pytest.fixture
def worker(setup):
    """A real one."""
    made = Worker(setup, calm, lambda *_: None)
    yield made
    if not made.has_ended:
        made.kill()


@pytest.fixture
def answering(setup, monkeypatch):
    """Starts a Worker whose other end is this test: it has sent these messages in advance."""
    with contextlib.ExitStack() as stack:

        def start(*messages, note=lambda *_: None):
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            for message in (TIED, READY, *messages):
                Channel(theirs).send(message)
            sleeper = subprocess.Popen(["sleep", "60"])
            stack.callback(sleeper.wait)
            stack.callback(sleeper.kill)
            monkeypatch.setattr(Worker, "_spawn", lambda self: (sleeper, ours))
            return Worker(setup, calm, note, silent_seconds=0.5)

        yield start


def test_answers_in_their_order(answering):
    lines = []
    worker = answering(
        (None, (LOG, (30, "a line"))), (1, (ANSWER, "first")), (2, (FAILURE, PackedError(DeviceError("no", 28)))),
        (3, (ANSWER, "third")), note=lambda *line: lines.append(line),
    )  # fmt: skip
    assert worker.ask("load") == "first"
    assert lines == [(30, "a line")]
    with pytest.raises(DeviceError, match="no") as caught:
        worker.ask("write")
    assert caught.value.errno_value == 28
    assert worker.ask("release") == "third"
    assert not worker.has_ended
    worker.kill()


def test_an_answer_to_another_request_is_not_taken(answering):
    worker = answering((1, (ANSWER, "first")), (1, (ANSWER, "first again")))
    assert worker.ask("load") == "first"
    with pytest.raises(AssertionError):
        worker.ask("write")
    assert worker.has_ended


def test_an_internal_error_ends_the_worker(answering):
    worker = answering((1, (BUG, "Traceback ...")))
    with pytest.raises(WorkerLostError, match=r"internal error in the process .* Traceback"):
        worker.ask("write")
    assert worker.has_ended


def test_silence_ends_the_worker(answering):
    worker = answering()
    with pytest.raises(WorkerLostError, match="no sign of life"):
        worker.ask("write")
    assert worker.has_ended


def test_a_real_one_shows_life_and_ends_when_the_server_hangs_up(worker):
    worker.ask("release")
    assert is_there(worker.pid)
    with open(f"/proc/{worker.pid}/comm") as file:
        assert file.read().strip() == WORKER
    with open(f"/proc/{worker.pid}/oom_score_adj") as file, open("/proc/self/oom_score_adj") as own:
        assert int(file.read()) > int(own.read())
    worker.end()
    assert worker._process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_that_are_meant_for_the_server(worker, number):
    """systemd and terminals send them to both, and what the server does about them may need the worker."""
    os.kill(worker.pid, number)
    worker.ask("release")


def test_a_worker_whose_server_is_gone_at_its_start():
    """It does nothing: its parent is not the process that wanted it."""
    ours, theirs = socket.socketpair()
    page = SharedPage.new()
    with ours:
        with theirs:
            words = [sys.executable, process._SCRIPT, str(theirs.fileno()), str(page.fd), "1"]
            child = subprocess.Popen(words, pass_fds=(theirs.fileno(), page.fd))
        ours.shutdown(socket.SHUT_WR)
        child.wait(60)
        assert ours.recv(100) == b""
    page.close()


def test_a_worker_gets_the_files_when_it_cannot_outlive_the_server(setup, tmp_path, monkeypatch):
    """This one never says that it is ready for them, and ends with another status if it gets them."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import socket, sys\n"
        "end = socket.socket(fileno=int(sys.argv[1]))\n"
        "end.settimeout(1.0)\n"
        "try:\n"
        "    socket.recv_fds(end, 1, 8)\n"
        "except TimeoutError:\n"
        "    sys.exit(7)\n"
        "sys.exit(8)\n"
    )
    monkeypatch.setattr(process, "_SCRIPT", str(script))
    with pytest.raises(WorkerLostError, match="ended with status 7"):
        Worker(setup, calm, lambda *_: None)


def test_a_server_that_is_gone_before_it_hands_anything_over():
    ours, theirs = socket.socketpair()

    class Killed(Channel):
        def send(self, message):
            super().send(message)
            ours.close()

    with theirs, pytest.raises(ChannelEndedError):
        take_setup(theirs, Killed(theirs))


def test_it_dies_with_the_thread_that_started_it(tmp_path):
    """Even if it is stopped."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE_BYTES))
    program = (
        "import sys; from tests.unit.worker.test_process import *\n"
        "worker = Worker(setup_for(sys.argv[1]), calm, print)\n"
        "os.kill(worker.pid, signal.SIGSTOP)\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    pid = int(server.stdout.readline())
    time.sleep(0.1)
    assert is_there(pid)
    server.kill()
    server.wait()
    server.stdout.close()
    try:
        wait_until(lambda: not is_running(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
