# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache detach` and `wbcache attach` under real clients, and kill -9 at any moment of them.

WBCACHE_TEST_ROUNDS sets the number of kills.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import threading
import time

import pytest

from tests.support import clients
from tests.support.checker import check_pair
from tests.support.control import ControlConnection, ask, wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import HANG_UP_ERRORS
from tests.support.stamped_blocks import blocks_of, check_after_crash, mark_flushed, read_sequences
from tests.support.stamped_client import StampedClient

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
KILLS = int(os.environ.get("WBCACHE_TEST_ROUNDS", 6))
CLIENTS, PAGES = 2, 400
QUIET = {"commit_interval": "1h", "destage_delay": "1h", "log_size": "16M"}
CHANGED = "has changed since the cache last wrote to it: accepted"
TOLERATED = (
    CHANGED, "there are no past moments", "the snapshot of generation", "formatting log .* anew",
    "discarding what the log holds",
)  # fmt: skip
DETACHED = "no log is attached: writes go to the origin until wbcache attach\n"
LACKS = re.compile(r"lacks data that log '([^']+)'")


@pytest.fixture
def server(pair, control):
    pair.make_origin(SIZE)
    with pair.serve(control=control, check=False, tolerate=TOLERATED, **QUIET) as server:
        yield server


def switch(control, command, **fields):
    """What the command does, without the time that it takes to start."""
    while True:
        answer = ask(control, command, **fields)
        assert answer["ok"], answer
        if answer[command]["state"] != "draining":
            return
        time.sleep(0.01)


def detach(control, **fields):
    switch(control, "detach", **fields)


def attach(control, log, **fields):
    switch(control, "attach", log=str(log), **fields)


def state(control):
    return ask(control, "status")["state"]


def refused(control, command, **fields):
    answer = ask(control, command, **fields)
    assert not answer["ok"], answer
    return answer["error"]


def is_locked(path):
    """Whether a server holds it."""
    return subprocess.run(["flock", "-n", path, "true"], check=False).returncode != 0


def test_there_and_back(pair, server, control, other):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * MIB, 0)
        assert wbcache("detach", control) == (0, DETACHED, "")
        assert pair.origin.read_bytes()[:MIB] == b"a" * MIB
        assert state(control) == "detached" and not is_locked(pair.log) and is_locked(pair.origin)
        assert wbcache("check", pair.log)[0] == 0
        pair.log.unlink()
        handle.pwrite(b"b" * PAGE, 0)
        handle.zero(PAGE, PAGE)
        handle.trim(PAGE + 5, 2 * PAGE)
        handle.pwrite(b"c" * 10, SIZE - 10)
        handle.flush()
        now = b"b" * PAGE + bytes(2 * PAGE + 5) + b"a" * (MIB - 3 * PAGE - 5) + bytes(SIZE - MIB - 10) + b"c" * 10
        assert pair.origin.read_bytes() == now == clients.read_all(handle)
        assert wbcache("attach", control, other, "--log-size", "24M") == (0, f"log '{other}' is attached\n", "")
        assert other.stat().st_size == 24 * MIB and state(control) == "writable"
        handle.pwrite(b"d" * PAGE, 5)
        handle.flush()
        now = now[:5] + b"d" * PAGE + now[5 + PAGE :]
        assert clients.read_all(handle) == now
        assert pair.origin.read_bytes() != now
        # From one log to another: the first one is made anew.
        attach(control, pair.log)
        assert clients.read_all(handle) == now == pair.origin.read_bytes()
        handle.pwrite(b"e" * PAGE, 0)
    server.stop()
    with pair.serve() as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == b"e" * PAGE + now[PAGE:]


def test_every_export(server, control, other):
    """A connection keeps the level that it chose by name."""
    with contextlib.ExitStack() as stack:
        uris = [f"nbd+unix:///{name}?socket={server.socket}" for name in ("", "ack=log", "write-through")]
        handles = [stack.enter_context(clients.connection(uri)) for uri in uris]
        for step in range(3):
            for number, handle in enumerate(handles):
                handle.pwrite(bytes([step * 3 + number + 1]) * PAGE, number * PAGE)
            for handle in handles:
                found = [handle.pread(PAGE, number * PAGE)[0] for number in range(3)]
                assert found == [step * 3 + number + 1 for number in range(3)]
            if step == 0:
                detach(control)
                new = stack.enter_context(clients.connection(uris[1]))
                assert new.pread(1, 0) == b"\x01"
            elif step == 1:
                attach(control, other)
        new.pwrite(b"n", 0)
        cursors = ask(control, "status")["cursors"]
        assert cursors["committed"] == cursors["head"] and cursors["destaged"] < cursors["head"]


