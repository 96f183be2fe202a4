# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 of a server while it carries out what it is asked through its control socket, and of the commands that ask.

WBCACHE_TEST_ROUNDS sets the number of kills for each kind of command.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from tests.support import clients
from tests.support.control import ControlConnection, ask, wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.gated_origin import wait_until
from tests.support.matching import same
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences, sequence_in
from tests.support.stamped_load import load_until

MIB = 1 << 20
ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", 1))
PAGES = 600
LONGEST_S = 0.4
SETTINGS = {"log_size": "16M", "ring_size": "1M"}
NOISE = ["was killed by signal 9", "cannot write to log", "can be written again", "destaging"]


def _change(choose):
    """Parameters that make a difference to what is under way."""
    return {
        "ack": choose.choice(("ram", "log", "origin")), "flush": choose.choice(("log", "origin")),
        "commit-interval": choose.choice(("1ms", "1s")), "destage-delay": choose.choice(("0", "5s")),
        "destage-depth": str(choose.choice((1, 7, 64))), "history": choose.choice(("off", "1h", "2M")),
        "low-watermark": choose.choice(("0", "25")),
    }  # fmt: skip


REQUESTS = {
    "set": lambda choose: [("set", {"values": _change(choose)})],
    "drain": lambda choose: [("drain", {}), ("status", {}), ("drain", {"cancel": choose.random() < 0.7})],
    "quiesce": lambda choose: [("quiesce", {}), ("resume", {})],
    "look": lambda choose: [("status", {}), ("events", {"after": 0}), ("series", {}), ("history", {}), ("get", {})],
}
COMMANDS = {
    "set": ["set", "SOCKET", "ack=origin", "destage-delay=0"], "drain": ["drain", "--wait", "SOCKET"],
    "quiesce": ["quiesce", "SOCKET"], "look": ["events", "--all", "SOCKET"], "top": ["top", "--json", "SOCKET"],
    "metrics": ["metrics", "SOCKET"],
}  # fmt: skip


class Asker(threading.Thread):
    """Asks for the same again and again, until the server is gone."""

    def __init__(self, control, kind, choose):
        super().__init__()
        self._control, self._requests, self._choose = control, REQUESTS[kind], choose
        self.count, self.refused = 0, []
        self.start()

    def run(self):
        with contextlib.suppress(OSError), ControlConnection(self._control) as connection:
            while True:
                for command, fields in self._requests(self._choose):
                    answer = connection.ask(command, **fields)
                    if answer is None:
                        return
                    if not answer["ok"]:
                        self.refused.append(answer["error"])
                    self.count += 1


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_server_is_killed_in_the_middle(pair, folder, seed, kind):
    """What was acknowledged is there with the next server, which knows nothing of what was asked for."""
    choose, control, blocks = random.Random(f"{seed} {kind}"), folder / "c", blocks_of(PAGES)
    pair.make_origin(PAGES * 4096 + 512)
    state, writes = [0] * len(blocks), []
    for number in range(ROUNDS + 1):
        is_last = number == ROUNDS
        on_exit = "destage" if is_last else "commit"
        with pair.serve(control=control, check=is_last, on_exit=on_exit, tolerate=NOISE, **SETTINGS) as server:
            with clients.connection(server.uri) as handle:
                found = read_sequences(handle, blocks)
            check_after_crash(state, writes, found, acknowledged_is_durable=True)
            state = found
            assert all(one["value"] == one["at_start"] for one in ask(control, "get")["settings"])
            assert ask(control, "status")["state"] == "writable" and ask(control, "status")["drain"]["state"] == "off"
            if is_last:
                break
            seconds = choose.uniform(0.01, LONGEST_S)
            askers = []

            def end(server=server, seconds=seconds, askers=askers):
                askers.append(Asker(control, kind, choose))
                wait_until(lambda: askers[0].count > 0)
                time.sleep(seconds)
                server.kill()
                askers[0].join(30)

            writes = load_until(server, end, f"{seed}/{kind}/{number}", (number + 1) << 40, PAGES)
            assert not askers[0].is_alive() and not askers[0].refused, askers[0].refused
            print(f"{kind}: {len(writes)} writes, {askers[0].count} answers, killed after {seconds:.3f} s")
    content = pair.origin.read_bytes()
    assert [sequence_in(block, content[block.offset : block.offset + block.size]) for block in blocks] == state


def test_a_command_is_killed_in_the_middle(pair, folder, seed):
    """The server does not mind, and does what it was asked for, or not."""
    choose, control = random.Random(seed), folder / "c"
    pair.make_origin(8 * MIB)
    with pair.serve(control=control, **SETTINGS) as server, clients.connection(server.uri) as handle:
        for kind, words in COMMANDS.items():
            for _ in range(ROUNDS):
                process = subprocess.Popen(
                    ["/usr/bin/python3", "-m", "wbcache_core", *(str(control) if w == "SOCKET" else w for w in words)],
                    cwd=clients.REPOSITORY, env=dict(clients.environment(), PYTHONDONTWRITEBYTECODE="1"),
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                time.sleep(choose.uniform(0, 0.6))
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert ask(control, "resume")["ok"], kind
                handle.pwrite(kind.encode() * 100, choose.randrange(MIB))
                handle.flush()
                assert ask(control, "drain", cancel=True)["ok"]
        written = handle.pread(2 * MIB, 0)
    with pair.serve(control=control) as server, clients.connection(server.uri) as handle:
        same(handle.pread(2 * MIB, 0), written)


@pytest.mark.parametrize("end", ["heals", "kill"])
def test_the_log_fails_in_the_middle_of_a_drain(pair, folder, end):
    """It goes on when the log can be written again; a server that is killed meanwhile leaves all of it to the next."""
    control, data = folder / "c", random.Random(5).randbytes(2 * MIB)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(faulty_device(folder, "cache.log", 16 * MIB))
        origin = stack.enter_context(faulty_device(folder, "slow", 8 * MIB, delay="20ms"))
        pair.log, pair.origin = log.path, origin.uri
        settings = {"control": control, "destage_delay": "1h", "destage_depth": "1", "origin_settle": "0"}
        with pair.serve(check=False, tolerate=NOISE, **SETTINGS, **settings) as server:
            with clients.connection(server.uri) as handle:
                handle.pwrite(data[:MIB], 0)
                for place in range(MIB, 2 * MIB, 8192):
                    handle.pwrite(data[place : place + 4096], place)
                handle.flush()
            expected = bytearray(data[:MIB] + bytes(MIB))
            for place in range(MIB, 2 * MIB, 8192):
                expected[place : place + 4096] = data[place : place + 4096]
            assert ask(control, "drain")["drain"]["state"] == "draining"
            log.fail("write")
            wait_until(lambda: any(ask(control, "status")["errors"][device] for device in ("log", "origin")))
            assert ask(control, "status")["drain"]["state"] == "draining"
            log.heal()
            if end == "kill":
                server.kill()
            else:
                status, said, _ = wbcache("drain", "--wait", control)
                assert status == 0 and "the origin has everything" in said
        with pair.serve(check=False, on_exit="destage", tolerate=NOISE, origin_settle="0") as server:
            with clients.connection(server.uri) as handle:
                same(handle.pread(2 * MIB, 0), bytes(expected))
        same(origin.backing.read_bytes()[: 2 * MIB], bytes(expected))
