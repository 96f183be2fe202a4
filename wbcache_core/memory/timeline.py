# SPDX-License-Identifier: BSD-3-Clause
"""When the generations were, by two clocks of which one can be set: what ages and times mean, if that is known.

Each entry is what the clocks said at a commit (clock.py). They are in the order of the commits, whatever the clocks
said.

    running time  time since the boot, added up over boots. It only grows. Between two boots nothing tells how long it
                  was, so that counts as nothing: the running time between two entries is never more than went by
    seam          between two neighbours of which the wall clock alone does not tell what was in between: it was set,
                  or they are of different boots. From one seam to the next the wall clock just went on

An entry is named by its index; -1 is what was before the first one. Packed: 16 bytes per entry, 50 per seam. Callers
hold the volume lock.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.clock import Reading, elapsed_ns

JITTER_NS = 10_000_000
"""The two clocks are not read at the same instant; a larger difference means that one was set."""
SLIGHT_NS = 10**9
"""Clocks of two boots need not agree more closely than this."""
_FOR_EVER = 2**62
_SHOWN_NS = 1000
"""Times are shown to the microsecond."""


class Seam(NamedTuple):
    """Between entry `before` and the next one, or now.

    jump_ns is by how much the clock was set there as far as is known. For reach_ns before the later entry the clock may
    have gone the later way. With is_measured that is also how long it may have gone the earlier way.
    """

    before: int
    jump_ns: int
    reach_ns: int
    is_measured: bool


class ClockDoubtError(Exception):
    """The clocks allow several answers, `indices`, or none, because of `seam`."""

    def __init__(self, seam: Seam, indices: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.seam = seam
        self.indices = indices


class _Answers:
    """The entries after which the wall clock said something: surely, or perhaps, or as far as anybody knows, or it went
    past that in a jump there."""

    def __init__(self) -> None:
        self.sure: set[int] = set()
        self.maybe: set[int] = set()
        self.possible: set[int] = set()
        self.skipped: set[int] = set()

    def look_at(self, seam: Seam, early_ns: int, later_ns: int, wall_ns: int, is_future: bool) -> None:
        """What a seam between entries of these two times adds. By a clock that has not come so far yet, only what an
        entry itself says counts."""
        before = seam.before
        if is_future:
            if early_ns <= wall_ns < early_ns + _SHOWN_NS:
                self.maybe.add(before)
        elif seam.is_measured:
            if early_ns <= wall_ns < early_ns + seam.reach_ns or later_ns - seam.reach_ns <= wall_ns < later_ns:
                self.maybe.add(before)
            elif early_ns <= wall_ns < later_ns:
                self.skipped.add(before)
        elif early_ns <= wall_ns < later_ns and seam.jump_ns >= 0:
            self.maybe.add(before)
        elif wall_ns >= early_ns or later_ns - seam.reach_ns <= wall_ns < later_ns:
            self.possible.add(before)

    def decide(self, first_of_this_boot: int) -> set[int]:
        """What has to be told apart. Where an entry of this boot surely is an answer, it is no matter for how long an
        earlier boot may have gone on after its last one."""
        if not self.sure:
            return self.maybe | self.possible | self.skipped if self.maybe or self.possible else self.skipped
        likely = self.sure | self.maybe
        return likely if min(likely) >= max(first_of_this_boot, 0) else likely | self.possible


class Timeline:
    def __init__(self) -> None:
        self._walls = array("Q")
        self._running = array("Q")
        self._dropped = 0
        # Of each seam: how many entries came before it, all dropped ones included, and the fields of Seam.
        self._seams = array("Q")
        self._jumps = array("q")
        self._reaches = array("q")
        self._measured = array("b")
        self._last: Reading | None = None
        """The newest entry, or what mark() was told after it; _last_running is its running time."""
        self._is_marked = False
        self._last_running = 0
        self._since = self._last_running
        """From this running time on everything was in the boot of _last, beginning with entry _first_since."""
        self._first_since = 0

    def __len__(self) -> int:
        return len(self._walls)

    @property
    def newest(self) -> Reading | None:
        """What the clocks said at the newest entry, dropped ones included, or in a later mark(); None if there was
        none."""
        return self._last

    def wall(self, index: int) -> int:
        """What the wall clock said."""
        return self._walls[index]

    def append(self, reading: Reading) -> None:
        """The next entry."""
        last, walls = self._last, self._walls
        if last and walls and not self._is_marked and 0 != last.boot == reading.boot:
            elapsed, gone = reading.boot_ns - last.boot_ns, reading.wall_ns - last.wall_ns
            if elapsed >= 0 <= gone and -JITTER_NS <= gone - elapsed <= JITTER_NS:
                # As nearly always: no seam.
                self._last, self._last_running = reading, self._last_running + elapsed
                walls.append(reading.wall_ns)
                self._running.append(self._last_running)
                return
        count = self._dropped + len(walls)
        if walls:
            self._add_seam(count, self._seam_to(reading))
        self._go_on(reading, count)
        self._is_marked = False
        walls.append(reading.wall_ns)
        self._running.append(self._last_running)

    def mark(self, reading: Reading) -> None:
        """All entries so far are older than this; later ones are not."""
        self._go_on(reading, self._dropped + len(self._walls))
        self._is_marked = True

    def drop(self, count: int) -> None:
        """Forget the first ones."""
        del self._walls[:count], self._running[:count]
        self._dropped += count
        gone = bisect_right(self._seams, self._dropped)
        del self._seams[:gone], self._jumps[:gone], self._reaches[:gone], self._measured[:gone]

    def clear(self) -> None:
        """Forget all."""
        self.drop(len(self._walls))

    def _go_on(self, reading: Reading, count: int) -> None:
        elapsed = elapsed_ns(self._last, reading) if self._last else None
        self._last_running += elapsed or 0
        if elapsed is None:
            self._since, self._first_since = self._last_running, count
        self._last = reading

    def _add_seam(self, count: int, seam: Seam | None) -> None:
        if seam:
            self._seams.append(count)
            self._jumps.append(max(min(seam.jump_ns, _FOR_EVER), -_FOR_EVER))
            self._reaches.append(min(seam.reach_ns, _FOR_EVER))
            self._measured.append(seam.is_measured)

    def _seam_to(self, later: Reading) -> Seam | None:
        """The seam between the newest entry and a reading."""
        last, before = self._last, len(self._walls) - 1
        assert last
        gone = later.wall_ns - self._walls[-1]
        elapsed = elapsed_ns(last, later)
        if elapsed is None or (self._is_marked and self._first_since > self._dropped + before):
            forced = not last.boot and gone == 1
            if not last.boot and not later.boot and gone > 1:
                # An entry of version 1, which knew only the wall clock.
                return None
            set_by = later.wall_ns - last.wall_ns - elapsed if elapsed is not None else 0
            jump = min(gone, 0) if gone < 0 or abs(set_by) <= JITTER_NS else set_by
            return Seam(before, -_FOR_EVER if forced else jump, later.boot_ns if later.boot else _FOR_EVER, False)
        total = self._last_running + elapsed - self._running[-1]
        jump = gone - total
        if gone >= 0 and abs(jump) <= JITTER_NS:
            return None
        return Seam(before, jump, total, True)

    def _all_seams(self, now: Reading) -> Iterator[Seam]:
        """From the newest one back, beginning with that to now, if there is one."""
        seam = self._seam_to(now)
        if seam:
            yield seam
        for at in range(len(self._seams) - 1, -1, -1):
            before = self._seams[at] - self._dropped - 1
            yield Seam(before, self._jumps[at], self._reaches[at], bool(self._measured[at]))

    def at_least_old(self, age_ns: int, now: Reading) -> int:
        """The newest entry that is at least this old, whatever the wall clock did. It may be older: time when the
        machine was off, or between two boots when nobody looked, does not count."""
        return bisect_right(self._running, self._running_now(now) - age_ns) - 1

    def due_ns(self, index: int, age_ns: int, now: Reading) -> int:
        """How long it takes until at_least_old() gives that entry."""
        return self._running[index] + age_ns - self._running_now(now)

    def _running_now(self, now: Reading) -> int:
        elapsed = elapsed_ns(self._last, now) if self._last else None
        return self._last_running + (elapsed or 0)

    def at_age(self, age_ns: int, now: Reading) -> int:
        """The newest entry that is this old: by the time since boot, and before this boot by the wall clock.

        Raises ClockDoubtError if that was set since, by more than SLIGHT_NS altogether.
        """
        if not self._walls:
            return -1
        assert self._last
        elapsed = elapsed_ns(self._last, now)
        end = len(self._walls)
        if elapsed is not None:
            running = self._last_running + elapsed - age_ns
            if running >= self._since:
                return bisect_right(self._running, running) - 1
            end = max(self._first_since - self._dropped, 0)
            if end == 0:
                return -1
        wall_ns, stop, set_by = now.wall_ns - age_ns, len(self._walls), 0
        found: int | None = None
        for seam in self._all_seams(now):
            start = seam.before + 1
            if found is None and start < min(stop, end) and wall_ns >= self._walls[start]:
                found = bisect_right(self._walls, wall_ns, start, min(stop, end)) - 1
            # Also one before it, in the same boot: it is not known which of the two is wrong.
            set_by += abs(seam.jump_ns)
            if set_by > SLIGHT_NS:
                raise ClockDoubtError(seam)
            if found is not None and not seam.is_measured:
                return found
            stop = start
        return found if found is not None else bisect_right(self._walls, wall_ns, 0, min(stop, end)) - 1

    def at_wall(self, wall_ns: int, now: Reading) -> int | None:
        """The newest entry that existed when the wall clock showed that time; None if it has not shown it yet.

        If the clock jumped over that time, the entry before the jump. Raises ClockDoubtError if it may have shown it
        twice, with different answers.
        """
        if not self._walls:
            return -1
        answers = _Answers()
        if wall_ns < self._walls[0]:
            answers.maybe.add(-1)
        doubtful = Seam(len(self._walls) - 1, 0, 0, False)
        stop, later = len(self._walls), now.wall_ns + 1
        if self._seam_to(now) is None and self._walls[-1] <= wall_ns <= now.wall_ns:
            answers.sure.add(stop - 1)
        for seam in self._all_seams(now):
            if seam.before < stop - 1:
                answers.sure.update(self._inside(seam.before + 1, stop, wall_ns))
                later, stop = self._walls[seam.before + 1], seam.before + 1
            answers.look_at(seam, self._walls[seam.before], later, wall_ns, wall_ns > now.wall_ns)
            if abs(seam.jump_ns) > abs(doubtful.jump_ns):
                doubtful = seam
        answers.sure.update(self._inside(0, stop, wall_ns))
        found = sorted(answers.decide(self._first_since - self._dropped if now.boot else len(self._walls)))
        if len(found) > 1:
            raise ClockDoubtError(doubtful, tuple(found))
        return found[0] if found else None

    def _inside(self, start: int, stop: int, wall_ns: int) -> tuple[int, ...]:
        """The entry of a part without seams after which, before the next one in it, the clock said so."""
        index = bisect_right(self._walls, wall_ns, start, stop) - 1
        return (index,) if start <= index < stop - 1 else ()

    def in_order_until(self, start: int) -> int:
        """The end of the part from an entry on in which the wall clock did not go back."""
        end = len(self._walls)
        for at in range(bisect_right(self._seams, start + self._dropped), len(self._seams)):
            index = self._seams[at] - self._dropped
            if self._walls[index] < self._walls[index - 1]:
                return index
        return end

    def last_until(self, start: int, wall_ns: int) -> int:
        """The last entry of that part up to what the wall clock said, `start` at least."""
        return max(bisect_right(self._walls, wall_ns, start, self.in_order_until(start)) - 1, start)
