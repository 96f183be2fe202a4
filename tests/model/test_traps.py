# SPDX-License-Identifier: BSD-3-Clause
"""Known traps of write-back caches, one or more tests each; each section is named after its trap."""

import errno
import itertools
import random
import threading

import pytest

from tests.support.abandon import abandon
from tests.support.gated_origin import PATIENCE_S, GatedOrigin, in_background, wait_until
from tests.support.local_pair import QUIET
from tests.support.matching import same
from wbcache_core.errors import DamagedPageError, OriginFailedError, StoppedError
from wbcache_core.flow import failure, sweeper
from wbcache_core.format.superblock import DATA_START
from wbcache_core.units import MIB, PAGE_BYTES

SPARSE_BYTES = 80 * MIB
"""Has room for what makes the map be swept."""

MANY = 50
"""More rounds than a step of a test ever takes."""


def read(volume, count, offset=0):
    found = bytearray(count)
    volume.read_into(found, offset)
    return bytes(found)


@pytest.fixture
def short_patience(monkeypatch):
    """Requests that need an origin that fails are not kept waiting as long as clients are."""
    monkeypatch.setattr(failure, "ORIGIN_PATIENCE", 0.2)


# A request larger than the free log hangs for ever.


def test_a_write_larger_than_log_and_ring_goes_through(pair):
    pair.make_origin(16 * MIB)
    cache = pair.start(**QUIET)
    data = random.Random(1).randbytes(12 * MIB + 1000)
    in_background(cache.volume.write, data, 300).result(PATIENCE_S)
    same(read(cache.volume, 16 * MIB), bytes(300) + data + bytes(4 * MIB - 1300))


@pytest.mark.parametrize("clear", ["trim", "zero"])
def test_clearing_the_whole_volume_takes_no_more_log_than_any_other_request(pair, clear):
    pair.make_origin(b"x" * MIB)
    cache = pair.start(**QUIET)
    cache.volume.write(b"y" * 4096, 0)
    before = cache._line.head
    getattr(cache.volume, clear)(MIB, 0)
    assert cache._line.head == before
    same(read(cache.volume, MIB), bytes(MIB))


def test_a_write_larger_than_the_log_fails_when_the_origin_does(pair, short_patience):
    pair.make_origin(16 * MIB)
    origin = GatedOrigin(pair.origin)
    origin.errno_of_writes = errno.ENOSPC
    cache = pair.start(origin, **QUIET)
    with pytest.raises(OriginFailedError) as failure:
        in_background(cache.volume.write, b"x" * 12 * MIB, 0).result(PATIENCE_S)
    assert failure.value.errno_value == errno.ENOSPC

    origin.errno_of_writes = 0
    wait_until(lambda: not cache._line.origin_error)
    in_background(cache.volume.write, b"y" * 12 * MIB, 0).result(PATIENCE_S)
    cache.drain()
    same(pair.origin.read_bytes(), b"y" * 12 * MIB + bytes(4 * MIB))


# The map follows completion order while replay follows log order.