def test_under_fio(pair, folder, control, other):
    """It verifies what it reads while logs come, grow and go."""
    pair.make_origin(32 * MIB)
    options = ["rw=randrw", "bsrange=512-64k", "size=32m", "verify=crc32c", "verify_fatal=1", "time_based=1",
               "runtime=60", "fsync=64", "iodepth=16"]  # fmt: skip
    with pair.serve(control=control, log_size="16M", check=False) as server:
        load = clients.start(
            *clients.fio_command(server.uri, *options), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: ask(control, "status")["counters"]["write_count"] > 300)
            sizes = ("16M", "32M", "48M")
            for number, size in enumerate(sizes):
                detach(control)
                log = folder / f"log{number}"
                before = ask(control, "status")["counters"]["write_count"]
                wait_until(lambda before=before: ask(control, "status")["counters"]["write_count"] > before + 100)
                switch(control, "attach", **{"log": str(log), "log-size": size})
                wait_until(lambda: ask(control, "status")["cursors"]["head"] > 500)
            switch(control, "attach", **{"log": str(other), "log-size": "64M"})
            assert load.poll() is None
            load.send_signal(2)
            said, _ = load.communicate(timeout=60)
        finally:
            load.kill()
            load.wait()
    assert "error" not in said.lower().replace("errors", "") and "verify:" not in said, said
    check_pair(other, pair.origin)


class Switcher(threading.Thread):
    """Detaches, and attaches one log or the other, until the server has gone."""

    def __init__(self, control, logs, seed):
        super().__init__()
        self._control, self._logs, self._choose = control, logs, random.Random(seed)
        self.done, self.error = 0, None
        self.start()

    def run(self):
        with contextlib.suppress(OSError, TypeError, json.JSONDecodeError), ControlConnection(self._control) as end:
            while True:
                if self._choose.random() < 0.5:
                    answer = end.ask("detach")
                else:
                    log = str(self._choose.choice(self._logs))
                    answer = end.ask("attach", log=log, format=self._choose.random() < 0.3)
                if not answer["ok"] and "attached already" not in answer["error"]:
                    self.error = answer["error"]
                    return
                self.done += answer["ok"] and answer.popitem()[1]["state"] in ("attached", "detached")


def load_until_killed(server, control, logs, seed, first_sequence, choose):
    """Clients write while logs come and go, until the server is killed; returns their writes."""
    with contextlib.ExitStack() as stack:
        loads = []
        for number in range(CLIENTS):
            load = StampedClient(
                server.uri, seed=f"{seed}/{number}", first_sequence=first_sequence + (number << 32), client=number,
                client_count=CLIENTS, pages=PAGES, flush_share=0.05,
            )  # fmt: skip
            stack.callback(load.destroy)
            loads.append(load)
        for load in loads:
            load.wait_until_writing()
        switcher = Switcher(control, logs, seed)
        time.sleep(choose.uniform(0.01, 0.8))
        server.kill()
        switcher.join()
        assert not switcher.error, switcher.error
        reports = [load.finish() for load in loads]
    writes = [write for written, _ in reports for write in written]
    mark_flushed(writes, max(flush_submitted_ns for _, flush_submitted_ns in reports))
    return writes


def test_killed_at_any_moment(pair, folder, control, other, seed):
    """The log of the command line is the right one, or the start says which one is."""
    choose = random.Random(seed)
    blocks = blocks_of(PAGES)
    pair.make_origin(PAGES * PAGE + 512)
    logs = [pair.log, other]
    named, found, writes = pair.log, [0] * len(blocks), []
    for number in range(KILLS + 1):
        pair.log = named
        try:
            server = pair.start(control=control, log_size="8M", ring_size="1M")
        except AssertionError as error:
            right = LACKS.search(str(error))
            assert right and right[1] != str(named), error
            print(f"round {number}: not {named}")
            pair.log = right[1]
            server = pair.start(control=control, log_size="8M", ring_size="1M")
        with clients.connection(server.uri) as handle:
            before, found = found, read_sequences(handle, blocks)
        check_after_crash(before, writes, found, acknowledged_is_durable=number > 0)
        if number < KILLS:
            writes = load_until_killed(server, control, logs, f"{seed}/{number}", number + 1 << 40, choose)
            named = choose.choice(logs)
            if not os.path.exists(named):
                named = pair.log
    server.stop()
    server.assert_clean((*HANG_UP_ERRORS, CHANGED))


