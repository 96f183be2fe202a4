# SPDX-License-Identifier: BSD-3-Clause
"""One bit of a log changed at rest: reads give the right data or one of our errors, the origin never gets garbage.

A sample of each part of the log; sweep.py does every bit. WBCACHE_TEST_SEED chooses another sample.
"""

import os
import random
import signal

import pytest

from tests.corruption.log_images import (
    BLOCKS,
    CRASHED,
    LOG_BYTES,
    ORIGIN_BYTES,
    SHAPES,
    STOPPED,
    Damaged,
    log_image,
    make_config,
)
from tests.corruption.sweep import sweep
from tests.support.simulated_disk import MemoryDisk
from tests.support.simulated_threads import Simulation
from wbcache_core.errors import WbcacheError
from wbcache_core.format.segment import MAGIC
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.server.cache import Cache
from wbcache_core.tools.checker import examine
from wbcache_core.units import PAGE_BYTES, SECTOR_BYTES

SEED = os.environ.get("WBCACHE_TEST_SEED", "1")
LIMIT_S = 250
HEADER_BYTES, CHECKSUM_BYTES = 152, 8
SUPERBLOCK_BYTES = 1024
SWEEP_STEP = 499

shapes = pytest.mark.parametrize(("compress", "end"), SHAPES, ids=lambda value: value)


@pytest.fixture(autouse=True)
def alarm():
    """A hang fails."""

    def fail(*_):
        raise AssertionError(f"no end after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pages_of(image):
    """Offsets of (descriptors, payload pages)."""
    descriptors, payload = [], []
    for offset in range(DATA_START, image.used_bytes, PAGE_BYTES):
        (descriptors if image.log[offset : offset + 8] == MAGIC else payload).append(offset)
    return descriptors, payload


def in_superblocks(image, rng):
    for start in SLOT_OFFSETS:
        yield from rng.sample(range(start, start + SUPERBLOCK_BYTES), 60)
        yield from rng.sample(range(start + SUPERBLOCK_BYTES, start + PAGE_BYTES), 12)


def in_descriptor_headers(image, rng):
    for start in pages_of(image)[0]:
        yield from rng.sample(range(start, start + HEADER_BYTES), 20)
        yield from rng.sample(range(start + PAGE_BYTES - CHECKSUM_BYTES, start + PAGE_BYTES), 3)


def in_entries(image, rng):
    for start in pages_of(image)[0]:
        yield from rng.sample(range(start + HEADER_BYTES, start + HEADER_BYTES + 16 * 24), 12)
        yield from rng.sample(range(start + HEADER_BYTES + 16 * 24, start + PAGE_BYTES - CHECKSUM_BYTES), 4)


def in_payloads(image, rng):
    for start in pages_of(image)[1]:
        yield from rng.sample(range(start, start + PAGE_BYTES), 3)


@shapes
@pytest.mark.parametrize("part", [in_superblocks, in_descriptor_headers, in_entries, in_payloads])
def test_a_flipped_bit_is_never_read_as_data(part, compress, end):
    damaged = Damaged(log_image(compress, end))
    rng = random.Random(f"{SEED} {part.__name__} {compress} {end}")
    for offset in part(damaged.image, rng):
        bit = rng.randrange(8)
        damaged.flip(offset, bit)
        try:
            errors = damaged.check_reads()
            report = examine(MemoryDisk(damaged.log), MemoryDisk(damaged.origin))
        except Exception as error:
            raise AssertionError(f"seed {SEED}: bit {bit} of byte {offset}: {type(error).__name__}: {error}") from error
        damaged.flip(offset, bit)
        assert report.findings or errors == 0, f"seed {SEED}: bit {bit} of byte {offset}: the checker does not see it"


@shapes
def test_a_sample_of_all_bits(compress, end):
    """What the sweep does with every bit, with one in SWEEP_STEP."""
    outcomes = sweep(compress, end, random.Random(SEED).randrange(SWEEP_STEP), SWEEP_STEP)
    assert all(outcomes.values()), outcomes


@shapes
def test_what_is_not_damaged_is_read_as_it_was(compress, end):
    """The images themselves, without damage, are sound and whole."""
    damaged = Damaged(log_image(compress, end))
    assert damaged.check_reads() == 0
    assert examine(MemoryDisk(damaged.log), MemoryDisk(damaged.origin)).findings == []


def drain(log, origin):
    """What a server with on-exit=destage makes of damaged disks, from start to stop."""
    try:
        cache = Cache(make_config(on_exit="destage", destage_delay="50ms"), origin=origin, log=log)
        cache.activate()
        try:
            cache.drain()
        except WbcacheError:
            pass
        cache.stop()
    except WbcacheError:
        pass


@shapes
@pytest.mark.parametrize("part", [in_descriptor_headers, in_entries, in_payloads])
def test_a_flipped_bit_never_reaches_the_origin(part, compress, end):
    """Whatever is destaged from a damaged log, each page of the origin is one that a client wrote there."""
    image = log_image(compress, end)
    rng = random.Random(f"{SEED} destage {part.__name__} {compress} {end}")
    genuine = [
        {state[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] for state in image.states} for number in range(BLOCKS)
    ]
    for offset in rng.sample(list(part(image, rng)), 12):
        bit = rng.randrange(8)
        damaged = Damaged(image)
        damaged.flip(offset, bit)
        simulation = Simulation(offset)
        origin = MemoryDisk(damaged.origin, "origin")
        with simulation.patched():
            simulation.run(drain, MemoryDisk(damaged.log, "log"), origin)
        for number in range(BLOCKS):
            page = bytes(origin.content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])
            assert page in genuine[number], f"seed {SEED}: bit {bit} of byte {offset} is on the origin in page {number}"


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_a_log_truncated_at_any_sector_is_refused(compress):
    image = log_image(compress, CRASHED)
    view = memoryview(bytearray(image.log))
    origin = bytearray(image.origin)
    for size in range(SECTOR_BYTES, LOG_BYTES, SECTOR_BYTES):
        log = MemoryDisk(view[:size], "log")
        with pytest.raises(WbcacheError, match=r"cut short|needs at least"):
            Cache(make_config(), origin=MemoryDisk(origin, "origin"), log=log)


