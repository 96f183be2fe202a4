# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache quiesce` and `resume`, and restarts of which clients that connect again notice nothing but a pause.

WBCACHE_TEST_ROUNDS sets the number of restarts.
"""

import contextlib
import json
import os
import random
import subprocess
import time

import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import HANG_UP_ERRORS
from tests.support.reconnecting_client import Address, ReconnectingClient
from tests.support.stamped_blocks import blocks_of

MIB = 1 << 20
PAGE = 4096
ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", 6))
LOAD_S = 60
CLIENTS, PAGES = 3, 300
QUIET = {"commit_interval": "1h", "destage_delay": "1h"}


@pytest.fixture
def server(pair, control):
    pair.make_origin(8 * MIB)
    with pair.serve(control=control, **QUIET) as server:
        yield server


def waiting(control):
    return ask(control, "status")["quiesce"]["waiting"]


def quiesced(control):
    status, said, errors = wbcache("quiesce", control)
    assert (status, errors) == (0, ""), errors
    assert said == "everything acknowledged is in the log; changes wait until wbcache resume, or the next server\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda handle: handle.aio_pwrite(bytearray(b"n" * PAGE), 0),
        lambda handle: handle.aio_pwrite(bytearray(b"n" * 3 * MIB), 5),
        lambda handle: handle.aio_zero(MIB, 0),
        lambda handle: handle.aio_trim(MIB, 0),
    ],
    ids=["a page", "much", "zero", "trim"],
)  # fmt: skip
def test_changes_wait_and_everything_else_goes_on(server, control, change):
    with clients.connection(server.uri) as handle, clients.connection(server.uri) as other:
        handle.pwrite(b"o" * MIB, 0)
        quiesced(control)
        cursors = ask(control, "status")["cursors"]
        assert cursors["head"] == cursors["committed"]
        cookie = change(handle)
        # The data of a large request are sent while it polls.
        wait_until(lambda: handle.poll(1) >= 0 and waiting(control) == 1)
        other.flush()
        assert other.pread(MIB, 0) == b"o" * MIB
        status, said, _ = wbcache("status", control)
        assert status == 0 and ", quiesced\n" in said and "until wbcache resume; 1 are waiting" in said
        handle.poll(100)
        assert not handle.aio_command_completed(cookie)
        status, said, _ = wbcache("resume", "--json", control)
        assert (status, json.loads(said)) == (0, {"quiesce": {"quiesced": False, "waiting": 0}})
        while not handle.aio_command_completed(cookie):
            assert handle.poll(10_000) == 1
        assert other.pread(PAGE, 0) != b"o" * PAGE
        assert waiting(control) == 0


def test_both_may_be_repeated(server, control):
    with clients.connection(server.uri) as handle:
        for _ in range(2):
            quiesced(control)
        for _ in range(2):
            assert wbcache("resume", control) == (0, "requests go on\n", "")
        handle.pwrite(b"x", 0)
    assert ask(control, "status")["state"] == "writable"


def test_nothing_is_only_in_memory_then(pair, folder, control):
    """Not even in memory that outlives the server."""
    pair.make_origin(8 * MIB)
    with pair.serve(control=control, ack="ram", ring_memory="private", **QUIET) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"kept" * 1024, 4 * MIB + 3)
            quiesced(control)
        server.kill()
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, 4 * MIB + 3) == b"kept" * 1024


def test_a_request_that_waits_gets_no_error_at_a_stop(pair, control):
    pair.make_origin(8 * MIB)
    with pair.serve(control=control, tolerate=HANG_UP_ERRORS, **QUIET) as server:
        # The server ends the connection.
        with contextlib.suppress(clients.nbd.Error), clients.connection(server.uri) as handle:
            quiesced(control)
            cookie = handle.aio_pwrite(bytearray(b"n" * PAGE), 0)
            wait_until(lambda: waiting(control) == 1)
            server.terminate()
            with pytest.raises(clients.nbd.Error):
                while not handle.aio_command_completed(cookie):
                    handle.poll(10_000)
            assert not handle.aio_is_ready(), "it was answered"
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, 0) == bytes(PAGE)


def test_before_the_first_client(server, control):
    quiesced(control)
    with clients.connection(server.uri) as handle:
        cookie = handle.aio_pwrite(bytearray(b"n" * PAGE), 0)
        wait_until(lambda: waiting(control) == 1)
        assert wbcache("resume", control)[0] == 0
        while not handle.aio_command_completed(cookie):
            assert handle.poll(10_000) == 1


def restarted(pair, address, choose, control, rounds):
    """Servers that follow each other; yields each while it serves. Some are quiesced before their SIGTERM."""
    for number in range(rounds + 1):
        server = pair.start(control=control, log_size="16M", ring_size=choose.choice(("1M", "4M")))
        address.lead_to(server)
        yield server
        if number < rounds:
            time.sleep(choose.uniform(0.05, 0.5))
            if choose.random() < 0.5:
                quiesced(control)
            server.stop()
            server.assert_clean(HANG_UP_ERRORS)


def test_restarts_under_libnbd(pair, folder, control, seed):
    choose = random.Random(seed)
    pair.make_origin(PAGES * PAGE + 512)
    blocks, address = blocks_of(PAGES), Address(folder)
    servers = restarted(pair, address, choose, control, ROUNDS)
    next(servers)
    loads = [ReconnectingClient(address.uri, blocks[number::CLIENTS], f"{seed}/{number}") for number in range(CLIENTS)]
    for server in servers:
        last = server
        assert not any(load.error for load in loads), [load.error for load in loads]
    for load in loads:
        load.finish()
    assert all(load.reconnects > 1 and load.writes for load in loads)
    last.stop()
    last.assert_clean(HANG_UP_ERRORS)
    pair.check()


def test_restarts_under_qemu_and_fio(pair, folder, control, seed):
    """fio verifies what it wrote through a qemu that connects again by itself, as a guest's disk does."""
    choose = random.Random(seed)
    pair.make_origin(32 * MIB)
    address, front = Address(folder), folder / "front.sock"
    servers = restarted(pair, address, choose, control, ROUNDS)
    next(servers)
    disk = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={address.path},file.reconnect-delay=60"
    qemu = clients.start("qemu-nbd", "--image-opts", "-t", "-e", "8", "-k", front, disk)
    try:
        wait_until(front.exists)
        uri = f"nbd+unix:///?socket={front}"
        job = ["rw=randrw", "bsrange=512-64k", "size=32m", "verify=crc32c", "verify_fatal=1", "time_based=1",
               f"runtime={LOAD_S}", "fsync=64", "norandommap=0"]  # fmt: skip
        fio = clients.start(
            *clients.fio_command(uri, *job), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            for server in servers:
                last = server
                assert fio.poll() is None, fio.stdout.read()
            fio.send_signal(2)
            said, _ = fio.communicate(timeout=LOAD_S)
        finally:
            fio.kill()
            fio.wait()
    finally:
        qemu.terminate()
        qemu.wait()
    assert "error" not in said.lower().replace("errors", "") and "verify:" not in said, said
    last.stop()
    last.assert_clean(HANG_UP_ERRORS)
    pair.check()
