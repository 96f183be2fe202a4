# SPDX-License-Identifier: BSD-3-Clause
"""A whole volume against a plain copy in memory: requests of any alignment, stops, crashes, new parameters."""

import random
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.invariants import check_line, check_map, check_pins
from tests.support.local_pair import LocalPair
from tests.support.matching import is_between, same
from wbcache_core.units import KIB, MIB, PAGE_BYTES

SIZES = (512, 3 * PAGE_BYTES + 512, MIB, 3 * MIB, 4 * MIB + 2 * PAGE_BYTES + 7 * 512)
"""The log of 4 MiB is about as large, so it goes round several times; a region of the map is 2 MiB."""

PARAMETERS = st.fixed_dictionaries(
    {
        "ring_size": st.sampled_from(["1M", "1100K", "3M"]),
        "commit_size": st.sampled_from(["512", "40K", "512K"]),
        "commit_interval": st.sampled_from(["1ms", "1h"]),
        "destage_delay": st.sampled_from(["0", "1h"]),
        "destage_depth": st.sampled_from(["1", "4"]),
        "compress": st.sampled_from(["off", "zstd", "zstd:3"]),
        "ack": st.sampled_from(["ram", "ram", "ram", "log", "origin"]),
        "flush": st.sampled_from(["log", "origin"]),
        "fua": st.sampled_from(["log", "origin"]),
        "on_exit": st.sampled_from(["commit", "destage"]),
    },
)
WATERMARKS = st.sampled_from([("0", "1"), ("25", "75"), ("98", "99")])

PLACES = st.integers(0, 20 * PAGE_BYTES) | st.integers(0, SIZES[-1])
ALIGNMENTS = st.sampled_from([1, 1, 512, PAGE_BYTES, PAGE_BYTES, 2 * MIB])
COUNTS = (
    st.integers(0, 2 * PAGE_BYTES)
    | st.integers(1, 40).map(lambda pages: pages * PAGE_BYTES)
    | st.integers(0, 300 * KIB)
    | st.sampled_from([300 * PAGE_BYTES, 2 * MIB, SIZES[-1]])
)


