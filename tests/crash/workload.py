# SPDX-License-Identifier: BSD-3-Clause
"""Seeded clients of one cache, everything they do told to the oracle: one session between two power cuts."""

import contextlib
import itertools
import random
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest import mock

from tests.crash.given_up import GiverUp
from tests.crash.oracle import PAGE, SECTOR, SECTORS, content
from tests.crash.snapshot_clients import SnapshotReader, Tagger
from tests.support.abandon import abandon
from tests.support.bulk_writes import BulkWrites
from tests.support.recorded_ring import RingRecorder, place
from tests.support.remote_disk import RemoteDisk
from tests.support.simulated_disk import Journal, MemoryDisk, SimulatedDisk, put
from tests.support.simulated_threads import Simulation
from wbcache_core.device.shared_memory import path_of
from wbcache_core.errors import CommitFailedError, RequestError
from wbcache_core.flow import bad_blocks, origin_writer
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.memory.policy import LOG, ORIGIN
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config

LOG_DISK, ORIGIN_DISK = 0, 1
CUT, STOP, STOP_UNDER_LOAD = "cut", "stop", "stop under load"
LOG_AT_TIMES = "log at times"

_SHARED_PAGES = 2
"""At the beginning of each area, the sectors of a page are dealt out to all clients."""
_HOT_PAGES = 10
_PAUSES = origin_writer._RETRY_PAUSES


@dataclass
class Scenario:
    """What is special about a workload. Times in seconds of simulated time."""

    settings: dict = field(default_factory=dict)
    clients: int = 1
    requests: int = 60
    """Of each client in each session."""
    endings: tuple = (CUT,)
    largest: int = 8
    """Pages of a write at most."""
    pages: int = 256
    area_pages: int = 32
    """Pages in a row of one client where there are several."""
    odd_sectors: int = 0
    """Sectors of the volume behind its last whole page."""
    flush_share: float = 0.12
    fua_share: float = 0.08
    pause: float = 0.01
    """Between the requests of a client, on average."""
    log_latency: float = 0.001
    origin_latency: float = 0.004
    bad_pages: int = 0
    """Of the origin, chosen anew in each session: some become good, and others bad."""
    gives_up: bool = False
    """What is bad is given up now and then."""
    is_remote: bool = False
    """The origin is behind a connection, which is lost at times; some cuts leave its server alive."""
    failing: tuple = ()
    """"origin" fails at times and comes back, "log" fails once and for good, or for one sync; of LOG_AT_TIMES only
    writes fail, and it comes back."""
    age: int = 0
    """Bytes that go through the log before the first session, so that it is near its end."""
    memory_stays: bool = False
    """The ring is in shared memory, and some sessions end with the process alone."""
    readers: int = 0
    """Threads that read past moments."""
    has_tagger: bool = False


class Layout:
    """Which sectors a client may touch: runs of consecutive ones, (first, count)."""

    def __init__(self, scenario):
        self.sectors = scenario.pages * SECTORS + scenario.odd_sectors
        self._clients = scenario.clients
        self._area_sectors = scenario.area_pages * SECTORS

    def runs(self, client):
        if self._clients == 1:
            return [(0, self.sectors)]
        runs = []
        for area, first in enumerate(range(0, self.sectors, self._area_sectors)):
            end = min(first + self._area_sectors, self.sectors)
            private = first + _SHARED_PAGES * SECTORS
            share = SECTORS // self._clients
            runs += [
                (page + client * share, share)
                for page in range(first, min(private, end - SECTORS + 1), SECTORS)
            ]  # fmt: skip
            if area % self._clients == client and private < end:
                runs.append((private, end - private))
        return runs


