# SPDX-License-Identifier: BSD-3-Clause
"""The thread state pin in a real nbdkit, with a plugin that does nothing else."""

import contextlib
import re
import socket
import subprocess
import threading
import time

import nbd
import pytest

from tests.support.clients import connection, leave
from tests.support.nbdkit_server import HANG_UP_ERRORS, REPOSITORY, NbdkitServer

NULL_PLUGIN = REPOSITORY / "tests" / "support" / "null_plugin.py"
BLOCK = 4096
BLOCKS = 256
DEPTH = 16


@contextlib.contextmanager
def null_server(folder, *options, tolerate=(), **parameters):
    """nbdkit with the null plugin; fails unless it ends with status 0 after SIGTERM."""
    words = [f"{key.replace('_', '-')}={value}" for key, value in parameters.items()]
    server = NbdkitServer(folder, [*options, "python", NULL_PLUGIN, f"size={BLOCKS * BLOCK}", *words])
    try:
        yield server
        if server.running:
            server.stop()
    finally:
        server.destroy()
    server.assert_clean(tolerate)


def in_flight(handle, start, count):
    """Run start(0) .. start(count - 1), each of which begins a request, with up to DEPTH of them at the same time."""
    cookies = set()
    for number in range(count):
        cookies.add(start(number))
        while len(cookies) == DEPTH:
            handle.poll(-1)
            cookies = {cookie for cookie in cookies if not handle.aio_command_completed(cookie)}
    while cookies:
        handle.poll(-1)
        cookies = {cookie for cookie in cookies if not handle.aio_command_completed(cookie)}


def read_blocks(handle, count):
    buffer = nbd.Buffer(BLOCK)
    in_flight(handle, lambda number: handle.aio_pread(buffer, number % BLOCKS * BLOCK), count)


def write_and_verify(handle, first, count, fill):
    """Write blocks first .. first + count - 1 and read them back."""
    data = nbd.Buffer.from_bytearray(bytearray([fill]) * BLOCK)
    in_flight(handle, lambda number: handle.aio_pwrite(data, (first + number) * BLOCK), count)
    assert handle.pread(count * BLOCK, first * BLOCK) == bytes([fill]) * count * BLOCK


def memory_kib_and_threads(pid):
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]), int(fields["Threads"])


def wait_for_thread_count(pid, count):
    deadline = time.monotonic() + 10
    while memory_kib_and_threads(pid)[1] != count:
        assert time.monotonic() < deadline, memory_kib_and_threads(pid)
        time.sleep(0.005)


def states_used(folder, requests, threads, **parameters):
    """How many thread states served so many reads of one connection."""
    with null_server(folder, "-v", "-t", threads, count="on", **parameters) as server:
        with connection(server.uri) as handle:
            read_blocks(handle, requests)
        wait_for_thread_count(server.pid, 1)
    served, states = map(int, re.search(r"null: (\d+) requests, (\d+) thread states", server.stderr_text()).groups())
    assert served == requests
    return states


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_pinned_threads_keep_one_state_each(folder, threads):
    assert 1 <= states_used(folder, 200, threads, pin="on") <= threads


@pytest.mark.parametrize("threads", [1, 4])
def test_without_the_pin_each_request_gets_a_state(folder, threads):
    """If this fails, nbdkit or Python has changed and the pin may have become needless."""
    assert states_used(folder, 200, threads, pin="off") == 200


@pytest.mark.parametrize(("threads", "connections"), [(1, 400), (4, 200), (16, 100)])
def test_memory_and_thread_count_stay_flat(folder, threads, connections):
    """Without the undoing each connection costs 4 KiB and more for each thread that served it."""
    with null_server(folder, "-t", threads, pin="on", slow_reads=0.0005) as server:
        for number in range(50 + connections):
            with connection(server.uri) as handle:
                read_blocks(handle, 2 * threads)
            if number == 50:
                before_kib, _ = memory_kib_and_threads(server.pid)
        wait_for_thread_count(server.pid, 1)
        after_kib, _ = memory_kib_and_threads(server.pid)
    assert after_kib - before_kib < 400


