# SPDX-License-Identifier: BSD-3-Clause
"""How far the origin may move on: what open snapshots, tags and `history=` hold back, and when they give way.

A past moment can be opened as long as the origin is not beyond it. So

    floor  =  max(destaged, batch_end)  <=  every pin  <=  committed

and no batch goes beyond the lowest pin unless that pin gives way first: `floor`
moves to where the batch is going to end, the pins below are marked as ended and
the generations below forgotten, all under one hold of the volume lock and
before the origin is touched.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.format.superblock import Tag
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.policy import Policy
from wbcache_core.memory.record_index import CoveredLog

_NEVER = float("inf")
_LONGEST_SLEEP = 60.0
"""Seconds after which the age of the history is checked again: a wait does not end early if the machine slept."""
_NS = 10**9


class Line(Protocol):
    """Where the log and the origin stand, and who waits for them, as a NumberLine has it: that is the one of an owner.
    A standby has another (standby_line.py)."""

    @property
    def moved(self) -> threading.Condition: ...
    @property
    def destage_wanted(self) -> threading.Condition: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def destaged(self) -> int: ...
    @property
    def committed(self) -> int: ...
    @property
    def peers_committed(self) -> int: ...
    @property
    def destaged_place(self) -> int: ...
    @property
    def reclaimed_place(self) -> int: ...
    @property
    def dirty_pages(self) -> int: ...
    @property
    def room_waiters(self) -> int: ...
    @property
    def origin_target(self) -> int: ...
    @property
    def is_origin_awaited(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def carried(self) -> deque[tuple[int, int]]: ...


class Pin:
    """An open snapshot. `ended` never becomes false again; it may be read without the lock after a read."""

    __slots__ = ("ended", "generation")

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.ended = False


class Pins:
    """The volume lock guards every field; callers of every method hold it."""

    def __init__(
        self, line: Line, covered: CoveredLog, floor: int, tags: tuple[Tag, ...],
        now: Callable[[], Reading] | None = None,
    ) -> None:  # fmt: skip
        """`floor` is `batch_end` of the superblock, or `destaged` if that is higher. now() is what the clocks say that
        the generations have their times from: those of this machine unless told."""
        self._line = line
        self._now = now
        self._covered = covered
        self._ended: list[Pin | Tag] = []
        self.floor = floor
        """No moment below it can be opened: the origin has, or may have, something later."""
        self.snapshots: list[Pin] = []
        self.tags = tags

    def add(self, generation: Generation) -> Pin:
        """Keep a generation in the window from now on."""
        assert generation.end_lsn >= self.floor
        pin = Pin(generation)
        self.snapshots.append(pin)
        return pin

    def remove(self, pin: Pin) -> None:
        """Release a snapshot, ended or not."""
        if not pin.ended:
            self.snapshots.remove(pin)
            self._line.destage_wanted.notify()

    def end_snapshots(self) -> None:
        """End all of them, whatever they keep."""
        for pin in self.snapshots:
            pin.ended = True
        self._ended += self.snapshots
        self.snapshots = []
        self._line.destage_wanted.notify()

    def follow(self, floor: int, tags: tuple[Tag, ...]) -> None:
        """The superblock of a standby says so, with tags in the window: the origin has not gone beyond `floor`, even if
        pass_to() was told that it would."""
        self.floor, self.tags = floor, tags

    def replace_tags(self, tags: tuple[Tag, ...]) -> None:
        """Set the tags, all of which are in the window."""
        self.tags = tags
        self._line.destage_wanted.notify()
        self._line.moved.notify_all()

    def limit(self) -> int:
        """The end of a segment beyond which the next batch must not go; `destaged` if there can be no batch now.

        Pins at `destaged` that have to give way are ignored: see pass_to(). What a peer lacks that counts never gives
        way: the origin must not get ahead of a log that may take over.
        """
        return min(self._limit_of_past(), max(self._line.peers_committed, self._line.destaged))

    def _limit_of_past(self) -> int:
        """The same without peers."""
        line, policy = self._line, self._line.policy
        if not (self.snapshots or self.tags or policy.history_pages or policy.history_ns):
            return line.committed
        if line.draining:
            # Clients are being disconnected. Tags outlive the server.
            return self._lowest([tag.end_lsn for tag in self.tags])
        limit = self._lowest(self._ends())
        if limit <= line.destaged and self._has_to_make_way():
            limit = self._lowest([end for end in self._ends() if end > line.destaged])
        limit = min(limit, line.committed if self._history_gives_way() else self._history_limit())
        if line.carried and (self.snapshots or self.tags) and not self._has_to_make_way():
            # Blocks that the origin rejects would be carried beyond them, and they would end.
            limit = min(limit, max(line.carried[0][0], line.destaged))
        return limit

    def may_pass(self, lsn: int) -> bool:
        """Whether the next batch may leave the origin so that no moment below lsn can be opened any more.

        This is for damage in the log, which does not improve by waiting.
        """
        if self._line.draining:
            return all(tag.end_lsn >= lsn for tag in self.tags)
        return not self._line.policy.hold or all(end >= lsn for end in self._ends())

    def seconds_until_more(self) -> float:
        """How long `limit`, which is `destaged`, stays there if nobody commits or releases anything; infinity if for
        ever."""
        held = min(self._lowest(self._ends()), self._line.peers_committed)
        if not self._line.policy.history_ns or held <= self._line.destaged:
            return _NEVER
        following = self._covered.generations.ending_above(self._line.destaged)
        if following is None:
            return _NEVER
        due_ns = self._covered.generations.due_ns(following, self._line.policy.history_ns, self._read_clocks())
        return min(max(due_ns / _NS, 0.001), _LONGEST_SLEEP)

    def pass_to(self, lsn: int) -> None:
        """The origin is going to move on to lsn: end whatever is below."""
        if lsn <= self.floor:
            return
        self.floor = lsn
        self._covered.generations.drop_below(lsn)
        passed = [pin for pin in self.snapshots if pin.generation.end_lsn < lsn]
        if passed:
            for pin in passed:
                pin.ended = True
            self.snapshots = [pin for pin in self.snapshots if not pin.ended]
            self._ended += passed
        if any(tag.end_lsn < lsn for tag in self.tags):
            self._ended += [tag for tag in self.tags if tag.end_lsn < lsn]
            self.tags = tuple(tag for tag in self.tags if tag.end_lsn >= lsn)

    def take_ended(self) -> list[Pin | Tag]:
        """What pass_to() has ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def _ends(self) -> list[int]:
        return [pin.generation.end_lsn for pin in self.snapshots] + [tag.end_lsn for tag in self.tags]

    def _lowest(self, ends: list[int]) -> int:
        return min(ends, default=self._line.committed)

    def _history_limit(self) -> int:
        """The LSN up to which the history does not need the log."""
        line, generations = self._line, self._covered.generations
        policy = line.policy
        limit = line.committed
        if policy.history_pages:
            kept = generations.ending_at_or_below(line.committed - policy.history_pages)
            limit = kept.end_lsn if kept else 0
        if policy.history_ns:
            # Never by the wall clock: a wrong one would drop what was promised, or keep it for ever.
            kept = generations.kept_for(policy.history_ns, self._read_clocks())
            limit = kept.end_lsn if kept else 0
        # What can no longer be opened need not be kept.
        return max(limit, min(self.floor, line.committed), line.destaged)

    def _read_clocks(self) -> Reading:
        return self._now() if self._now else clock.read()

    def _history_gives_way(self) -> bool:
        line = self._line
        return line.is_origin_awaited or line.dirty_pages > line.policy.give_way_pages

    def _has_to_make_way(self) -> bool:
        """Whether snapshots and tags give way: writers, or requests that wait for the origin, cannot run at full
        speed."""
        line = self._line
        if self._line.policy.hold:
            return False
        is_full = line.room_waiters > 0 and line.reclaimed_place >= line.destaged_place
        return is_full or line.origin_target > line.destaged or line.dirty_pages > self._line.policy.high_pages
