# SPDX-License-Identifier: BSD-3-Clause
"""Ages and times against a machine whose true time is known, whose clock is set, and which is started anew."""

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from wbcache_core.clock import Reading, elapsed_ns
from wbcache_core.memory.timeline import ClockDoubtError, Timeline

S = 10**9
START = 1_800_000_000 * S
HOUR, YEARS = 3600, 10 * 365 * 86400
WAITS = st.integers(1, 60)
JUMPS = st.sampled_from([2, 3, 30, 100, HOUR, YEARS]).flatmap(lambda seconds: st.sampled_from([seconds, -seconds]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), WAITS),
        st.tuples(st.just("commit"), WAITS),
        st.tuples(st.just("jump"), JUMPS),
        st.tuples(st.just("right"), st.just(0)),
        st.tuples(st.just("boot"), st.integers(1, 200)),
        st.tuples(st.just("mark"), WAITS),
    ),
    max_size=25,
)


class Machine:
    """`shown` are stretches of true time with what the clock was ahead: [begin, end, ahead]. Seconds, from START on."""

    def __init__(self):
        self.timeline = Timeline()
        self.now, self.ahead, self.boot, self.booted = 1000, 0, 1, 0
        self.commits = []
        self.shown = [[-5 * YEARS, None, 0]]
        self.boots = []
        self.known_since = None
        self.may_jump = True
        self.commit(0)

    def reading(self):
        return Reading(START + (self.now + self.ahead) * S, (self.now - self.booted) * S, self.boot)

    def commit(self, wait):
        self.now += wait
        self.timeline.append(self.reading())
        self.commits.append(self.now)
        if self.known_since is None:
            self.known_since = self.now
        self.may_jump = True

    def mark(self, wait):
        self.now += wait
        self.timeline.mark(self.reading())
        if self.known_since is None:
            self.known_since = self.now

    def jump(self, seconds):
        if self.may_jump and self.ahead + seconds + self.now > -YEARS * 2:
            self._set(self.ahead + seconds)
            # Between two commits nobody sees more than one.
            self.may_jump = False

    def right(self, _):
        self.jump(-self.ahead)

    def _set(self, ahead):
        self.shown[-1][1] = self.now
        self.shown.append([self.now, None, ahead])
        self.ahead = ahead

    def start_anew(self, off):
        """The clock is right when a machine starts, and somebody looks then."""
        self.shown[-1][1] = self.now
        self.now += off
        self.boots.append(self.now)
        self.booted, self.boot, self.ahead, self.known_since = self.now, self.boot + 1, 0, None
        self.shown.append([self.now, None, 0])
        self.commit(1)
        self.may_jump = True

    def run(self, steps):
        for name, value in steps:
            {"commit": self.commit, "jump": self.jump, "right": self.right, "boot": self.start_anew, "mark": self.mark}[
                name
            ](value)
        self.now += 1
        return self

    def at(self, true):
        """The index of the newest commit at a true time."""
        return sum(commit <= true for commit in self.commits) - 1

    def showing(self, wall):
        """The true times at which the clock said so."""
        for begin, end, ahead in self.shown:
            if begin <= wall - ahead <= (self.now if end is None else end):
                yield wall - ahead

    def passing(self, wall):
        """The true times at which it went past that: set ahead, or off meanwhile."""
        for (_, end, ahead), (begin, _, ahead_then) in zip(self.shown, self.shown[1:], strict=False):
            if end + ahead <= wall < begin + ahead_then:
                yield begin


@given(STEPS, st.integers(0, 1200))
@settings(max_examples=2000)
def test_an_age_is_right_or_refused(steps, age):
    machine = Machine().run(steps)
    now = machine.reading()
    try:
        found = machine.timeline.at_age(age * S, now)
    except ClockDoubtError:
        event("doubt")
        # In one boot there is none.
        assert machine.now - age < machine.known_since
        return
    assert found == machine.at(machine.now - age)


@example([("jump", 2)], 0, True)
@given(STEPS, st.integers(-300, 1500), st.booleans())
@settings(max_examples=400)
def test_a_time_is_right_or_refused(steps, offset, is_near_now):
    machine = Machine().run(steps)
    now = machine.reading()
    wall = machine.now + machine.ahead - offset if is_near_now else 1000 + offset
    true = {machine.at(one) for one in machine.showing(wall)}
    try:
        found = machine.timeline.at_wall(START + wall * S, now)
    except ClockDoubtError as doubt:
        event("doubt")
        assert len(set(doubt.indices)) > 1 and len(machine.shown) > 1
        return
    if found is None:
        assert wall > machine.now + machine.ahead
    elif true:
        assert found in true
    else:
        event("passed")
        assert found in {machine.at(one) for one in machine.passing(wall)}


@given(STEPS, st.integers(1, 600))
def test_what_is_kept_is_at_least_what_was_promised(steps, history):
    """No clock makes it less, and when the machine has run so long nothing older is kept."""
    machine = Machine().run(steps)
    kept = machine.timeline.at_least_old(history * S, machine.reading())
    assert kept <= machine.at(machine.now - history)
    machine.now += history
    assert machine.timeline.at_least_old(history * S, machine.reading()) == len(machine.commits) - 1


@given(STEPS, st.integers(0, 20), st.integers(0, 600))
def test_what_was_dropped_is_no_matter(steps, count, age):
    """Answers among what is left are as before, or refused."""
    machine = Machine().run(steps)
    now = machine.reading()
    count = min(count, len(machine.commits) - 1)

    def ask():
        try:
            return machine.timeline.at_age(age * S, now)
        except ClockDoubtError:
            return None

    before = ask()
    machine.timeline.drop(count)
    after = ask()
    if before is not None and after is not None:
        assert after == max(before - count, -1)


def test_a_machine_that_was_taken_back_counts_as_another_boot():
    assert elapsed_ns(Reading(5, 100, 7), Reading(9, 50, 7)) is None
    assert elapsed_ns(Reading(5, 100, 7), Reading(1, 150, 7)) == 50
    assert elapsed_ns(Reading(5), Reading(9)) is None


def test_a_log_of_version_1_with_a_clock_that_was_ahead_once():
    """The times were made to grow: those after the jump stand for nothing."""
    timeline = Timeline()
    walls = [START + second * S for second in (0, 1, 2)] + [START + YEARS * S + one for one in (0, 1, 2)]
    for wall in walls:
        timeline.append(Reading(wall))
    for ask in (lambda now: timeline.at_age(S, now), lambda now: timeline.at_wall(now.wall_ns - S, now)):
        try:
            found = ask(Reading(START + 100 * S, 5 * S, 7))
        except ClockDoubtError:
            continue
        raise AssertionError(found)
    # The same log, with a clock that was right.
    timeline = Timeline()
    for wall in walls[:3]:
        timeline.append(Reading(wall))
    now = Reading(START + 100 * S, 5 * S, 7)
    assert [timeline.at_age(age * S, now) for age in (1, 98, 99, 100, 101)] == [2, 2, 1, 0, -1]
    assert timeline.at_wall(START + S, now) == 1
