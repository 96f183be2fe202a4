# SPDX-License-Identifier: BSD-3-Clause
"""A server and the process that writes to its origin: killed, stopped, drained, left alone."""

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.support import clients
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import HANG_UP_ERRORS, NbdkitServer
from tests.support.worker_processes import is_running, workers_of

MIB = 1 << 20
PAGE = 4096
SIZE = 16 * MIB
EAGER = {"ring_size": "1M", "destage_delay": "0", "low_watermark": "0", "commit_interval": "10ms"}


def worker_of(server):
    wait_until(lambda: workers_of(server))
    (pid,) = workers_of(server)
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "wbcache-worker")
    return pid


def write_and_flush(server, letter, count=MIB, offset=0):
    with clients.connection(server.uri) as handle:
        handle.pwrite(letter * count, offset)
        handle.flush()


def write_until_destaging(server, origin):
    """The worker is there, and has done something."""
    write_and_flush(server, b"a")
    wait_until(lambda: origin.read_bytes()[:MIB] == b"a" * MIB)
    return worker_of(server)


def test_no_worker_without_writes(pair):
    pair.make_origin(SIZE)
    with pair.serve(**EAGER) as server:
        with clients.connection(server.uri) as handle:
            handle.pread(PAGE, 0)
        time.sleep(0.5)
        assert not workers_of(server)


def test_it_can_be_turned_off(pair):
    origin = pair.make_origin(SIZE)
    with pair.serve(destage_worker="off", **EAGER) as server:
        write_and_flush(server, b"a")
        wait_until(lambda: origin.read_bytes()[:MIB] == b"a" * MIB)
        assert not workers_of(server)


def test_it_has_nothing_open_but_what_it_needs(pair):
    """Above all no client's connection, which would stay open after the server's end."""
    origin = pair.make_origin(SIZE)
    with pair.serve(**EAGER) as server, clients.connection(server.uri):
        pid = write_until_destaging(server, origin)
        found = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        expected = {str(origin), str(pair.log), "/dev/null", str(server.stderr_path)}
        sockets = [name for name in found if name.startswith("socket:")]
        rest = {name for name in found if not name.startswith(("socket:", "/memfd:wbcache-worker"))}
        ring = {name for name in rest if name.startswith("/dev/shm/")}
        assert len(sockets) == len(ring) == 1
        assert rest - ring == expected


def test_a_killed_server_and_its_stopped_worker(pair):
    """The worker does not go on beside the next server: it is dead, whatever state it was in."""
    origin = pair.make_origin(SIZE)
    with pair.serve(tolerate=HANG_UP_ERRORS, check=False, **EAGER) as server:
        worker = write_until_destaging(server, origin)
        os.kill(worker, signal.SIGSTOP)
        write_and_flush(server, b"b")
        # The batch with these waits for a worker that does nothing.
        time.sleep(0.5)
        assert origin.read_bytes()[:MIB] == b"a" * MIB
        server.kill()
        wait_until(lambda: not is_running(worker))
    with pair.serve(**EAGER) as server, clients.connection(server.uri) as handle:
        assert handle.pread(MIB, 0) == b"b" * MIB
        wait_until(lambda: origin.read_bytes()[:MIB] == b"b" * MIB)


def test_a_drain_needs_a_worker_that_the_signal_for_the_server_reached_too(pair):
    """As systemd and terminals send it."""
    origin = pair.make_origin(SIZE)
    settings = EAGER | {"destage_delay": "1h", "low_watermark": "90", "high_watermark": "95"}
    with pair.serve(on_exit="destage", **settings) as server:
        write_and_flush(server, b"a")
        wait_until(lambda: origin.read_bytes()[:MIB] == b"a" * MIB)
        worker = worker_of(server)
        write_and_flush(server, b"b", 8 * MIB)
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGINT)
        server.stop()
        assert "ends" not in server.stderr_text()
        assert not is_running(worker)
    assert origin.read_bytes()[: 8 * MIB] == b"b" * 8 * MIB


def test_a_worker_killed_in_a_drain(pair):
    origin = pair.make_origin(64 * MIB)
    settings = EAGER | {"log_size": "64M", "destage_delay": "1h", "low_watermark": "90", "high_watermark": "95"}
    with pair.serve(on_exit="destage", tolerate=["the batch is repeated"], **settings) as server:
        write_and_flush(server, b"b", 24 * MIB)
        server.terminate()
        with contextlib.suppress(ProcessLookupError):
            wait_until(lambda: workers_of(server) or not server.running)
            for worker in workers_of(server):
                os.kill(worker, signal.SIGKILL)
        server.wait()
        assert "the batch is repeated" in server.stderr_text()
    assert origin.read_bytes()[: 24 * MIB] == b"b" * 24 * MIB


def test_a_second_server_is_refused_while_the_worker_lives(pair, folder):
    origin = pair.make_origin(SIZE)
    with pair.serve(**EAGER) as server:
        write_until_destaging(server, origin)
        other = NbdkitServer(folder, ["python", pair.plugin, f"origin={origin}", f"log={pair.log}"], wait=False)
        other.wait()
        assert other.status == 1
        assert "is in use by another wbcache server" in other.stderr_text()