@shapes
def test_a_log_whose_end_was_lost_at_any_sector_is_never_read_as_data(compress, end):
    """Like a truncated log that was padded with zeros again. After a crash nobody can know that there was more."""
    damaged = Damaged(log_image(compress, end))
    image = damaged.image
    states = image.states if end == CRASHED else image.states[-1:]
    outcomes = []
    for start in range(image.used_bytes - SECTOR_BYTES, DATA_START, -SECTOR_BYTES):
        damaged.log[start : start + SECTOR_BYTES] = bytes(SECTOR_BYTES)
        outcomes.append(damaged.check_reads(states))
    assert outcomes[-1] == (None if end == STOPPED else 0)


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_reads_while_bits_come_back_flipped_from_the_device(compress):
    """The log is sound, but single requests are answered wrong."""
    image = log_image(compress, CRASHED)
    rng = random.Random(f"{SEED} transient {compress}")
    for offset in rng.sample(range(DATA_START, image.used_bytes), 100):
        log = FlakyDisk(bytearray(image.log), offset, rng)
        try:
            cache = Cache(make_config(), origin=MemoryDisk(bytearray(image.origin)), log=log)
        except WbcacheError:
            continue
        for start in range(0, ORIGIN_BYTES, PAGE_BYTES):
            page = bytearray(min(PAGE_BYTES, ORIGIN_BYTES - start))
            try:
                cache.volume.read_into(page, start)
            except WbcacheError:
                continue
            assert any(page == state[start : start + len(page)] for state in image.acceptable), f"seed {SEED}, {offset}"


class FlakyDisk(MemoryDisk):
    """Every second read of one byte gives another value."""

    def __init__(self, content, offset, rng):
        super().__init__(content, "log")
        self._offset = offset
        self._mask = 1 << rng.randrange(8)

    def read_into(self, view, offset):
        super().read_into(view, offset)
        if offset <= self._offset < offset + len(view):
            self._mask, mask = self._mask >> 8 or self._mask << 8, self._mask
            view[self._offset - offset] ^= mask & 0xFF
