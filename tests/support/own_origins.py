# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that have a disk each (origins=own), and a look at what is on their disks."""

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.matching import same
from tests.support.nbdkit_server import NbdkitServer
from tests.support.peer_pair import LIMIT_S, ORIGIN_BYTES, PeerPair
from tests.support.stopped import stop_process
from wbcache_core.errors import FormatError
from wbcache_core.format.superblock import SLOT_OFFSETS, decode
from wbcache_core.units import PAGE_BYTES

MIB = 1 << 20
LOG_BYTES = 16 * MIB
PEER = {"flush": "peer", "fua": "peer", "peer_timeout": "2s"}


def garbage(size, seed=1):
    """What nobody has written, or a client."""
    return random.Random(seed).randbytes(size)


class SlowDisk:
    """A file behind an nbdkit of which each write takes `delay`, and what that nbdkit was asked for."""

    def __init__(self, folder, file, delay):
        self._folder, self._file, self._delay = folder, file, delay
        self._story = file.with_suffix(".story")
        self._link = file.with_suffix(".disk")
        self._seen = 0
        self._serve()
        self.uri = f"nbd+unix:///?socket={self._link}"

    def _serve(self):
        words = ["file", self._file, f"wdelay={self._delay}", f"logfile={self._story}", "logappend=true"]
        self._server = NbdkitServer(self._folder, ["--filter=log", "--filter=delay", *words])
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self._server.socket)

    def serve_again(self):
        """If nbdkit has aborted itself because its client was killed."""
        if not self._server.running:
            assert self._server.aborted_at_hang_up(), self._server.describe()
            self._serve()

    def destroy(self):
        self._server.destroy()

    def hold(self):
        """Nothing is answered from now on."""
        stop_process(self._server.pid)

    def go_on(self):
        os.kill(self._server.pid, signal.SIGCONT)

    def forget(self):
        """Leave out what was asked for until now."""
        self._seen = self._story.stat().st_size

    def written(self):
        """Offset and length of each write, in bytes."""
        lines = self._story.read_text()[self._seen :].splitlines()
        writes = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if "Write" in line]
        return [(int(one["offset"], 16), int(one["count"], 16)) for one in writes if "offset" in one]