def make_data(seed, count, compressible):
    """Bytes that occur nowhere else, in the volume or in time; every 16 of them tell their place."""
    if not compressible:
        return random.Random(seed).randbytes(count)
    pages = [struct.pack("<QQ", seed + 1, page) * (PAGE_BYTES // 16) for page in range(count // PAGE_BYTES + 1)]
    return b"".join(pages)[:count]


class VolumeMachine(RuleBasedStateMachine):
    """`live` is what the volume has to hold. `states` is how it stood from the last moment on that is known to be
    durable, the present state last."""

    folder = None

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="wbcache-model-", dir=self.folder)
        self.pair = LocalPair(self._folder.name)
        self.cache = None
        self.live = bytearray()
        self.states = []

    @initialize(
        size=st.sampled_from(SIZES), seed=st.none() | st.integers(0, 99), parameters=PARAMETERS, marks=WATERMARKS
    )  # fmt: skip
    def begin(self, size, seed, parameters, marks):
        self.live[:] = bytes(size) if seed is None else make_data(1000 + seed, size, compressible=False)
        self.pair.make_origin(size if seed is None else self.live)
        self.states = [bytes(self.live)]
        self.start(parameters, marks)

    def start(self, parameters, marks):
        low, high = marks
        self.cache = self.pair.start(low_watermark=low, high_watermark=high, **parameters)
        self.parameters = parameters

    def span(self, place, alignment, count):
        offset = place % len(self.live)
        offset -= offset % alignment
        return offset, min(count, len(self.live) - offset)

    def note(self, durable):
        state = bytes(self.live)
        self.states = [state] if durable else [*self.states, state]

    def note_request(self, count, fua):
        # A request without data makes nothing durable.
        self.note(count > 0 and (fua or self.parameters["ack"] != "ram"))

    def read_all(self):
        found = bytearray(len(self.live))
        self.cache.volume.read_into(found, 0)
        return found

    @rule(
        place=PLACES, alignment=ALIGNMENTS, count=COUNTS, seed=st.integers(0, 2**32), compressible=st.booleans(),
        fua=st.sampled_from([False] * 7 + [True]),
    )  # fmt: skip
    def write(self, place, alignment, count, seed, compressible, fua):
        offset, count = self.span(place, alignment, count)
        data = make_data(seed, count, compressible)
        self.cache.volume.write(data, offset, fua)
        self.live[offset : offset + count] = data
        self.note_request(count, fua)

    @rule(
        pages=st.sampled_from([1, 3, 64, 90, 250]), times=st.integers(1, 12), flush=st.booleans(),
        seed=st.integers(0, 2**32), compressible=st.booleans(),
    )  # fmt: skip
    def fill_the_log(self, pages, times, flush, seed, compressible):
        """So that it goes round, and pages leave the ring: one write behind the other, all over the volume."""
        for number in range(times):
            place = number * 37 * PAGE_BYTES
            self.write(place, PAGE_BYTES, pages * PAGE_BYTES, seed + number, compressible, fua=False)
            if flush:
                self.flush()

    @rule(
        place=PLACES, alignment=ALIGNMENTS, count=COUNTS, fua=st.booleans(),
        kind=st.sampled_from(["trim", "zero", "zero but keep"]),
    )  # fmt: skip
    def clear(self, place, alignment, count, fua, kind):
        offset, count = self.span(place, alignment, count)
        if kind == "trim":
            self.cache.volume.trim(count, offset, fua)
        else:
            self.cache.volume.zero(count, offset, fua, may_trim=kind == "zero")
        self.live[offset : offset + count] = bytes(count)
        self.note_request(count, fua)

    @rule(place=PLACES, alignment=ALIGNMENTS, count=COUNTS)
    def read(self, place, alignment, count):
        offset, count = self.span(place, alignment, count)
        found = bytearray(count)
        self.cache.volume.read_into(found, offset)
        same(found, self.live[offset : offset + count], offset)

    @rule(place=PLACES, alignment=ALIGNMENTS, count=COUNTS)
    def extents(self, place, alignment, count):
        offset, count = self.span(place, alignment, count)
        self.cache.volume.prefetch(count, offset)
        position = offset
        for start, length, hole, zero in self.cache.volume.extents(count, offset):
            assert start == position and length > 0
            assert zero or not hole
            assert not zero or not any(self.live[start : start + length])
            position += length
        assert position == offset + count

    @rule()
    def flush(self):
        self.cache.volume.flush()
        self.note(durable=True)

    @rule()
    def drain(self):
        self.cache.drain()
        self.note(durable=True)
        same(self.pair.origin.read_bytes(), self.live)

    @rule(parameters=PARAMETERS, marks=WATERMARKS)
    def stop_and_start(self, parameters, marks):
        in_background(self.cache.stop).result(PATIENCE_S)
        if self.parameters["on_exit"] == "destage":
            same(self.pair.origin.read_bytes(), self.live)
        self.note(durable=True)
        self.start(parameters, marks)
        same(self.read_all(), self.live)

    @rule(flush=st.booleans(), parameters=PARAMETERS, marks=WATERMARKS)
    def crash_and_start(self, flush, parameters, marks):
        if flush:
            self.flush()
        in_background(abandon, self.cache).result(PATIENCE_S)
        check_pair(self.pair.log, self.pair.origin)
        self.start(parameters, marks)
        found = self.read_all()
        self.live[:] = found
        assert is_between(found, self.states), "neither the durable content nor any later state"
        # What recovery found is durable: it is in the log, and activate() has synced that.
        self.note(durable=True)

    @invariant()
    def structures_are_sound(self):
        if self.cache:
            with self.cache._line.lock:
                check_line(self.cache._line)
                check_map(self.cache._locations)
                check_pins(self.cache._pins)

    def teardown(self):
        try:
            if self.cache:
                same(self.read_all(), self.live)
                self.cache.drain()
                in_background(self.cache.stop).result(PATIENCE_S)
                same(self.pair.origin.read_bytes(), self.live)
                check_pair(self.pair.log, self.pair.origin)
        finally:
            self.pair.abandon()
            self._folder.cleanup()


@pytest.mark.parametrize(
    ("folder", "examples"), [*[("/dev/shm", 25)] * 3, (None, 10)], ids=[*"abc", "on disk"]
)  # fmt: skip
def test_volume_against_a_plain_copy(folder, examples):
    class Machine(VolumeMachine):
        pass

    Machine.folder = folder if folder and Path(folder).is_dir() else None
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )
