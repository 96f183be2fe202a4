# SPDX-License-Identifier: BSD-3-Clause
"""Past moments of a disk in use: a file system and a database are, in each, what they were then.

WBCACHE_PAST_SECONDS sets for how long files are changed, a minute unless it says otherwise.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.support import clients, ledger, mounts
from tests.support.nbdkit_server import NbdkitServer

MIB = 1 << 20
FILE_SECONDS = int(os.environ.get("WBCACHE_PAST_SECONDS", "60"))
FILE_STEP_S = 1
SECONDS = 6
"""Of changes to a database; pauses come on top."""
STEP_S, PAUSE_S = 0.5, 3
MOMENTS = 5
SETTINGS = {"history": "1h", "log_size": "256M", "destage_delay": "0", "commit_interval": "100ms"}
MODES = [("delete", "EXTRA"), ("wal", "FULL")]


@contextlib.contextmanager
def mounted_past(server, when, folder, options="ro"):
    """A moment with a file system, mounted as it was after a power cut then; (description, folder).

    Its journal is replayed into a copy-on-write layer. That has one connection to the moment, whatever its clients do.
    """
    folder = folder / "past"
    folder.mkdir(exist_ok=True)
    command = ("/usr/bin/python3", "-B", "-m", "wbcache_core", "resolve", folder.parent / "control", when)
    export = clients.run(*command, folder=clients.REPOSITORY).strip()
    uri = f"nbd+unix:///{export}?socket={server.socket}"
    layer = NbdkitServer(folder, ["--filter=cow", "nbd", f"uri={uri}", "shared=true"])
    try:
        description = clients.nbdinfo(layer.uri)["description"]
        with mounts.fuse_file(layer.uri, folder) as file, mounts.loop_device(file) as device:
            with mounts.mounted(device, folder, options) as target:
                yield description, target
            clients.run("e2fsck", "-f", "-n", device)
        layer.stop()
    finally:
        layer.destroy()


@contextlib.contextmanager
def live_file_system(pair, folder):
    """(server, folder) of a new ext4."""
    pair.make_origin(96 * MIB)
    with pair.serve(**SETTINGS, control=folder / "control") as server, contextlib.ExitStack() as stack:
        file = stack.enter_context(mounts.fuse_file(server.uri, folder))
        device = stack.enter_context(mounts.loop_device(file))
        clients.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        yield server, stack.enter_context(mounts.mounted(device, folder))


class Files:
    """A few files that change; `states` are (begun, done, content by name): nothing changed from done to the next."""

    def __init__(self, folder):
        self._folder = folder
        self._random = random.Random(1)
        self._content = {}
        self._turn = 0
        self.states = []

    def change(self):
        begun = time.time()
        self._turn += 1
        for _ in range(4):
            name = f"file{self._random.randrange(12)}"
            path = self._folder / name
            kind = self._random.randrange(4)
            if kind == 0 and name in self._content:
                path.unlink()
                del self._content[name]
            elif kind == 1 and name in self._content:
                path.rename(self._folder / f"moved{self._turn}")
                self._content[f"moved{self._turn}"] = self._content.pop(name)
            else:
                data = self._random.randbytes(self._random.choice((10, 5000, 200_000)))
                path.write_bytes(data)
                self._content[name] = data
        clients.run("sync", "--file-system", self._folder)
        self.states.append((begun, time.time(), dict(self._content)))

    @staticmethod
    def found_in(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lost+found"}


def iso(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def test_files_as_they_were(pair, folder):
    with live_file_system(pair, folder) as (server, target):
        files = Files(target)
        pauses = []
        end = time.monotonic() + FILE_SECONDS
        while time.monotonic() < end:
            files.change()
            # One near the beginning, one about half the time ago.
            if len(files.states) in (4, FILE_SECONDS // 2):
                pauses.append(len(files.states) - 1)
                time.sleep(PAUSE_S)
            time.sleep(FILE_STEP_S)
        assert pauses
        for number in pauses:
            check_age(server, folder, files.states, number)
        for number in range(1, len(files.states) - 1, max(len(files.states) // MOMENTS, 1)):
            _, done, content = files.states[number]
            with mounted_past(server, iso(done), folder) as (_, past):
                assert Files.found_in(past) == content
        # The live disk has not noticed.
        assert Files.found_in(target) == files.states[-1][2]


def check_age(server, folder, states, number):
    """A moment given by its age, in the pause after a change."""
    _, done, content = states[number]
    next_begun = states[number + 1][0]
    asked = time.time()
    with mounted_past(server, f"-{asked - done - 0.1:.1f}s", folder) as (description, past):
        opened = re.search(r"\((.*)Z\)", description)[1]
        opened = datetime.fromisoformat(opened).replace(tzinfo=timezone.utc).timestamp()
        # The server counts back from when it opens it, and that takes a moment.
        assert states[number][0] <= opened < next_begun, "this machine was too slow for the pause"
        assert Files.found_in(past) == content


def stopped(writer):
    """Stop the writer of the ledger between two instructions; the number it printed last, or None."""
    os.kill(writer.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{writer.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.005)
    os.set_blocking(writer.stdout.fileno(), False)
    lines = (writer.stdout.read() or b"").split()
    os.set_blocking(writer.stdout.fileno(), True)
    return int(lines[-1]) if lines else None


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(mode))
def test_a_database_at_past_moments(pair, folder, mode):
    """Each moment has exactly the transactions that were committed by then."""
    with live_file_system(pair, folder) as (server, target):
        database = target / "ledger.db"
        ledger.create(database, mode[0])
        words = ["/usr/bin/python3", "-m", "tests.support.ledger", database, *mode]
        writer = clients.start(*words, stdout=subprocess.PIPE, cwd=clients.REPOSITORY, bufsize=0)
        moments = []
        try:
            while len(moments) < MOMENTS:
                line = writer.stdout.readline()
                assert line, f"the writer ended with status {writer.wait()}"
                time.sleep(0.4)
                acknowledged = stopped(writer) or int(line)
                moments.append((iso(time.time()), acknowledged))
                time.sleep(0.1)
                os.kill(writer.pid, signal.SIGCONT)
        finally:
            writer.kill()
            writer.wait()
            writer.stdout.close()
        assert len({acknowledged for _, acknowledged in moments}) == MOMENTS
        for when, acknowledged in moments:
            with mounted_past(server, when, folder, "rw") as (_, past):
                last = ledger.check(past / "ledger.db")
            # It may have been stopped when the last one was committed and its number not printed yet.
            assert acknowledged <= last <= acknowledged + 1, f"{acknowledged} were acknowledged by {when}"