@pytest.mark.parametrize("seed", range(8))
def test_what_is_read_now_is_what_a_replay_finds(pair, seed):
    """Requests that overlap have no certain order, but the live volume and the log have to agree on one."""
    pair.make_origin(8 * PAGE_BYTES)
    cache = pair.start(**QUIET)
    volume = cache.volume

    def overwrite(number):
        rng = random.Random(seed * 100 + number)
        for _ in range(100):
            count = rng.choice((PAGE_BYTES, PAGE_BYTES, 3 * PAGE_BYTES, 700))
            offset = rng.randrange(0, volume.size - count, 512)
            if rng.random() < 0.1:
                volume.trim(count, offset)
            else:
                volume.write(rng.randbytes(count), offset - offset % PAGE_BYTES * (count % PAGE_BYTES == 0))

    writers = [threading.Thread(target=overwrite, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    live = read(volume, volume.size)
    volume.flush()
    abandon(cache)
    cache = pair.start()
    same(read(cache.volume, volume.size), live)
    cache.drain()
    same(pair.origin.read_bytes(), live)


# A read-fill that races a write puts back old data.


def let_pass(cache):
    """The write is only in the ring."""


def drain(cache):
    """The write is on the origin, and still in log and ring."""
    cache.drain()


def push_out(cache):
    """The write is only on the origin: its place in the log has been given up."""
    lsn = cache._line.head
    for _ in range(MANY):
        if cache._line.oldest >= lsn:
            return
        cache.volume.write(bytes(MIB), 4 * MIB)
        cache.drain()
    raise AssertionError("the log is never given up")


def sweep_out(cache):
    """The map has forgotten that there was a write to the sixth block."""
    for _ in range(MANY):
        if not cache._locations.get(5):
            return
        push_out(cache)
    raise AssertionError("the map is never swept")


def forget_trims(cache):
    """The origin has it, and the map has forgotten all trims of before, as it does where there are many."""
    lsn = cache._line.head
    for _ in range(MANY):
        if cache._locations.dropped_below >= lsn:
            return
        for number in range(1100):
            cache.volume.trim(PAGE_BYTES, 8 * MIB + number * 5 * PAGE_BYTES)
        cache.drain()
    raise AssertionError("the trims are never forgotten")


MEANWHILE = pytest.mark.parametrize("meanwhile", [let_pass, drain, push_out, sweep_out, forget_trims])


def start_gated(pair, **parameters):
    pair.make_origin(SPARSE_BYTES)
    with open(pair.origin, "r+b") as file:
        file.write(b"o" * MIB)
    origin = GatedOrigin(pair.origin)
    return origin, pair.start(origin, **parameters)


def hold_up_a_read(origin, function, *arguments):
    """Start a call and return when it has read from the origin and is held up there."""
    origin.has_read.clear()
    origin.read_gate.clear()
    future = in_background(function, *arguments)
    assert origin.has_read.wait(PATIENCE_S)
    return future


@MEANWHILE
@pytest.mark.parametrize("pages", [1, 20])
def test_a_slow_read_gives_no_old_data_for_what_was_written_before_it_ended(pair, meanwhile, pages):
    origin, cache = start_gated(pair)
    reading = hold_up_a_read(origin, read, cache.volume, pages * PAGE_BYTES, 5 * PAGE_BYTES)
    origin.has_read.clear()
    cache.volume.write(b"n" * PAGE_BYTES, 5 * PAGE_BYTES)
    meanwhile(cache)
    origin.read_gate.set()
    found = reading.result(PATIENCE_S)
    assert found == b"n" * PAGE_BYTES + b"o" * (pages - 1) * PAGE_BYTES
    assert read(cache.volume, 2 * PAGE_BYTES, 5 * PAGE_BYTES) == b"n" * PAGE_BYTES + b"o" * PAGE_BYTES


@pytest.mark.parametrize("pages", [1, 20])
def test_a_slow_read_gives_no_old_data_for_what_was_trimmed_and_forgotten_before_it_ended(pair, pages):
    origin, cache = start_gated(pair)
    reading = hold_up_a_read(origin, read, cache.volume, pages * PAGE_BYTES, 5 * PAGE_BYTES)
    origin.has_read.clear()
    cache.volume.trim(PAGE_BYTES, 5 * PAGE_BYTES)
    trimmed = cache._line.head - 1
    while cache._locations.get(5):
        for number in range(1100):
            cache.volume.trim(PAGE_BYTES, 8 * MIB + number * 5 * PAGE_BYTES)
        cache.drain()
    assert cache._line.oldest <= trimmed, "the map forgets before the log does"
    origin.read_gate.set()
    assert reading.result(PATIENCE_S) == bytes(PAGE_BYTES) + b"o" * (pages - 1) * PAGE_BYTES


def test_a_read_of_a_slow_origin_ends_while_the_map_is_being_swept(pair, monkeypatch):
    """Only what was committed since the look counts, not that something was forgotten."""
    monkeypatch.setattr(sweeper, "_LEAST_CLEARINGS", 1)
    origin, cache = start_gated(pair, **QUIET)
    for number in range(100):
        cache.volume.trim(PAGE_BYTES, 8 * MIB + number * 5 * PAGE_BYTES)
    cache.volume.flush()
    committed = cache._line.committed
    reading = hold_up_a_read(origin, read, cache.volume, PAGE_BYTES, 5 * PAGE_BYTES)
    cache.drain()
    wait_until(lambda: cache._locations.dropped_below == committed)
    origin.has_read.clear()
    origin.read_gate.set()
    assert reading.result(PATIENCE_S) == b"o" * PAGE_BYTES
    assert not origin.has_read.is_set(), "it is read once"


@MEANWHILE
def test_a_patch_of_a_page_that_is_read_slowly_keeps_what_others_wrote_into_it(pair, meanwhile):
    origin, cache = start_gated(pair)
    patching = hold_up_a_read(origin, cache.volume.write, b"p" * 100, 5 * PAGE_BYTES + 200)
    cache.volume.write(b"n" * PAGE_BYTES, 5 * PAGE_BYTES)
    meanwhile(cache)
    origin.read_gate.set()
    patching.result(PATIENCE_S)
    expected = b"n" * 200 + b"p" * 100 + b"n" * (PAGE_BYTES - 300)
    assert read(cache.volume, PAGE_BYTES, 5 * PAGE_BYTES) == expected
    cache.drain()
    assert pair.origin.read_bytes()[5 * PAGE_BYTES : 6 * PAGE_BYTES] == expected


@MEANWHILE
def test_a_patch_of_a_page_that_is_read_slowly_does_not_bring_back_what_was_trimmed(pair, meanwhile):
    origin, cache = start_gated(pair)
    patching = hold_up_a_read(origin, cache.volume.write, b"p" * 100, 5 * PAGE_BYTES + 200)
    cache.volume.trim(MIB, 0)
    meanwhile(cache)
    origin.read_gate.set()
    patching.result(PATIENCE_S)
    assert read(cache.volume, PAGE_BYTES, 5 * PAGE_BYTES) == bytes(200) + b"p" * 100 + bytes(PAGE_BYTES - 300)


@MEANWHILE
@pytest.mark.parametrize("where", ["in the log", "on the origin"])
def test_a_patch_starts_over_when_its_page_was_written_after_it_was_read(pair, monkeypatch, meanwhile, where):
    """Between reading the page and getting the lock, when nobody looks at the origin or the log any more."""
    _, cache = start_gated(pair)
    if where == "in the log":
        cache.volume.write(b"l" * PAGE_BYTES, 5 * PAGE_BYTES)
        cache.volume.write(bytes(2 * MIB), 20 * MIB)
    read_block, was_read, go_on = cache.volume._reader.read_block, threading.Event(), threading.Event()

    def read_and_wait(block):
        page = read_block(block)
        was_read.set()
        assert go_on.wait(PATIENCE_S)
        return page

    monkeypatch.setattr(cache.volume._reader, "read_block", read_and_wait)
    patching = in_background(cache.volume.write, b"p" * 100, 5 * PAGE_BYTES + 200)
    assert was_read.wait(PATIENCE_S)
    cache.volume.write(b"n" * PAGE_BYTES, 5 * PAGE_BYTES)
    meanwhile(cache)
    go_on.set()
    patching.result(PATIENCE_S)
    expected = b"n" * 200 + b"p" * 100 + b"n" * (PAGE_BYTES - 300)
    assert read(cache.volume, PAGE_BYTES, 5 * PAGE_BYTES) == expected


def test_two_patches_of_one_page_that_is_read_slowly(pair):
    origin, cache = start_gated(pair)
    first = hold_up_a_read(origin, cache.volume.write, b"1" * 100, 5 * PAGE_BYTES)
    origin.has_read.clear()
    second = in_background(cache.volume.write, b"2" * 100, 5 * PAGE_BYTES + 100)
    assert origin.has_read.wait(PATIENCE_S)
    origin.read_gate.set()
    first.result(PATIENCE_S)
    second.result(PATIENCE_S)
    assert read(cache.volume, 300, 5 * PAGE_BYTES) == b"1" * 100 + b"2" * 100 + b"o" * 100


# Each small flushed write takes a large slot.


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_a_small_flushed_write_takes_two_pages_of_log(pair, compress):
    pair.make_origin(MIB)
    cache = pair.start(compress=compress, **QUIET)
    before = cache._line.write_place
    for block in range(50):
        cache.volume.write(b"small" + bytes(PAGE_BYTES - 5), block * PAGE_BYTES)
        cache.volume.flush()
    assert cache._line.write_place == before + 2 * 50


def test_flushes_without_writes_take_no_log(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    before = cache._line.head
    for _ in range(10):
        cache.volume.flush()
        cache.volume.trim(0, 4096, fua=True)
        cache.volume.write(b"", 100, fua=True)
    assert (cache._line.head, cache._line.write_place) == (before, 0)


# A trim with an unaligned head or tail that zeroes the neighbours.


@pytest.mark.parametrize("clear", ["trim", "zero"])
@pytest.mark.parametrize("where", ["in the ring", "in the log", "on the origin"])
def test_clearing_leaves_the_neighbours_alone(pair, clear, where):
    """Each pair of edges has seven pages of the volume to itself."""
    edges = [1, 511, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES, 4 * PAGE_BYTES + 77]
    spans = list(itertools.combinations_with_replacement(edges, 2))
    size = len(spans) * 7 * PAGE_BYTES + 512
    content = bytearray(random.Random(7).randbytes(size))
    pair.make_origin(content if where == "on the origin" else size)
    cache = pair.start(**QUIET, ring_size="2M")
    if where != "on the origin":
        cache.volume.write(content, 0)
    if where == "in the log":
        cache.stop()
        cache = pair.start(**QUIET)
    for number, (start, end) in enumerate(spans):
        offset = number * 7 * PAGE_BYTES
        getattr(cache.volume, clear)(end - start, offset + start)
        content[offset + start : offset + end] = bytes(end - start)
    getattr(cache.volume, clear)(1000, size - 1000)
    content[-1000:] = bytes(1000)
    same(read(cache.volume, size), content)
    cache.drain()
    same(pair.origin.read_bytes(), content)


# A checksum that is never checked on the read path.


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_a_changed_byte_in_the_log_is_an_error_and_reaches_neither_client_nor_origin(pair, compress, short_patience):
    pages = [random.Random(page).randbytes(PAGE_BYTES // 2) * 2 for page in range(40)]
    pair.make_origin(len(pages) * PAGE_BYTES)
    cache = pair.start(compress=compress, **QUIET)
    cache.volume.write(b"".join(pages), 0)
    cache.stop()
    flip_byte(pair.log, DATA_START + 10 * PAGE_BYTES + 100)
    cache = pair.start(**QUIET)
    damaged = []
    for number, page in enumerate(pages):
        try:
            assert read(cache.volume, PAGE_BYTES, number * PAGE_BYTES) == page
        except DamagedPageError:
            damaged.append(number)
    assert damaged
    # Pages are compressed in frames of sixteen.
    assert damaged == [9] if compress == "off" else damaged[0] // 16 == damaged[-1] // 16
    with pytest.raises(DamagedPageError):
        read(cache.volume, len(pages) * PAGE_BYTES)
    with pytest.raises(DamagedPageError):
        cache.volume.write(b"patch", damaged[0] * PAGE_BYTES)
    with pytest.raises(OriginFailedError):
        cache.drain()
    assert not any(pair.origin.read_bytes())


def flip_byte(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 0x40]))


# A client that changes its buffer while the request is running, or afterwards.


def test_a_buffer_belongs_to_the_client_again_after_the_write(pair):
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    buffer = bytearray(b"a" * 3 * PAGE_BYTES)
    cache.volume.write(buffer, 100)
    buffer[:] = b"b" * len(buffer)
    assert read(cache.volume, len(buffer), 100) == b"a" * len(buffer)
    cache.drain()
    assert pair.origin.read_bytes()[100 : 100 + len(buffer)] == b"a" * len(buffer)


# Everything blocked wakes up when the server stops.


def test_a_writer_that_waits_for_log_space_is_woken_by_a_stop(pair):
    pair.make_origin(16 * MIB)
    origin = GatedOrigin(pair.origin)
    cache = pair.start(origin, **QUIET)
    origin.write_gate.clear()
    writing = in_background(cache.volume.write, b"x" * 12 * MIB, 0)
    wait_until(lambda: cache._line.room_waiters)
    cache.interrupt()
    with pytest.raises(StoppedError):
        writing.result(PATIENCE_S)
    origin.write_gate.set()
    in_background(cache.stop).result(PATIENCE_S)


def test_who_waits_for_the_origin_is_woken_by_a_stop(pair):
    pair.make_origin(MIB)
    origin = GatedOrigin(pair.origin)
    cache = pair.start(origin, ack="origin", **QUIET)
    origin.write_gate.clear()
    writing = in_background(cache.volume.write, b"x" * PAGE_BYTES, 0)
    assert origin.wants_to_write.wait(PATIENCE_S)
    cache.interrupt()
    with pytest.raises(StoppedError):
        writing.result(PATIENCE_S)
    origin.write_gate.set()
    in_background(cache.stop).result(PATIENCE_S)


def test_a_stop_at_the_end_of_an_idle_interval(pair):
    """The committer's wait runs out at the moment at which the stop is announced."""
    pair.make_origin(MIB)
    cache = pair.start(commit_interval="1h")
    line = cache._line
    wait, waits = line.commit_wanted.wait, threading.Event()

    def run_out_as_the_server_stops(timeout=None):
        waits.set()
        wait()
        return False

    with line.lock:
        line.commit_wanted.wait = run_out_as_the_server_stops
        line.commit_wanted.notify()
    assert waits.wait(PATIENCE_S)
    in_background(cache.stop).result(PATIENCE_S)