def test_connections_that_overlap(folder):
    """Close runs beside open and beside the requests of other connections."""
    rounds, clients = 10, 6
    errors = []

    def client(number):
        try:
            for turn in range(rounds):
                with connection(server.uri) as handle:
                    write_and_verify(handle, number * 32, 32, 1 + (number + turn) % 255)
        except Exception as error:
            errors.append(error)
            raise

    with null_server(folder, pin="on") as server:
        workers = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not errors
        wait_for_thread_count(server.pid, 1)


@pytest.mark.parametrize("serialize", ["connections", "all-requests", "requests"])
def test_models_that_serve_requests_in_the_thread_that_closes(folder, serialize):
    with null_server(folder, "--filter=noparallel", pin="on", serialize=serialize) as server:
        for fill in range(1, 30):
            with connection(server.uri) as handle:
                write_and_verify(handle, fill, 20, fill)


def test_retry_filter_closes_and_reopens_in_the_thread_that_serves(folder):
    trigger = folder / "fail"
    options = ["-v", "--filter=retry", "--filter=error"]
    parameters = {"retry_delay": 1, "error_pread_rate": 1, "error_pread_file": trigger}
    with null_server(folder, *options, tolerate=["error"], pin="on", **parameters) as server:
        with connection(server.uri) as handle:
            write_and_verify(handle, 0, 20, 1)
            trigger.touch()
            threading.Timer(0.3, trigger.unlink).start()
            write_and_verify(handle, 0, 20, 2)
        wait_for_thread_count(server.pid, 1)
    assert "reopens needed: 1" in server.stderr_text()


@pytest.mark.parametrize("filter_name", ["readahead", "scan"])
def test_filters_with_threads_of_their_own(folder, filter_name):
    with null_server(folder, f"--filter={filter_name}", pin="on") as server:
        for fill in range(1, 40):
            with connection(server.uri) as handle:
                write_and_verify(handle, 0, 20, fill)
        wait_for_thread_count(server.pid, 1)


@pytest.mark.parametrize("threads", [1, 16])
def test_one_connection_on_standard_input(threads):
    """nbdkit -s serves the connection in its main thread, whose state Python itself owns."""
    ours, theirs = socket.socketpair()
    command = ["nbdkit", "-s", "--exit-with-parent", "-t", str(threads), "python", str(NULL_PLUGIN), "pin=on"]
    server = subprocess.Popen(command, stdin=theirs, stdout=theirs)
    theirs.close()
    try:
        handle = nbd.NBD()
        handle.connect_socket(ours.detach())
        write_and_verify(handle, 0, 64, 7)
        handle.shutdown()
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("serialize", [False, True])
def test_sigterm_while_pinned_connections_are_open(folder, serialize):
    """nbdkit waits for the clients to leave, calls close for none of them, and ends Python with the pins in place."""
    options = ["--filter=noparallel"] if serialize else []
    with null_server(folder, *options, pin="on", tolerate=HANG_UP_ERRORS) as server:
        handles = [nbd.NBD() for _ in range(4)]
        for handle in handles:
            handle.connect_uri(server.uri)
            write_and_verify(handle, 0, 20, 9)
        server.terminate()
        for handle in handles:
            leave(handle)
        server.wait()


def test_sigterm_under_load(folder):
    """One request at a time on each connection: nbdkit before 1.36 can abort itself with more at a hang-up."""

    def load():
        handle = nbd.NBD()
        handle.connect_uri(server.uri)
        with contextlib.suppress(nbd.Error):
            while True:
                handle.pread(BLOCK, 0)

    with null_server(folder, pin="on", tolerate=HANG_UP_ERRORS) as server:
        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(0.2)
        server.stop()
        for client in clients:
            client.join()
