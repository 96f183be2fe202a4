# SPDX-License-Identifier: BSD-3-Clause
"""Runs a cache, cuts the power at every write and sync that it made, recovers, and compares with the oracle.

    /usr/bin/python3 -m tests.crash.explorer "concurrent clients" 7 --cuts 5000     # explore
    /usr/bin/python3 -m tests.crash.explorer "concurrent clients" 7 --session 1 --position 93 --variant 4     # replay

A *chain* is a few sessions on one pair of disks: each begins with what one of the cuts of the one before left, so
recovery, activation, and whatever a torn write left behind are cut as well. Everything follows from the seed.
"""

import argparse
import logging
import random
import time
from dataclasses import dataclass
from functools import partial
from unittest import mock

from xxhash import xxh3_64_intdigest

from tests.crash.broken_promise import BrokenPromiseError
from tests.crash.oracle import Oracle
from tests.crash.past_moments import check_moments
from tests.crash.replay import Replay
from tests.crash.scenarios import SCENARIOS
from tests.crash.workload import (
    LOG_DISK,
    NOTHING_LEFT,
    ORIGIN_DISK,
    Left,
    Session,
    aged,
    dead_ring,
    first_origin,
    image_of,
    make_config,
)
from tests.support.invariants import check_line, check_map, check_pins
from tests.support.simulated_disk import STYLES, MemoryDisk
from tests.support.simulated_threads import Simulation
from wbcache_core.errors import WbcacheError
from wbcache_core.log import recovery
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.memory.generations import Generation
from wbcache_core.server.cache import Cache
from wbcache_core.tools.checker import examine
from wbcache_core.units import MIB

SESSIONS = 3
LOG_BYTES = 4 * MIB

_STRANGE_REMARKS = ("the origin has changed", "of two logs")
"""What a crash may leave elsewhere, but never here."""
_COMPLETED = 40
"""One in so many cuts is also served and destaged to the end."""
_LOOKED_BACK = 4
"""One in so many cuts has some past moments opened."""
_LIVES_ON = 0.8
"""The share of sessions that begin while the server of a remote origin still has requests of the one before."""
_KILLED = 0.7
"""The share of sessions that follow the death of a process, where its memory can stay."""
_TRIES = 4
"""Draws in a row that may give an image already seen before a position is left."""


@dataclass
class Outcome:
    """What a cut left, as recovery understood it."""

    prefixes: list
    """(shortest, longest) of each client."""
    generation: int
    volume: bytes
    tags: tuple
    newest: Generation | None


_decode = recovery.decode
_descriptors = {}


def _decode_once(page):
    """The same descriptors are met thousands of times, and only decoded the first time."""
    key = xxh3_64_intdigest(page)
    descriptor = _descriptors.get(key)
    if descriptor is None:
        descriptor = _descriptors[key] = _decode(page)
    return descriptor


def verify(disks, oracle, position, look_back=True, rng=None, memory_stays=False):
    """Recover from log and origin as a cut at that place left them. Raises BrokenPromiseError; returns the Outcome.

    With memory_stays only the process died, and its ring is where it was, if it had one. With look_back it opens past
    moments: some of them as rng has it, or all.
    """
    log, origin = (MemoryDisk(content, name) for content, name in zip(disks, ("log", "origin"), strict=True))
    try:
        cache = Cache(make_config(), origin=origin, log=log)
        volume = bytearray(cache.volume.size)
        cache.volume.read_into(volume, 0)
        cache._ring_memory.close(is_empty=False)
    except WbcacheError as error:
        raise BrokenPromiseError(f"{type(error).__name__}: {error}") from error
    prefixes = oracle.check_volume(volume, position, memory_stays)
    _check_inside(cache)
    if look_back:
        _look_back(cache, oracle, position, volume, rng)
    superblock = newest(read_slots(log))
    oracle.check_origin(
        disks[ORIGIN_DISK], position, superblock, [longest for _, longest in prefixes], _is_inside_commit(cache)
    )  # fmt: skip
    report = examine(log, origin)
    strange = [remark for remark in report.remarks if any(words in remark for words in _STRANGE_REMARKS)]
    if report.findings or strange:
        raise BrokenPromiseError("checker: " + "; ".join(report.findings + strange))
    _, last, tags = cache.window_ends()
    return Outcome(prefixes, cache._writer.end.generation, volume, tags, last)


def replay_of(session):
    return Replay(session.images, session.journal.events, session.left.memory)


def verify_kill(disks, oracle, replay, look_back=True, rng=None):
    """Like verify(), when only the process died there."""
    with dead_ring(disks[LOG_DISK], Left(bytes(replay.memory), ((), ()))):
        return verify(disks, oracle, replay.position, look_back, rng, memory_stays=True)


