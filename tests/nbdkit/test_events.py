# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache events` while a server is slowed, drained, set, quiesced, fails, and ends."""

import contextlib
import json
import queue
import subprocess
import threading

from tests.nbdkit.test_live_drain import slow_origin
from tests.support import clients
from tests.support.clients import REPOSITORY
from tests.support.control import ask, wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.gated_origin import PATIENCE_S

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB


class Follower:
    """The command, and the events that it prints."""

    def __init__(self, control, *options):
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-m", "wbcache_core", "events", *options, str(control)], cwd=REPOSITORY,
            env=dict(clients.environment(), PYTHONDONTWRITEBYTECODE="1"), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._events = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._events.put(json.loads(line))

    def wait_for(self, name, **facts):
        """The next event of that kind; others before it are left out."""
        while True:
            event = self._events.get(timeout=PATIENCE_S)
            if event["event"] == name and facts.items() <= event.items():
                return event

    def end(self):
        """Exit status and what it complained of, when the server has ended."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        return status, self.process.stderr.read()


@contextlib.contextmanager
def following(control, *options):
    follower = Follower(control, *options)
    try:
        yield follower
    finally:
        follower.process.kill()
        follower.process.wait()


def test_from_the_first_client_to_the_stop(pair, control):
    pair.make_origin(SIZE)
    with pair.serve(control=control) as server, following(control, "--all") as follower:
        assert follower.wait_for("state")["state"] == "read-only"
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"x", 0)
            follower.wait_for("state", state="writable")
            assert wbcache("quiesce", control)[0] == 0
            follower.wait_for("state", state="quiesced")
            assert wbcache("resume", control)[0] == 0
            follower.wait_for("state", state="writable")
            assert wbcache("set", control, "ack=log")[0] == 0
            assert follower.wait_for("set")["changed"] == [{"name": "ack", "was": "ram", "is": "log"}]
            wbcache("drain", "--wait", control)
            follower.wait_for("drain", drain="drained")
        ask(control, "events", after=0)
        server.stop()
        status, errors = follower.end()
    # A stop may be over before anybody asks.
    assert (status, errors) == (0, "") or (status == 1 and str(control) in errors)


def test_a_server_that_is_killed(pair, control):
    pair.make_origin(SIZE)
    with pair.serve(control=control) as server, following(control, "--all") as follower:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"x", 0)
            follower.wait_for("state", state="writable")
            server.kill()
        status, errors = follower.end()
    assert status == 1 and "no server listens" in errors


def test_a_log_that_gets_full(pair, folder, control):
    settings = {"log_size": "16M", "ring_size": "1M", "low_watermark": 1, "high_watermark": 5, "lifetime_s": 120}
    with slow_origin(pair, folder, "500ms"), pair.serve(control=control, check=False, **settings) as server:
        with following(control, "--all") as follower, clients.connection(server.uri) as handle:
            for number in range(300):
                handle.pwrite(b"w" * PAGE, 2 * number * PAGE)
            follower.wait_for("throttling-began")
            follower.wait_for("throttling-ended")


def test_an_origin_that_fails_and_works_again(pair, folder, control):
    with faulty_device(folder, "faulty", SIZE) as origin:
        pair.origin = origin.uri
        tolerate = ["cannot write", "Input/output error", "destaging goes on"]
        with pair.serve(control=control, destage_delay="0", check=False, tolerate=tolerate) as server:
            with following(control, "--all") as follower, clients.connection(server.uri) as handle:
                origin.fail("write")
                handle.pwrite(b"w" * PAGE, 0)
                handle.flush()
                assert "Input/output error" in follower.wait_for("origin-failing")["error"]
                origin.heal()
                follower.wait_for("origin-works-again")


def test_tags_that_had_to_go(pair, control):
    pair.make_origin(SIZE)
    settings = {"log_size": "4M", "ring_size": "1M", "destage_delay": "0", "low_watermark": 0}
    with pair.serve(control=control, **settings, tolerate=["is removed: the origin moves on"]) as server:
        with following(control, "--all") as follower, clients.connection(server.uri) as handle:
            handle.pwrite(b"w" * PAGE, 0)
            assert wbcache("tag", control, "kept")[0] == 0
            for number in range(16):
                handle.pwrite(b"w" * MIB, number % 8 * MIB)
            event = follower.wait_for("tag-ended")
            assert event["tag"] == "kept" and event["generation"] >= 1


def test_what_is_not_kept(pair, control):
    pair.make_origin(SIZE)
    with pair.serve(control=control):
        for number in range(210):
            assert ask(control, "set", values={"ack": ("ram", "log")[number % 2]})["ok"]
        answer = ask(control, "events", after=0)
        numbers = [event["number"] for event in answer["events"]]
        assert numbers == list(range(numbers[0], numbers[0] + 200)) and answer["missed"] == numbers[0] - 1
        assert ask(control, "events", after=numbers[-1])["events"] == []
        assert not ask(control, "events")["ok"]
