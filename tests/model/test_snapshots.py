# SPDX-License-Identifier: BSD-3-Clause
"""Snapshots against a model that keeps every past state of the volume, whatever the volume goes through meanwhile."""

import functools
import itertools
import random
import time
from concurrent.futures import wait
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from tests.model.test_state_machine import PARAMETERS, WATERMARKS, VolumeMachine
from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.comparisons import as_export, as_list
from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.invariants import check_pins
from tests.support.matching import is_between, same
from tests.support.past_states import PastStates
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import OutsideWindowError, SnapshotEndedError, TagError
from wbcache_core.format.superblock import TAG_COUNT
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.config import DROP, HOLD

HISTORY = st.sampled_from(["off", "off", "200K", "3M", "1h", "1s"])
HISTORY_FULL = st.sampled_from([DROP, DROP, HOLD])
PICKS = st.integers(0, 2**16)
_ROUNDS = 8


def read_snapshot(snapshot):
    found = bytearray(snapshot.size)
    snapshot.read_into(found, 0)
    return found


class SnapshotMachine(VolumeMachine):
    """`past` has every state; `opened` the snapshots that are open; `pairs` the comparisons that are open, each with
    what the volume was before; `tags` what was tagged and not untagged.

    What is open or tagged depends on what the destager did meanwhile, so no rule has a precondition.
    """

    compared = 0
    held_up = 0
    """How often writers had to wait for who held."""

    def __init__(self):
        super().__init__()
        self.past = None
        self.opened = []
        self.pairs = []
        self.tags = {}
        self.history = "off"
        self.history_full = DROP

    def start(self, parameters, marks):
        low, high = marks
        self.cache = cache = self.pair.start(
            low_watermark=low, high_watermark=high, history=self.history, history_full=self.history_full, **parameters
        )  # fmt: skip
        if self.history_full == HOLD:
            for owner, names in ((cache.volume, ("write", "trim", "zero", "flush")), (cache, ("drain", "tag"))):
                for name in names:
                    setattr(owner, name, self.letting_go(getattr(owner, name)))
        self.parameters = parameters
        if self.past is None:
            self.past = PastStates(self.cache._line.head, self.live)

    def letting_go(self, function):
        """The same function, and whoever holds the origin back lets go when it has to wait for that."""

        def call(*arguments, **options):
            future = in_background(functools.partial(function, *arguments, **options))
            deadline = time.monotonic() + PATIENCE_S
            while not future.done() and time.monotonic() < deadline:
                wait([future], timeout=0.01)
                if self.is_held_up():
                    self.let_go()
            return future.result(0)

        return call

    def is_held_up(self):
        line = self.cache._line
        with line.lock:
            is_held = self.opened or self.pairs or self.tags
            return is_held and (line.room_waiters or line.origin_target > line.destaged)

    def let_go(self):
        """Nothing has ended by itself."""
        type(self).held_up += 1
        self.close_all()
        self.heed_dropped_tags()
        for name in list(self.tags):
            self.cache.untag(name)
        self.tags.clear()

    def note(self, durable):
        super().note(durable)
        with self.cache._line.lock:
            head = self.cache._line.head
        self.past.note(head, self.live)

    def heed_dropped_tags(self):
        """Writers come first: a tag may go. One that is there has to be as it was given."""
        _, _, tags = self.cache.window_ends()
        kept = {tag.name: tag for tag in tags}
        assert kept.items() <= self.tags.items()
        assert self.history_full == DROP or len(kept) == len(self.tags)
        self.tags = kept

    def heed_tags_in_the_log(self):
        """No server runs. Where a batch was only about to pass a tag, the log still has it."""
        log = FileDevice(str(self.pair.log), "log")
        try:
            found = {tag.name: tag for tag in newest(read_slots(log)).tags}
        finally:
            log.close()
        in_memory = {tag.name for tag in self.cache.window_ends()[2]}
        assert in_memory <= found.keys() and found.items() <= self.tags.items()
        self.tags = found

    def pick(self, number):
        generations, _ = self.cache.window()
        return generations[number % len(generations)] if generations else None

    def open(self, when):
        """None where writers have got ahead meanwhile."""
        try:
            return self.cache.open_snapshot(when)
        except (OutsideWindowError, SnapshotEndedError):
            return None

    def compare(self, snapshot):
        """Byte for byte; its extents too. False where it has ended."""
        try:
            found = read_snapshot(snapshot)
            extents = snapshot.extents(snapshot.size, 0)
        except SnapshotEndedError:
            assert self.history_full == DROP
            return False
        self.past.compare(found, snapshot.generation.end_lsn)
        for start, length, hole, zero in extents:
            assert zero or not hole
            assert not zero or not any(found[start : start + length])
        type(self).compared += 1
        return True

    @rule(number=PICKS)
    def open_any(self, number):
        generation = self.pick(number)
        snapshot = generation and self.open(str(generation.number))
        if snapshot:
            assert snapshot.generation == generation
            self.compare(snapshot)
            self.opened.append(snapshot)

    @invariant()
    def what_is_covered_is_as_it_was(self):
        """The oldest generation, the newest, and some between."""
        if self.cache and self.past:
            generations, _ = self.cache.window()
            for generation in generations[:: max(len(generations) // 4, 1)]:
                snapshot = self.open(str(generation.number))
                if snapshot:
                    self.compare(snapshot)
                    snapshot.close()

    @rule(number=PICKS, place=st.integers(0, 2**23), count=st.integers(0, 70_000))
    def read_a_part(self, number, place, count):
        if not self.opened:
            return
        snapshot = self.opened[number % len(self.opened)]
        offset = place % len(self.live)
        found = bytearray(min(count, len(self.live) - offset))
        try:
            snapshot.read_into(found, offset)
            whole = read_snapshot(snapshot)
        except SnapshotEndedError:
            assert self.history_full == DROP
            return
        same(found, whole[offset : offset + len(found)], offset)
        self.past.compare(whole, snapshot.generation.end_lsn)

    @rule(number=PICKS)
    def close_one(self, number):
        if self.opened:
            snapshot = self.opened.pop(number % len(self.opened))
            self.compare(snapshot)
            snapshot.close()

    @rule(number=PICKS, other=PICKS)
    def open_two(self, number, other):
        two = [one for one in (self.pick(number), self.pick(other)) if one]
        two.sort(key=lambda one: one.number)
        snapshot = self.open(str(two[0].number)) if len(two) == 2 else None
        if snapshot is None:
            return
        try:
            before = read_snapshot(snapshot)
            pair = self.cache.open_export(f"{two[0].number}..{two[1].number}"), before
        except (OutsideWindowError, SnapshotEndedError):
            return
        finally:
            snapshot.close()
        if self.compare_two(*pair):
            self.pairs.append(pair)

    def compare_two(self, export, before):
        """What was read before, with what has changed since, is the volume as it was then. False where it has ended."""
        try:
            after = read_snapshot(export)
            as_export(export, before, after)
            as_list(export, before, after)
        except SnapshotEndedError:
            assert self.history_full == DROP
            export.close()
            return False
        self.past.compare(after, export.end.end_lsn)
        return True

    @rule(number=PICKS)
    def close_two(self, number):
        if self.pairs:
            pair = self.pairs.pop(number % len(self.pairs))
            self.compare_two(*pair)
            pair[0].close()

    @rule(number=PICKS, past=st.booleans())
    def tag(self, number, past):
        self.heed_dropped_tags()
        name = f"tag {number}"
        generation = self.pick(number)
        when = str(generation.number) if generation and past else None
        if name in self.tags or len(self.tags) == TAG_COUNT:
            with pytest.raises(TagError):
                self.cache.tag(name, when)
            return
        try:
            self.tags[name] = self.cache.tag(name, when)
        except OutsideWindowError:
            return
        if when is None:
            self.note(durable=True)

    @rule(number=PICKS)
    def untag(self, number):
        self.heed_dropped_tags()
        if self.tags:
            name = sorted(self.tags)[number % len(self.tags)]
            try:
                self.cache.untag(name)
            except TagError:
                # Writers needed the space just now.
                assert name not in {tag.name for tag in self.cache.window_ends()[2]}
            del self.tags[name]

    @rule(number=PICKS)
    def open_a_tag(self, number):
        self.heed_dropped_tags()
        if self.tags:
            tag = self.tags[sorted(self.tags)[number % len(self.tags)]]
            try:
                snapshot = self.cache.open_snapshot(tag.name)
            except TagError:
                return
            assert tuple(snapshot.generation) == tag[1:]
            self.compare(snapshot)
            snapshot.close()

    def close_all(self):
        for snapshot in self.opened:
            self.compare(snapshot)
            snapshot.close()
        self.opened.clear()
        for pair in self.pairs:
            self.compare_two(*pair)
            pair[0].close()
        self.pairs.clear()

    @rule(parameters=PARAMETERS, marks=WATERMARKS, history=HISTORY, full=HISTORY_FULL, keep=st.booleans())
    def stop_and_start(self, parameters, marks, history, full, keep):
        self.heed_dropped_tags()
        if not keep:
            self.close_all()
        kept, self.opened = [*self.opened, *(export for export, _ in self.pairs)], []
        self.pairs = []
        in_background(self.cache.stop).result(PATIENCE_S)
        self.heed_tags_in_the_log()
        for snapshot in kept:
            snapshot.close()
        if self.parameters["on_exit"] == "destage" and not self.tags:
            same(self.pair.origin.read_bytes(), self.live)
        check_pair(self.pair.log, self.pair.origin)
        self.note(durable=True)
        self.history, self.history_full = history, full
        self.start(parameters, marks)
        self.heed_dropped_tags()
        same(self.read_all(), self.live)

    @rule(flush=st.booleans(), parameters=PARAMETERS, marks=WATERMARKS, history=HISTORY, full=HISTORY_FULL)
    def crash_and_start(self, flush, parameters, marks, history, full):
        if flush:
            self.flush()
        in_background(abandon, self.cache).result(PATIENCE_S)
        self.heed_tags_in_the_log()
        for snapshot in [*self.opened, *(export for export, _ in self.pairs)]:
            snapshot.close()
        self.opened, self.pairs = [], []
        check_pair(self.pair.log, self.pair.origin)
        self.history, self.history_full = history, full
        self.start(parameters, marks)
        found = self.read_all()
        self.live[:] = found
        assert is_between(found, self.states), "neither the durable content nor any later state"
        with self.cache._line.lock:
            head = self.cache._line.head
        self.past.forget_from(head)
        self.note(durable=True)
        self.past.forget_below(self.cache._pins.floor)
        self.heed_dropped_tags()

    def teardown(self):
        try:
            if self.cache:
                self.close_all()
                for name in list(self.tags):
                    self.heed_dropped_tags()
                    if name in self.tags:
                        self.cache.untag(name)
                        del self.tags[name]
        finally:
            super().teardown()


@pytest.mark.parametrize(
    ("folder", "examples", "least"), [*[("/dev/shm", 12, 417)] * 6, (None, 10, 100)], ids=[*"abcdef", "on disk"]
)  # fmt: skip
def test_snapshots_against_all_past_states(folder, examples, least, record_property):
    """So many comparisons at least; more examples where those that were drawn open few moments."""

    class Machine(SnapshotMachine):
        pass

    Machine.folder = folder if folder and Path(folder).is_dir() else None
    for _ in range(_ROUNDS):
        run_state_machine_as_test(
            Machine,
            settings=settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
        )
        if Machine.compared >= least:
            break
    print(f"{Machine.compared} snapshots compared; {Machine.held_up} times writers waited for them")
    assert Machine.compared >= least
    record_property("past moments compared", Machine.compared)


class Writer:
    """One thread's random requests, each noted in the model, while others read."""

    def __init__(self, cache, size, seed):
        self._cache = cache
        self._random = random.Random(seed)
        self.live = bytearray(size)
        self.past = PastStates(cache._line.head, self.live)
        self.stop = False

    def run(self):
        while not self.stop:
            self.step()

    def step(self):
        offset = self._random.randrange(len(self.live))
        count = min(self._random.choice((100, 4096, 9000, 100_000)), len(self.live) - offset)
        if self._random.random() < 0.2:
            self._cache.volume.trim(count, offset)
            self.live[offset : offset + count] = bytes(count)
        else:
            data = self._random.randbytes(count)
            self._cache.volume.write(data, offset, fua=self._random.random() < 0.3)
            self.live[offset : offset + count] = data
        self.past.note(self._cache._line.head, self.live)


@pytest.mark.parametrize(
    "parameters",
    [
        {"history": "2M", "log_size": "16M"},
        {"history": "300ms", "destage_delay": "0", "log_size": "16M"},
        {"history": "off", "destage_delay": "0", "log_size": "8M", "low_watermark": "10", "high_watermark": "50"},
        {"history": "1h", "log_size": "4M", "compress": "zstd"},
    ],
    ids=str,
)
def test_snapshots_that_are_read_while_writes_and_destaging_go_on(pair, parameters):
    """Some are held for a while, and read again and again: nothing may change, or it ends with an error."""
    seed, size = random.randrange(2**32), 3 * 2**20 + 512
    print(f"seed {seed}")
    pair.make_origin(size)
    cache = pair.start(commit_interval="5ms", **parameters)
    writer = Writer(cache, size, seed)
    choose = random.Random(seed + 1)
    running = in_background(writer.run)
    held, found_at, ended = [], [], 0
    deadline = time.monotonic() + 6
    try:
        for turn in itertools.count():
            if time.monotonic() > deadline or running.done():
                break
            generations, _ = cache.window()
            if generations and len(held) < 4:
                try:
                    held.append(cache.open_snapshot(str(choose.choice(generations).number)))
                except (OutsideWindowError, SnapshotEndedError):
                    continue
            snapshot = held[turn % len(held)] if held else None
            if snapshot:
                try:
                    found_at.append((read_snapshot(snapshot), snapshot.generation.end_lsn))
                except SnapshotEndedError:
                    ended += 1
                    held.remove(snapshot)
                    snapshot.close()
                else:
                    if choose.random() < 0.2:
                        held.remove(snapshot)
                        snapshot.close()
            if len(found_at) > 200:
                break
    finally:
        writer.stop = True
        running.result(PATIENCE_S)
        for snapshot in held:
            snapshot.close()
    with cache._line.lock:
        check_pins(cache._pins)
    for found, lsn in found_at:
        writer.past.compare(found, lsn)
    assert writer.past.compared > 10, f"{ended} have ended"
    cache.drain()
    same(pair.origin.read_bytes(), writer.live)


def test_a_range_after_a_request_with_a_commit_in_its_middle():
    """The range takes no LSN. What was committed before it is a part of the request alone."""
    machine = SnapshotMachine()
    try:
        machine.begin(
            size=1 << 20, seed=None, marks=("0", "1"),
            parameters={
                "ring_size": "1M", "commit_size": "512K", "commit_interval": "1h", "destage_delay": "0",
                "destage_depth": "1", "compress": "off", "ack": "ram", "flush": "log", "fua": "log",
                "on_exit": "commit",
            },
        )  # fmt: skip
        machine.write(alignment=1, compressible=False, count=1 << 20, fua=False, place=0, seed=0)
        machine.clear(alignment=1, count=4096, fua=False, kind="trim", place=0)
        generations, _ = machine.cache.window()
        assert machine.past._heads[-2] < generations[-1].end_lsn < machine.past._heads[-1]
        machine.what_is_covered_is_as_it_was()
    finally:
        machine.teardown()


def test_a_commit_between_a_range_and_the_part_of_a_page_behind_it():
    """The range stands at an LSN that was there before the request, so the moment that ends there has it."""
    machine = SnapshotMachine()
    try:
        machine.begin(
            size=1 << 20, seed=None, marks=("0", "1"),
            parameters={
                "ring_size": "1M", "commit_size": "512K", "commit_interval": "1h", "destage_delay": "0",
                "destage_depth": "1", "compress": "off", "ack": "ram", "flush": "log", "fua": "log",
                "on_exit": "commit",
            },
        )  # fmt: skip
        machine.write(alignment=1, compressible=False, count=3 * 4096, fua=False, place=0, seed=0)
        volume = machine.cache.volume
        zero_pieces = volume._zero_pieces

        def commit_first(offset, end, ack):
            if offset < end:
                volume.flush()
            return zero_pieces(offset, end, ack)

        volume._zero_pieces = commit_first
        machine.clear(alignment=1, count=2 * 4096 + 100, fua=False, kind="trim", place=0)
        del volume._zero_pieces
        generations, _ = machine.cache.window()
        assert generations[-1].end_lsn == machine.past._heads[-2]
        machine.what_is_covered_is_as_it_was()
    finally:
        machine.teardown()