def _look_back(cache, oracle, position, volume, rng):
    try:
        check_moments(cache, oracle, position, volume, rng)
    except WbcacheError as error:
        raise BrokenPromiseError(f"{type(error).__name__}: {error}") from error


def complete(disks, volume, seed):
    """Start a server on copies of the disks and stop it when all is destaged: the origin alone is the volume then."""
    log, origin = (MemoryDisk(bytearray(disk), name) for disk, name in zip(disks, ("log", "origin"), strict=True))
    simulation = Simulation(seed)

    def serve():
        cache = Cache(make_config(on_exit="destage"), origin=origin, log=log)
        cache.activate()
        for tag in cache.window_ends()[2]:
            cache.untag(tag.name)
        cache.stop()

    with simulation.patched():
        simulation.run(serve)
    report = examine(log, origin)
    if report.findings or report.remarks or origin.content != volume:
        raise BrokenPromiseError(f"destaged as a whole, the origin is not the volume: {report}")


def _is_inside_commit(cache):
    """Whether `destaged` is between two segments of one commit. A segment says where its commit begins."""
    destaged = cache._line.destaged
    if cache._line.committed == destaged:
        return False
    return cache._reader.descriptor(cache._table.locate(destaged)).committed < destaged


def _check_inside(cache):
    """The invariants of what recovery built."""
    with cache._line.lock:
        check_line(cache._line)
        check_pins(cache._pins)
    check_map(cache._locations)


def variant(replay, key, number):
    """The pieces that survive in a cut's variant of that number: a function of the key and the number alone."""
    rng = random.Random(f"{key} {replay.position} {number}")
    styles = STYLES[:2] if number < 2 else STYLES[2:]
    return replay.survivors(rng, styles[number % len(styles)])