class OwnOrigins(PeerPair):
    """Two hosts, unless told. `disks` are files, `origins` what origin= says of each: the same, unless a test puts
    something in front of the disk."""

    def __init__(self, folder, count=2):
        super().__init__(folder, count)
        self.disks = [self.folder / f"{number}.img" for number in range(self.count)]
        self.origins = list(self.disks)
        self._slow = {}

    def make_disks(self, *contents):
        """One for each host. A number is that of the bytes of a disk of holes."""
        for disk, content in zip(self.disks, contents, strict=True):
            with open(disk, "wb") as file:
                if isinstance(content, int):
                    file.truncate(content)
                else:
                    file.write(content)

    def standby(self, number, **parameters):
        if number in self._slow:
            self._slow[number].serve_again()
        return super().standby(number, **self._own(number) | parameters)

    def owner(self, number, **parameters):
        """An owner to which a client has connected: without one a log that is blank stays so."""
        server = super().owner(number, **self._own(number) | parameters)
        with clients.connection(server.uri):
            return server

    def single(self, number, **parameters):
        """The only host, yet."""
        settings = {"log": self.logs[number], "control": self.controls[number]}
        return self.pair.start(**self._own(number) | settings | parameters)

    def _own(self, number):
        # Each host has a /dev/shm of its own; these two have the same one.
        return {
            "origins": "own", "origin": self.origins[number], "log_size": LOG_BYTES, "ring_memory": "private",
            "origin_settle": "500ms",
        }  # fmt: skip

    @contextlib.contextmanager
    def slow_disk(self, number, delay):
        """That host has its disk behind a SlowDisk for the length of the `with`."""
        disk = self._slow[number] = SlowDisk(self.folder, self.disks[number], delay)
        self.origins[number] = disk.uri
        try:
            yield disk
        finally:
            self.origins[number] = self.disks[number]
            del self._slow[number]
            disk.destroy()

    def peer_facts(self, number, peer=0):
        """One whose disk is being filled does not count as what may take over."""
        facts = super().peer_facts(number, peer)
        return facts | {"counts": facts["counts"] and not facts["inconsistent"]}

    def status(self, number):
        return ask(self.controls[number], "status")

    def wait_for_status(self, number, condition, limit_s=LIMIT_S):
        """Return the status of the host when condition(status) is true."""
        deadline = time.monotonic() + limit_s
        while not condition(status := self.status(number)):
            assert time.monotonic() < deadline, f"after {limit_s} s: {status}"
            time.sleep(0.01)
        return status

    def wait_until_filled(self, number, limit_s=LIMIT_S):
        """Return the status when the origin of that standby is the volume."""
        return self.wait_for_status(number, lambda status: status["consistent"], limit_s)

    def wait_for_durable_fill(self, number, least):
        """Return the number of blocks that a kill -9 of that standby does not undo, when it is at least `least`."""
        deadline = time.monotonic() + LIMIT_S
        while (blocks := self._noted_fill(number)) < least:
            assert time.monotonic() < deadline, f"only {blocks} blocks are noted: {self.status(number)}"
            time.sleep(0.01)
        return blocks

    def _noted_fill(self, number):
        superblock = self.newest_superblock(number)
        return superblock.fill.filled if superblock else 0

    def newest_superblock(self, number):
        """As it is in the log file of that host; None before the first."""
        found = []
        with open(self.logs[number], "rb") as log:
            for offset in SLOT_OFFSETS:
                log.seek(offset)
                with contextlib.suppress(FormatError):
                    found.append(decode(memoryview(log.read(PAGE_BYTES))))
        return max(found, key=lambda superblock: superblock.sequence, default=None)

    def wait_until_in_order(self, owner):
        """Return when the other host may take over."""
        self.wait_until_filled(1 - owner)
        self.wait_until(owner, lambda facts: facts["state"] == "up-to-date" and facts["counts"])
        self.wait_until_told(1 - owner, "")

    def drain_both(self, owner):
        """Return when both disks have everything."""
        status, _, errors = wbcache("drain", "--wait", self.controls[owner])
        assert status == 0, errors
        head = self.status(owner)["cursors"]["head"]
        self.wait_for_status(1 - owner, lambda status: status["consistent"] and status["cursors"]["destaged"] == head)

    def rules(self, owner):
        """By which rules its peer was connected, in turn."""
        events = ask(self.controls[owner], "events", after=0)["events"]
        return [event["rule"] for event in events if event["event"] == "peer-connected"]

    def check_disks(self, content):
        """Both are that, byte for byte."""
        for disk in self.disks:
            same(disk.read_bytes(), content)


@contextlib.contextmanager
def own_origins(folder, *contents):
    """OwnOrigins with these disks; at the end their servers are killed."""
    contents = contents or (ORIGIN_BYTES, ORIGIN_BYTES)
    hosts = OwnOrigins(folder, len(contents))
    hosts.make_disks(*contents)
    try:
        yield hosts
    finally:
        hosts.pair.destroy()


@contextlib.contextmanager
def written_all_the_time(model, uri):
    """A ModelledVolume whose load runs until the end of the `with`; yields an Event that is set when it has written
    something again after somebody has cleared it."""
    over, has_written = threading.Event(), threading.Event()

    def write():
        while not over.is_set():
            model.run(uri, 64 << 10, largest=16 << 10)
            has_written.set()
            over.wait(0.005)

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(write)
        try:
            yield has_written
        finally:
            over.set()
        load.result()


def volume_at(uri):
    """All that a client reads."""
    with clients.connection(uri) as handle:
        return clients.read_all(handle)