def test_a_start_with_the_old_log(pair, server, control, other):
    """After a detach it is accepted, and adds nothing; after an attach it is refused by name."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"o" * SIZE, 0)
        handle.flush()
        detach(control)
        handle.pwrite(b"n" * SIZE, 0)
    server.kill()
    with pair.serve(control=control, check=False, tolerate=[CHANGED]) as server:
        with clients.connection(server.uri) as handle:
            assert clients.read_all(handle) == b"n" * SIZE
            attach(control, other)
            handle.pwrite(b"m" * PAGE, 0)
        server.kill()
    with pytest.raises(AssertionError, match=re.escape(f"lacks data that log '{other}'")):
        pair.start()
    with pair.serve(log=other, on_exit="destage", check=False) as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == b"m" * PAGE + b"n" * (SIZE - PAGE)
    with pair.serve(check=False, tolerate=[CHANGED]) as server, clients.connection(server.uri) as handle:
        assert clients.read_all(handle) == b"m" * PAGE + b"n" * (SIZE - PAGE)


def test_logs_that_are_refused(pair, folder, server, control, other):
    """With the words of a start, and everything stays as it was."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
        foreign = folder / "foreign"
        foreign.write_bytes(b"precious" * MIB)
        small = folder / "small"
        small.write_bytes(bytes(MIB))
        for attached in (True, False):
            for log, reason in (
                (foreign, "holds data that is not a wbcache log"),
                (small, "a log needs at least"),
                (folder / "none" / "log", "there is no folder"),
                (folder, "is a folder"),
                (pair.origin, "origin and log are the same"),
                *([(pair.log, "is attached already")] if attached else []),
            ):
                assert reason in refused(control, "attach", log=str(log)), log
            status, said, errors = wbcache("attach", control, foreign)
            assert (status, said) == (2, "") and "wbcache attach --format does that" in errors
            assert state(control) == ("writable" if attached else "detached")
            assert ask(control, "status")["drain"]["state"] == "off"
            handle.pwrite(b"a" * PAGE, 0)
            if attached:
                detach(control)
        attach(control, foreign, format=True)
        handle.pwrite(b"b" * PAGE, 0)
        handle.flush()
    server.kill()
    with pair.serve(log=foreign, check=False) as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, 0) == b"b" * PAGE