class Chain:
    """Sessions of one scenario and seed. Raises BrokenPromiseError with the command that repeats the failure."""

    def __init__(self, scenario_name, seed):
        self._name = scenario_name
        self._seed = seed
        self._scenario = SCENARIOS[scenario_name]
        self.cuts = 0
        self.kills = 0
        """How many of the cuts left the power on."""
        self.events = 0
        self.compared = 0
        """Past moments that were opened and compared."""

    def sessions(self, count=SESSIONS):
        """Yields sessions that have run, each to be explored before the next is asked for."""
        scenario, seed = self._scenario, self._seed
        before = first_origin(scenario, seed)
        images = [bytearray(LOG_BYTES), bytearray(image_of(before))]
        oracle = Oracle(before, scenario.clients)
        first_value, late, left = 3, (), NOTHING_LEFT
        if scenario.age:
            images = aged(images, scenario.age, seed)
        for number in range(count):
            session = Session(scenario, f"{self._name} {seed} {number}", images, oracle, first_value, late, left)
            self._guard(session.run, number)
            yield session
            if number + 1 < count:
                images, oracle, first_value, late, left = self._after(session, number)

    def _guard(self, function, number, **place):
        try:
            return function()
        except Exception as error:
            words = " ".join(f"--{key} {value}" for key, value in {"session": number, **place}.items())
            raise BrokenPromiseError(
                f"{type(error).__name__}: {error}\nreplay: "
                f'/usr/bin/python3 -m tests.crash.explorer "{self._name}" {self._seed} {words}'
            ) from error

    def _after(self, session, number):
        """(images, oracle, first value, late requests, what a process left) for a session that follows a cut of this
        one, or the death of its process."""
        rng = random.Random(f"{session.seed} next")
        replay = replay_of(session)
        end = len(session.journal)
        position = end if rng.random() < 0.2 else rng.randint(end // 3, end)
        while replay.position < position:
            replay.advance()
        if self._scenario.memory_stays and rng.random() < _KILLED:
            return self._after_kill(session, number, replay, rng)
        survivors = variant(replay, session.seed, rng.randrange(40))
        late = ()
        if self._scenario.is_remote and rng.random() < _LIVES_ON:
            survivors[ORIGIN_DISK] = replay.survivors(rng, "all")[ORIGIN_DISK]
            late = session.origin.under_way_at(position)
        with replay.after_cut(survivors) as disks:
            outcome = self._guard(lambda: verify(disks, session.oracle, position), number)
            images = [bytes(disk) for disk in disks]
        oracle = session.oracle.after_cut(
            position, outcome.prefixes, outcome.generation, outcome.tags, outcome.newest, outcome.volume
        )
        return images, oracle, next(session.values), late, NOTHING_LEFT

    def _after_kill(self, session, number, replay, rng):
        images, pieces = [bytes(disk) for disk in replay.durable], replay.left_by_process(rng)
        left = Left(bytes(replay.memory), tuple(pieces))
        with replay.after_cut(pieces) as disks:
            outcome = self._guard(partial(verify_kill, disks, session.oracle, replay), number)
        oracle = session.oracle.after_kill(
            replay.position, outcome.prefixes, outcome.generation, outcome.tags, outcome.newest
        )  # fmt: skip
        return images, oracle, next(session.values), (), left

    def explore(self, cuts, sessions=SESSIONS):
        """Verify that many different cuts, in all sessions alike, every place at least once."""
        with mock.patch.object(recovery, "decode", _decode_once):
            self._explore(cuts, sessions)
        _descriptors.clear()
        return self.cuts

    def _explore(self, cuts, sessions):
        for number, session in enumerate(self.sessions(sessions)):
            self._explore_session(session, number, cuts // sessions)

    def _explore_session(self, session, number, budget):
        replay = replay_of(session)
        end = len(session.journal)
        self.events += end
        seen = set()
        done = killed = 0
        kills = budget // 2 if self._scenario.memory_stays else 0
        while True:
            places = end - replay.position + 1
            killed += self._explore_kill(replay, session, number, (kills - killed) / places)
            share = (budget - kills - done) / places
            if not replay.is_memory_next:
                done += self._explore_place(replay, session, number, max(share, 1), seen)
            if replay.position == end:
                break
            replay.advance()
        self.compared += session.oracle.past.compared

    def _explore_place(self, replay, session, number, share, seen):
        done = tries = index = 0
        while done < share and tries < _TRIES:
            survivors = variant(replay, session.seed, index)
            key = replay.syncs, *((disk, *piece[:2], len(piece.data)) for disk, pieces in enumerate(survivors)
                                  for piece in pieces)  # fmt: skip
            if key in seen:
                tries += 1
            else:
                tries = 0
                done += 1
                seen.add(key)
                self.cuts += 1
                self._guard(
                    partial(self._examine, replay, session, survivors, index, self.cuts),
                    number, position=replay.position, variant=index,
                )  # fmt: skip
            index += 1
        return done

    def _explore_kill(self, replay, session, number, share):
        """Only the process dies, between two stores into memory or beside a write or sync, at that share of all
        places."""
        rng = random.Random(f"{session.seed} {replay.position} kill")
        if rng.random() >= share:
            return 0
        self.cuts += 1
        self.kills += 1
        self._guard(partial(self._examine_kill, replay, session, rng), number, position=replay.position, variant="kill")
        return 1

    def _examine_kill(self, replay, session, rng):
        with replay.after_cut(replay.left_by_process(rng)) as disks:
            outcome = verify_kill(disks, session.oracle, replay, self.kills % _LOOKED_BACK == 0, rng)
            if self.kills % _COMPLETED == 0:
                with dead_ring(disks[LOG_DISK], Left(bytes(replay.memory), ((), ()))):
                    complete(disks, outcome.volume, session.seed)

    def _examine(self, replay, session, survivors, index, count):
        rng = random.Random(f"{session.seed} {replay.position} {index} moments")
        with replay.after_cut(survivors) as disks:
            outcome = verify(disks, session.oracle, replay.position, count % _LOOKED_BACK == 0, rng)
            if count % _COMPLETED == 0:
                complete(disks, outcome.volume, session.seed)

    def replay(self, number, position, index):
        """Verify one cut; without a position run up to that session only."""
        session = next(one for count, one in enumerate(self.sessions(number + 1)) if count == number)
        if position is None:
            return
        replay = replay_of(session)
        while replay.position < position:
            replay.advance()
        if index == "kill":
            self._examine_kill(replay, session, random.Random(f"{session.seed} {replay.position} kill"))
            return
        with replay.after_cut(variant(replay, session.seed, index)) as disks:
            outcome = verify(disks, session.oracle, position)
            complete(disks, outcome.volume, session.seed)


def main():
    parser = argparse.ArgumentParser(description="Cut the power of a simulated cache and see what recovery makes of it")
    parser.add_argument("scenario", choices=list(SCENARIOS))
    parser.add_argument("seed")
    parser.add_argument("--cuts", type=int, default=3000)
    parser.add_argument("--session", type=int)
    parser.add_argument("--position", type=int)
    parser.add_argument("--variant", type=lambda text: text if text == "kill" else int(text), default=0)
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    chain = Chain(chosen.scenario, chosen.seed)
    started = time.monotonic()
    if chosen.session is None:
        chain.explore(chosen.cuts)
        print(f"{chain.cuts} cuts at {chain.events} places in {time.monotonic() - started:.1f} s, "
              f"{chain.compared} past moments compared")  # fmt: skip
    else:
        chain.replay(chosen.session, chosen.position, chosen.variant)
        print("no violation")


if __name__ == "__main__":
    main()
