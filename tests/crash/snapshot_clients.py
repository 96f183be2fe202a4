# SPDX-License-Identifier: BSD-3-Clause
"""Threads of a session that open past moments, read and compare them while the others write, and give and take tags."""

import itertools
import random

from tests.support.comparisons import as_export, as_list
from wbcache_core.errors import (
    ClockError,
    CommitFailedError,
    DeviceError,
    OutsideWindowError,
    SnapshotEndedError,
    TagError,
)
from wbcache_core.server.config import HOLD

_READS = 3
_PATIENCE = (1, 5, 30)
"""How long readers are at a moment, in pauses of the writers: some longer than the log has room for it."""
_MOST_TAGS = 4
_COMPARISONS = 0.2
"""How often two moments are compared instead of one opened."""


class SnapshotReader:
    """Opens moments at random, keeps each for a while, and notes what it reads in the session's `seen`."""

    def __init__(self, session, number):
        self._session = session
        self._random = random.Random(f"reader {number} {session.seed}")

    def run(self):
        session = self._session
        while not session.is_over:
            self._pause(3)
            if self._random.random() < _COMPARISONS:
                self._compare()
                continue
            try:
                snapshot = session.cache.open_snapshot(self._choose())
            except (ClockError, OutsideWindowError, SnapshotEndedError, TagError):
                # The origin has moved on since it was chosen.
                continue
            self._read(snapshot)
            snapshot.close()

    def _pause(self, times):
        self._session.simulation.sleep(self._random.expovariate(1 / (times * self._session.scenario.pause)))

    def _choose(self):
        generations, tags = self._session.cache.window()
        numbers = [str(generation.number) for generation in generations]
        chosen = [numbers[0], self._random.choice(numbers), "last-flush", "-0.05s"]
        return self._random.choice([*chosen, *(tag.name for tag in tags)])

    def _read(self, snapshot):
        session = self._session
        image = bytearray(snapshot.size)
        patience = self._random.choice(_PATIENCE)
        for _ in range(self._random.randint(1, _READS)):
            middle = self._random.randrange(len(image))
            try:
                snapshot.read_into(memoryview(image)[:middle], 0)
                self._pause(patience)
                snapshot.read_into(memoryview(image)[middle:], middle)
            except SnapshotEndedError:
                assert session.config.history_full != HOLD
                session.ended += 1
                return
            session.seen.append((snapshot.generation, bytes(image)))


    def _compare(self):
        """What changed between two moments, read with the first one while others write and destage."""
        session = self._session
        numbers = [generation.number for generation in session.cache.window()[0]]
        start, end = sorted((self._random.choice(numbers), self._random.choice(numbers)))
        opened = []
        try:
            opened.append(session.cache.open_snapshot(str(start)))
            before = bytearray(opened[0].size)
            opened[0].read_into(before, 0)
            opened.append(session.cache.open_export(f"{start}..{end}"))
            self._pause(self._random.choice(_PATIENCE))
            after = bytearray(opened[1].size)
            opened[1].read_into(after, 0)
            as_export(opened[1], before, after)
            as_list(opened[1], before, after)
            session.seen.append((opened[1].end, bytes(after)))
        except (OutsideWindowError, SnapshotEndedError):
            # The origin has moved on since they were chosen, or opened.
            session.ended += 1
        finally:
            for one in opened:
                one.close()


class Tagger:
    """Gives tags to present and past moments and takes them away, all told to the oracle."""

    def __init__(self, session):
        self._session = session
        self._random = random.Random(f"tagger {session.seed}")
        self._serial = itertools.count()
        session.cache._pins.pass_to = self._noting_ended(session.cache._pins)

    def run(self):
        while not self._session.is_over:
            self._session.simulation.sleep(self._random.expovariate(1 / (4 * self._session.scenario.pause)))
            _, tags = self._session.cache.window()
            if tags and self._random.random() < len(tags) / _MOST_TAGS:
                self._remove(self._random.choice(tags).name)
            else:
                self._add()

    def _add(self):
        session, past = self._session, self._session.oracle.past
        when = None
        if self._random.random() < 0.5:
            generations, _ = session.cache.window()
            when = str(self._random.choice(generations).number)
        name = f"{session.seed} {next(self._serial)}"[-60:].strip()
        past.begin_tag(name, len(session.journal))
        try:
            tag = session.cache.tag(name, when)
        except (OutsideWindowError, CommitFailedError):
            past.give_up_tag(name)
            return
        except DeviceError:
            # The superblock that failed may be there all the same, until the next one.
            assert name not in [tag.name for tag in session.cache.window_ends()[2]]
            return
        past.acknowledge_tag(tag, len(session.journal))

    def _remove(self, name):
        session, past = self._session, self._session.oracle.past
        past.begin_end_of_tag(name, len(session.journal))
        try:
            session.cache.untag(name)
        except (TagError, DeviceError):
            # Writers came first, or it stays until the next attempt.
            return
        past.acknowledge_end_of_tag(name, len(session.journal))

    def _noting_ended(self, pins):
        """Pins.pass_to(), telling the oracle which tags it ends."""
        pass_to = pins.pass_to

        def noting(lsn):
            before = pins.tags
            pass_to(lsn)
            for tag in before:
                if tag not in pins.tags:
                    assert self._session.config.history_full != HOLD
                    self._session.oracle.past.begin_end_of_tag(tag.name, len(self._session.journal))

        return noting