class SessionClient:
    """Sends requests one after the other."""

    def __init__(self, session, number):
        self._session = session
        self._scenario = session.scenario
        self._random = random.Random(f"client {number} {session.seed}")
        self._runs = session.layout.runs(number)
        self._weights = [count for _, count in self._runs]
        self._hot = self._random.sample(self._runs, min(2, len(self._runs)))
        self._client = session.oracle.clients[number]

    def run(self):
        for _ in range(self._scenario.requests):
            if self._scenario.pause:
                self._session.simulation.sleep(self._random.expovariate(1 / self._scenario.pause))
            try:
                if self._random.random() < self._scenario.flush_share:
                    self._session.flush()
                else:
                    self._change()
            except CommitFailedError:
                self._session.failures += 1
                if not self._is_there():
                    return
            except RequestError:
                return

    def _is_there(self):
        """Whether the last change is on the volume, though it may have failed: then it waited only to be durable."""
        if not self._client.requests:
            return True
        last = self._client.requests[-1]
        for first, count, value in self._client.steps[last.first : last.end]:
            found = bytearray(count * SECTOR)
            self._session.cache.volume.read_into(found, first * SECTOR)
            if found != content(first, [value] * count):
                return False
        return True

    def _choose_run(self):
        if self._random.random() < 0.5:
            first, count = self._random.choice(self._hot)
            return first, min(count, _HOT_PAGES * SECTORS)
        return self._random.choices(self._runs, self._weights)[0]

    def _choose_range(self):
        """(first sector, count) of any alignment, or of whole pages."""
        first, count = self._choose_run()
        if count > SECTORS and self._random.random() < 0.7:
            start = -(-first // SECTORS)
            pages = (first + count) // SECTORS - start
            length = self._random.randint(1, min(pages, self._random.choice((1, 2, self._scenario.largest))))
            return (start + self._random.randint(0, pages - length)) * SECTORS, length * SECTORS
        length = self._random.randint(1, min(count, 3 * SECTORS))
        return first + self._random.randint(0, count - length), length

    def _change(self):
        session, volume = self._session, self._session.cache.volume
        first, count = self._choose_range()
        kind = self._random.choices(("write", "trim", "zero"), (80, 12, 8))[0]
        fua = self._random.random() < self._scenario.fua_share
        value = next(session.values) if kind == "write" else 0
        request = session.oracle.submit(self._client, first, count, value, session.generation)
        if kind == "write":
            volume.write(content(first, [value] * count), first * SECTOR, fua)
        elif kind == "trim":
            volume.trim(count * SECTOR, first * SECTOR, fua)
        else:
            volume.zero(count * SECTOR, first * SECTOR, fua, may_trim=False)
        session.oracle.answer(self._client, request, len(session.journal))
        level = max(session.config.ack, session.config.fua if fua else 0)
        if level >= LOG:
            steps = list(request.answered_before)
            steps[self._client.number] = request.end
            session.claim(tuple(steps), level)


class Left(NamedTuple):
    """What a process that died left: the content of its ring, and of each disk the pieces that it did not sync."""

    memory: bytes
    unsynced: tuple


NOTHING_LEFT = Left(b"", ((), ()))


@contextlib.contextmanager
def dead_ring(log_image, left):
    """Let the ring be there that a dead process left; in the end there is none."""
    with contextlib.ExitStack() as stack:
        if left.memory:
            superblock = newest(read_slots(MemoryDisk(put_all(log_image, left.unsynced[LOG_DISK]))))
            path = path_of(superblock.uuid)
            place(path, left.memory)
            stack.callback(place, path, b"")
        yield


def put_all(image, pieces):
    content = bytearray(image)
    put(content, pieces)
    return content


class BulkDisk(BulkWrites, SimulatedDisk):
    """An origin as files are."""


class Session:
    """A cache from start to its end. `images` are log and origin before it; `oracle` goes on with its history. `late`
    are requests of the session before that the origin's server has not carried out yet. `left` is what a process that
    died left: its ring, and what it wrote to the disks and did not sync."""

    def __init__(self, scenario, seed, images, oracle, first_value, late=(), left=NOTHING_LEFT):
        self.scenario = scenario
        self.seed = seed
        self.images = [bytes(image) for image in images]
        self.oracle = oracle
        self.late = late
        self.left = left
        self.journal = Journal()
        self.layout = Layout(scenario)
        self.values = itertools.count(first_value)
        self._random = random.Random(f"session {seed}")
        self.settings = self._choose_settings()
        self.config = make_config(**self.settings)
        self.ending = self._random.choice(scenario.endings)
        self.simulation = Simulation(seed)
        self.is_over = False
        """Whether the clients are done."""
        self.seen = []
        """(number of a generation, what a reader found the volume to be at its end)."""
        self.given_up = 0
        """Bytes that were bad and are given up."""
        self.failures = 0
        """Requests that failed because the log could not be written for a while."""
        self.ended = 0
        """Snapshots that ended under their readers."""

    def _choose_settings(self):
        settings = {
            "compress": self._random.choice(("off", "off", "zstd", "zstd:3")),
            "commit_interval": self._random.choice(("20ms", "200ms", "5s")),
            "commit_size": self._random.choice(("8K", "64K", "512K")),
            "destage_delay": self._random.choice(("50ms", "300ms", "2s")),
            "destage_depth": self._random.choice(("1", "4")),
        }
        if self.scenario.memory_stays:
            settings["ring_memory"] = "shared"
        return settings | self.scenario.settings

    @property
    def generation(self):
        return self.cache._committer.generation

    def run(self):
        """Raises whatever goes wrong already without a cut."""
        # Sessions are short. Bad sectors are found, carried forward and tried again in them.
        with mock.patch.object(origin_writer, "_RETRY_PAUSES", (0.002,) if self.scenario.bad_pages else _PAUSES):
            with mock.patch.object(bad_blocks, "_FIRST_REST", 0.03), self.simulation.patched():
                with dead_ring(self.images[LOG_DISK], self.left):
                    self.simulation.run(self._main)
        for generation, image in self.seen:
            self.oracle.past.check_state(generation, image, self.oracle.check_past)
        self.oracle.past.compared += len(self.seen)

    def _main(self):
        log, origin = self._make_disks()
        choice = self._random.sample(range(self.scenario.pages), self.scenario.bad_pages)
        origin.faults.bad_pages = {*choice[: self.scenario.bad_pages // 2]}
        for disk, pieces in zip((log, origin), self.left.unsynced, strict=True):
            disk.inherit(pieces)
        recorder = RingRecorder(self.journal)
        self.cache = Cache(self.config, origin=origin, log=log)
        if self.scenario.memory_stays:
            recorder.attach(self.cache)
        self.cache.activate()
        if choice:
            self.simulation.spawn(self._change_bad_pages, origin, choice)
        if self.scenario.is_remote:
            origin.carry_out_late(self.late)
            self.simulation.spawn(self._lose_connections, origin)
        clients = [SessionClient(self, number) for number in range(self.scenario.clients)]
        for disk in (log, origin):
            if disk.name in self.scenario.failing:
                self.simulation.spawn(self._fail_at_times, disk)
        if LOG_AT_TIMES in self.scenario.failing:
            self.simulation.spawn(self._fail_writes_at_times, log)
        others = [SnapshotReader(self, number) for number in range(self.scenario.readers)]
        if self.scenario.has_tagger:
            others.append(Tagger(self))
        if self.scenario.gives_up:
            self.oracle.past.let_fade(choice)
            others.append(GiverUp(self))
        beside = [self.simulation.spawn(other.run) for other in others]
        threads = [self.simulation.spawn(client.run) for client in clients]
        if self.ending == STOP_UNDER_LOAD:
            self.simulation.sleep(self._random.random() * self.scenario.requests * self.scenario.pause)
            self.cache.stop()
        for thread in threads:
            thread.join()
        self.is_over = True
        for thread in beside:
            thread.join()
        if self.ending == CUT:
            recorder.is_over = True
            abandon(self.cache)
            return
        self.cache.stop()
        is_complete = self.config.on_exit == "destage"
        self.claim(self.oracle.answered(), ORIGIN if is_complete else LOG)

    def _make_disks(self):
        scenario = self.scenario
        pauses = [self._pause_of(latency) for latency in (scenario.log_latency, scenario.origin_latency)]
        log = SimulatedDisk(self.images[LOG_DISK], "log", self.journal, LOG_DISK, pauses[LOG_DISK])
        behind = (self.images[ORIGIN_DISK], "origin", self.journal, ORIGIN_DISK, pauses[ORIGIN_DISK])
        self.origin = RemoteDisk(*behind, self.simulation, self.seed) if scenario.is_remote else BulkDisk(*behind)
        return log, self.origin

    def _lose_connections(self, disk):
        """As a rule while something is under way."""
        pause = self.scenario.pause
        while not self.is_over:
            self.simulation.sleep(self._random.expovariate(1 / (20 * pause)))
            for _ in range(100):
                if disk.is_busy:
                    break
                self.simulation.sleep(pause * self._random.random())
            self.simulation.sleep(self.scenario.origin_latency * self._random.random())
            disk.lose_connection()

    def _change_bad_pages(self, disk, choice):
        length = self.scenario.requests * self.scenario.pause
        while not self.is_over:
            self.simulation.sleep(length * self._random.random() * 0.3)
            disk.faults.bad_pages = disk.faults.bad_pages ^ {self._random.choice(choice)}

    def _fail_at_times(self, disk):
        """Requests of some kinds fail for a while, a write after its first half or before."""
        length = self.scenario.requests * self.scenario.pause
        while not self.is_over:
            self.simulation.sleep(length * self._random.random() * 0.6)
            disk.faults.shorten = self._random.random() < 0.5
            disk.faults.failing = set(self._random.choice((("write", "zero"), ("sync",), ("write", "zero", "sync"))))
            if disk.name == "log":
                disk.faults.times = self._random.choice((None, 1))
                return
            self.simulation.sleep(length * self._random.random() * 0.4)
            disk.faults.failing = set()

    def _fail_writes_at_times(self, disk):
        """Once, a few times in a row, or for a while, each write after its first half or before."""
        length = self.scenario.requests * self.scenario.pause
        while not self.is_over:
            self.simulation.sleep(length * self._random.random() * 0.3)
            faults = disk.faults
            faults.shorten = self._random.random() < 0.7
            faults.times, faults.after = self._random.choice((None, 1, 1, 3)), self._random.choice((0, 0, 1))
            faults.failing = {"write"}
            self.simulation.sleep(length * self._random.random() * 0.3)
            faults.failing = set()

    def _pause_of(self, latency):
        rng = random.Random(f"latency {latency} {self.seed}")

        def pause(kind):
            if kind == "read" or rng.random() < 0.4:
                self.simulation.maybe_switch()
            else:
                self.simulation.sleep(rng.expovariate(1 / latency))

        return pause

    def flush(self):
        answered = self.oracle.answered()
        self.cache.volume.flush()
        self.claim(answered, self.config.flush)

    def claim(self, steps, level):
        self.oracle.claim(len(self.journal), steps, self.generation, level == ORIGIN)


def aged(images, byte_count, seed):
    """The images after so much went through the log and on to the origin, which is as it was."""
    log, origin = (MemoryDisk(bytearray(image), name) for image, name in zip(images, ("log", "origin"), strict=True))
    simulation = Simulation(f"age {seed}")

    def rewrite():
        cache = Cache(make_config(on_exit="destage"), origin=origin, log=log)
        cache.activate()
        for start in range(0, byte_count, 64 * PAGE):
            offset = start % (len(images[ORIGIN_DISK]) - 64 * PAGE)
            cache.volume.write(images[ORIGIN_DISK][offset : offset + 64 * PAGE], offset)
        cache.stop()

    with simulation.patched():
        simulation.run(rewrite)
    return [log.content, origin.content]


def make_config(**settings):
    pairs = {"origin": "origin", "log": "log", "ring_size": "1M", "ring_memory": "private", **settings}
    return Config.from_pairs(pairs.items())


def first_origin(scenario, seed):
    """(values by sector) of the origin before anything is written: some areas are zeros."""
    rng = random.Random(f"origin {seed}")
    sectors = scenario.pages * SECTORS + scenario.odd_sectors
    values = []
    while len(values) < sectors:
        values += [rng.choice((0, 1, 2))] * rng.choice((SECTORS, 5 * SECTORS, 20 * SECTORS))
    return values[:sectors]


def image_of(values):
    return b"".join(content(first, values[first : first + SECTORS]) for first in range(0, len(values), SECTORS))


assert PAGE == SECTORS * SECTOR