def test_a_log_with_data(pair, folder, server, control):
    """Of this origin or of another: it is never written over what is newer."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"o" * PAGE, 0)
        handle.flush()
        copy = folder / "copy"
        copy.write_bytes(pair.log.read_bytes())
        detach(control)
        handle.pwrite(b"n" * PAGE, PAGE)
        before = copy.read_bytes()
        errors = refused(control, "attach", log=str(copy))
        assert re.search("different histories|has changed behind|would overwrite what is newer", errors), errors
        assert copy.read_bytes() == before
        attach(control, copy, format=True)
        assert handle.pread(2 * PAGE, 0) == b"o" * PAGE + b"n" * PAGE


def test_past_moments_are_not_given_up_by_accident(pair, server, control, other):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"o" * PAGE, 0)
        ask(control, "tag", name="kept")
        for command, fields in (("detach", {}), ("attach", {"log": str(other)})):
            assert "tag 'kept'" in refused(control, command, **fields)
        ask(control, "untag", name="kept")
        number = newest(control)
        with clients.connection(f"nbd+unix:///@{number}?socket={server.socket}") as past:
            assert past.pread(PAGE, 0) == b"o" * PAGE
            assert "1 open snapshots" in refused(control, "detach")
            assert state(control) == "writable"
            ask(control, "tag", name="also")
            detach(control, force=True)
            handle.pwrite(b"n" * PAGE, 0)
            with pytest.raises(clients.nbd.Error):
                past.pread(PAGE, 0)
            with pytest.raises(clients.nbd.Error), clients.connection(past.get_uri()):
                pass
        assert "there are no moments to tag" in refused(control, "tag", name="more")
        assert "there are no past moments" in refused(control, "resolve", when="last-flush")
        attach(control, pair.log)
        # What the origin is now never had that number.
        assert newest(control) == number + 1
        assert not ask(control, "resolve", when=str(number))["ok"]
        ask(control, "tag", name="again")
        handle.pwrite(b"m" * PAGE, 0)
    server.kill()
    with pair.serve(control=control) as server:
        assert ask(control, "resolve", when="again")["moment"]["generation"] == number + 1
        assert not ask(control, "resolve", when=str(number))["ok"]


def newest(control):
    return ask(control, "status")["window"]["newest"]["generation"]


def test_the_other_commands(server, control, other):
    """What they do without a log."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"o" * PAGE, 0)
        detach(control)
        for command, fields in (("drain", {}), ("drain", {"cancel": True}), ("give-up", {"offset": 0, "length": 1})):
            assert "no log is attached, everything is on the origin" in refused(control, command, **fields)
        status, said, _ = wbcache("status", control)
        assert status == 0 and "detached" in said and "none; wbcache attach" in said
        assert "no log is attached" in wbcache("top", "--once", "--seconds", "0.1", control)[1]
        assert 'wbcache_state{state="detached"' in wbcache("metrics", control)[1]
        assert ask(control, "history")["window"] is None
        ask(control, "set", values={"ack": "log"})
        wait_until(lambda: "detached" in [one.get("state") for one in ask(control, "events", after=0)["events"]])
        ask(control, "quiesce")
        assert "quiesced" in refused(control, "attach", log=str(other))
        cookie = handle.aio_pwrite(bytearray(b"w" * PAGE), 0)
        wait_until(lambda: handle.poll(1) >= 0 and ask(control, "status")["quiesce"]["waiting"] == 1)
        assert not handle.aio_command_completed(cookie)
        ask(control, "resume")
        while not handle.aio_command_completed(cookie):
            assert handle.poll(10_000) == 1
        attach(control, other)
        assert ask(control, "get")["settings"][0] == {"name": "ack", "value": "log", "at_start": "ram"}
        ask(control, "quiesce")
        assert "is quiesced" in refused(control, "detach")
        ask(control, "resume")
        cursors = ask(control, "status")["cursors"]
        handle.pwrite(b"x", 0)
        assert ask(control, "status")["cursors"]["committed"] > cursors["committed"]


def test_a_stop_while_detached(pair, control, server):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"o" * PAGE, 0)
        detach(control)
        handle.pwrite(b"n" * PAGE, 0)
    server.stop()
    server.assert_clean()
    assert pair.origin.read_bytes()[:PAGE] == b"n" * PAGE


def test_memory_is_given_back(pair, control, other):
    pair.make_origin(128 * MIB)
    with pair.serve(control=control, log_size="256M", check=False) as server, clients.connection(server.uri) as handle:
        for offset in range(0, 96 * MIB, MIB):
            handle.pwrite(bytes([1 + offset // MIB]) * MIB, offset)
        full = memory(server.pid)
        detach(control)
        assert memory(server.pid) < full - 80 * MIB
        attach(control, other)
        detach(control)


def memory(pid):
    words = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")).split()
    return int(words[1]) << 10


def test_an_nbd_origin(pair, folder, control, other):
    with faulty_device(folder, "remote", SIZE) as origin:
        pair.origin = origin.uri
        with pair.serve(control=control, check=False, **QUIET) as server, clients.connection(server.uri) as handle:
            handle.pwrite(b"a" * MIB, 0)
            detach(control)
            handle.pwrite(b"b" * 10, 5)
            handle.zero(MIB // 2, MIB // 4)
            handle.flush()
            now = b"a" * 5 + b"b" * 10 + b"a" * (MIB // 4 - 15) + bytes(MIB // 2) + b"a" * (MIB // 4)
            assert handle.pread(MIB, 0) == now
            attach(control, other)
            handle.pwrite(b"c", 0)
            handle.flush()
            assert handle.pread(MIB, 0) == b"c" + now[1:]
            detach(control)
            with clients.connection(origin.uri) as direct:
                assert direct.pread(MIB, 0) == b"c" + now[1:]
