# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache attach` over a log whose device has failed, under real clients, and kill -9 at any moment of it.

WBCACHE_TEST_ROUNDS sets the number of kills.
"""

import json
import os
import random
import re
import subprocess
import time

import nbd
import pytest

from tests.support import clients
from tests.support.checker import check_pair
from tests.support.control import ask, wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.gated_origin import wait_until
from tests.support.matching import same
from tests.support.nbdkit_server import HANG_UP_ERRORS

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
LOG_BYTES = 16 * MIB
KILLS = int(os.environ.get("WBCACHE_TEST_ROUNDS", 3))
SETTINGS = {"commit_interval": "1h", "destage_delay": "1h", "log_size": "32M"}
NOISE = [
    "cannot write to log", "cannot sync log", "cannot read log", "it is retried", "given up for another", "destaging",
    "stopping", "anew, as asked", "as forced", "accepted; past", *HANG_UP_ERRORS,
]  # fmt: skip
LACKS = re.compile(r"lacks data that log '([^']+)'")


@pytest.fixture
def failing(pair, folder):
    """The device of the pair's log."""
    pair.make_origin(SIZE)
    with faulty_device(folder, "cache.log", LOG_BYTES) as device:
        pair.log = device.path
        yield device


def fail(device, handle):
    """Whoever asks for something durable is told so from now on."""
    device.fail("write")
    with pytest.raises(nbd.Error):
        handle.flush()


def test_it_is_replaced(pair, control, failing, other):
    """The commands, what they say, and what programs are told; the clients keep their connections."""
    with pair.serve(control=control, check=False, tolerate=NOISE, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"a" * MIB, 0)
            handle.flush()
            handle.pwrite(b"b" * PAGE, PAGE)
            handle.trim(PAGE, 2 * PAGE)
            fail(failing, handle)
            assert ask(control, "status")["errors"]["log"]
            handle.pwrite(b"c" * PAGE, SIZE - PAGE)
            before = clients.read_all(handle)
            small = other.with_name("small")
            status, said, errors = wbcache("attach", control, small, "--log-size", "1M")
            assert (status, said) == (2, "") and "a log needs at least" in errors
            assert wbcache("attach", control, other) == (0, f"log '{other}' is attached\n", "")
            same(clients.read_all(handle), before)
            handle.flush()
            facts = ask(control, "status")
            assert facts["state"] == "writable" and facts["errors"]["log"] is None and facts["log"] == str(other)
            assert pair.origin.read_bytes() == bytes(SIZE)
            # Reclaiming the log stalls at the failing one if it comes to that before the other is attached.
            events = [one["event"] for one in ask(control, "events", after=0)["events"]]
            # The state is looked at now and then, also while changes wait.
            of_log = [event for event in events if not event.startswith("origin-") and event != "state"]
            assert of_log[-2:] == ["attached", "log-works-again"], events
            assert subprocess.run(["flock", "-n", failing.path, "true"], check=False).returncode == 0
            handle.pwrite(b"d" * PAGE, 0)
            handle.flush()
        server.kill()
        failing.heal()
    with pytest.raises(AssertionError, match=re.escape(f"lacks data that log '{other}'")):
        pair.start()
    with pair.serve(log=other, on_exit="destage", check=False) as server, clients.connection(server.uri) as handle:
        same(clients.read_all(handle), b"d" * PAGE + before[PAGE:])
    same(pair.origin.read_bytes(), b"d" * PAGE + before[PAGE:])
    check_pair(other, pair.origin)


def test_a_log_that_vanished(pair, control, failing, other):
    """It cannot be read either: what memory has is enough. Detaching needs another log first."""
    with pair.serve(control=control, check=False, tolerate=NOISE, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"a" * MIB, 0)
            handle.flush()
            failing.vanish()
            handle.pwrite(b"b" * PAGE, 0)
            with pytest.raises(nbd.Error):
                handle.flush()
            status, said, _ = wbcache("attach", control, other, "--json")
            assert (status, json.loads(said)["attach"]["state"]) == (0, "attached")
            handle.flush()
            assert wbcache("detach", control)[0] == 0
            same(pair.origin.read_bytes(), b"b" * PAGE + b"a" * (MIB - PAGE) + bytes(SIZE - MIB))


def test_under_fio(pair, folder, control, failing, other):
    """It verifies what it reads, before, meanwhile and afterwards, and sees no error."""
    options = ["rw=randrw", "bsrange=4k-32k", "size=8m", "verify=crc32c", "verify_fatal=1", "time_based=1",
               "runtime=60", "iodepth=8", "rate_iops=600"]  # fmt: skip
    with pair.serve(control=control, check=False, tolerate=NOISE, **SETTINGS) as server:
        load = clients.start(
            *clients.fio_command(server.uri, *options), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

        def written():
            return ask(control, "status")["counters"]["write_count"]

        try:
            wait_until(lambda: written() > 100)
            with clients.connection(server.uri) as handle:
                fail(failing, handle)
                before = written()
                wait_until(lambda: written() > before + 30)
                assert wbcache("attach", control, other)[0] == 0
                before = written()
                wait_until(lambda: written() > before + 200)
                handle.flush()
            assert load.poll() is None
            load.send_signal(2)
            said, _ = load.communicate(timeout=60)
        finally:
            load.kill()
            load.wait()
    assert "error" not in said.lower().replace("errors", "") and "verify:" not in said, said
    check_pair(other, pair.origin)


def is_under_way(control):
    return ask(control, "status")["state"] == "quiesced"


def test_killed_at_any_moment(pair, control, failing, other, seed):
    """Everything that was acknowledged is there, with the log that the start names."""
    choose = random.Random(seed)
    content = bytearray(SIZE)
    for number in range(KILLS):
        # Either log may be left over from the round before, whose content is on the origin.
        forced = {"force": "other-log,discard-log"} if number else {}
        with pair.serve(control=control, check=False, tolerate=NOISE, **SETTINGS, **forced) as server:
            with clients.connection(server.uri) as handle:
                for flushes in (True, False):
                    for _ in range(40):
                        data = choose.randbytes(PAGE * choose.randint(1, 8))
                        at = choose.randrange(SIZE // PAGE - 8) * PAGE
                        handle.pwrite(data, at)
                        content[at : at + len(data)] = data
                    if flushes:
                        handle.flush()
                fail(failing, handle)
                command = subprocess.Popen(
                    ["/usr/bin/python3", "-m", "wbcache_core", "attach", control, other, "--format"],
                    cwd=clients.REPOSITORY, env=dict(clients.environment(), PYTHONDONTWRITEBYTECODE="1"),
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                wait_until(lambda command=command: is_under_way(control) or command.poll() is not None)
                time.sleep(choose.choice((0, choose.uniform(0, 0.05))))
                server.kill()
                command.wait()
        failing.heal()
        right = pair.log
        try:
            server = pair.start(on_exit="destage", **SETTINGS)
        except AssertionError as error:
            right = LACKS.search(str(error))[1]
            server = pair.start(log=right, on_exit="destage", **SETTINGS)
        with clients.connection(server.uri) as handle:
            same(clients.read_all(handle), bytes(content))
        server.stop()
        print(f"round {number}: {right}")
        same(pair.origin.read_bytes(), bytes(content))
