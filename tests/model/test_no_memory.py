# SPDX-License-Identifier: BSD-3-Clause
"""MemoryError at every line of a write and of a commit: what is promised holds, and what is in memory agrees.

A request may fail then, and the volume may take no more writes. But no commit goes beyond a segment that nobody knows,
no LSN is given to two blocks, and what a client sees now is what a restart finds.
"""

import contextlib
import errno
import itertools

import pytest

from tests.support.checker import check_pair
from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.injected_errors import error_at
from tests.support.invariants import check_line
from tests.support.local_pair import QUIET
from wbcache_core.errors import RequestError
from wbcache_core.flow import batch_executor
from wbcache_core.units import MIB, PAGE_BYTES

STRUCTURES = tuple(
    f"memory/{name}.py" for name in ("segment_table", "record_index", "generations", "block_map")
)
MAP = tuple(f"memory/{name}.py" for name in ("block_map", "interval_leaf", "sparse_leaf", "ordered_table"))
COMMIT = (
    "flow/committer.py", "flow/failure.py", "log/segment_encoder.py", "log/writer.py", "log/log_sync.py",
    "memory/cursors.py", "memory/commit_attempts.py", "format/segment.py", *STRUCTURES,
)  # fmt: skip
WRITE = (
    "volume/volume.py", "flow/admission.py", "flow/failure.py", "memory/cursors.py", "memory/ring.py",
    "memory/open_segment.py", *MAP,
)  # fmt: skip
FAR = MIB
MOST_LINES = 2000


def read(volume, count, offset):
    found = bytearray(count)
    volume.read_into(found, offset)
    return bytes(found)


def page(letter):
    return letter * PAGE_BYTES


def lines(pair, origin):
    """Countdowns for error_at(), each with a new pair, until no line is left; the test sets `left`."""
    for countdown in itertools.count():
        assert countdown < MOST_LINES, "the injection never ends"
        # A new file: the one before is marked as that of its log.
        pair.origin.unlink(missing_ok=True)
        pair.log.unlink(missing_ok=True)
        pair.make_origin(origin)
        yield countdown
        pair.abandon()


def attempt(function, *arguments):
    """Whether it succeeded."""
    with contextlib.suppress(RequestError, MemoryError):
        function(*arguments)
        return True
    return False


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_a_commit(pair, compress):
    """The flush that fails, and the next one, which goes on behind it or must not."""
    struck = []
    for countdown in lines(pair, b"o" * 2 * MIB):
        cache = pair.start(compress=compress, **QUIET)
        volume = cache.volume
        volume.write(page(b"a"), 0, fua=True)
        volume.write(page(b"b") * 3, 5 * PAGE_BYTES)
        volume.trim(PAGE_BYTES, 9 * PAGE_BYTES)
        with error_at(countdown, COMMIT, ("_commit",)) as injection:
            first = attempt(volume.flush)
        if injection.struck is None:
            assert first
            break
        struck.append(injection.struck)
        second = attempt(volume.write, page(b"c"), FAR) and attempt(volume.flush)
        expected = {0: b"a", 5: b"b", 6: b"b", 7: b"b", 9: b"\0"}
        if second:
            expected[FAR // PAGE_BYTES] = b"c"
        for block, letter in expected.items():
            assert read(volume, PAGE_BYTES, block * PAGE_BYTES) == page(letter), injection.struck
        with cache._line.lock:
            check_line(cache._line)
        pair.abandon()
        check_pair(pair.log, pair.origin)
        again = pair.start(**QUIET)
        durable = expected if first or second else {0: b"a"}
        for block, letter in durable.items():
            assert read(again.volume, PAGE_BYTES, block * PAGE_BYTES) == page(letter), injection.struck
        again.drain()
        content = pair.origin.read_bytes()
        for block, letter in durable.items():
            assert content[block * PAGE_BYTES :][:PAGE_BYTES] == page(letter), injection.struck
    assert len(struck) > 40
    assert any("committer.py" in where for where in struck) and any("segment_table.py" in where for where in struck)


REQUESTS = {
    "a page": lambda volume: volume.write(page(b"n"), 0),
    "pages": lambda volume: volume.write(page(b"n") * 8, 0),
    "part of a page": lambda volume: volume.write(b"n" * 100, 50),
    "the 246th page": lambda volume: volume.write(page(b"n"), 0),
    "the 247th page": lambda volume: volume.write(page(b"n"), 0),
    "two regions": lambda volume: volume.write(page(b"n") * 8, 2 * MIB - 4 * PAGE_BYTES),
    "a trim": lambda volume: volume.trim(2 * MIB + 5 * PAGE_BYTES, PAGE_BYTES),
    "zeros": lambda volume: volume.zero(8 * PAGE_BYTES, 0, may_trim=False),
}
WRITTEN_BEFORE = {"the 246th page": 245, "the 247th page": 246}
"""The last page of a segment and the first of the next; otherwise some pages are in the segment."""
UNDISTURBED = {**QUIET, "commit_size": "3M"}
"""No commit comes of itself in between."""


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_write(pair, request_name):
    """What is read after the failure, and after another write, is what a restart and the origin have."""
    struck = 0
    for countdown in lines(pair, b"o" * 4 * MIB):
        cache = pair.start(**UNDISTURBED)
        volume = cache.volume
        before = WRITTEN_BEFORE.get(request_name, 3)
        for index in range(before):
            volume.write(page(b"%d" % (index % 10)), 3 * MIB + index * PAGE_BYTES)
        with error_at(countdown, WRITE, ("write", "trim", "zero")) as injection:
            attempt(REQUESTS[request_name], volume)
        if injection.struck is None:
            break
        struck += 1
        attempt(volume.write, page(b"x"), 4 * MIB - PAGE_BYTES)
        attempt(volume.trim, PAGE_BYTES, 4 * MIB - 2 * PAGE_BYTES)
        first = read(volume, 4 * MIB, 0)
        for index in range(before):
            assert first[3 * MIB + index * PAGE_BYTES :][:PAGE_BYTES] == page(b"%d" % (index % 10)), injection.struck
        volume.flush()
        assert read(volume, 4 * MIB, 0) == first, injection.struck
        with cache._line.lock:
            check_line(cache._line)
        cache.stop()
        check_pair(pair.log, pair.origin)
        again = pair.start(**QUIET)
        if not getattr(cache._line, "writes_ended", False):
            assert read(again.volume, 4 * MIB, 0) == first, injection.struck
        assert read(again.volume, MIB, 3 * MIB) == first[3 * MIB :], injection.struck
        again.drain()
        assert pair.origin.read_bytes() == read(again.volume, 4 * MIB, 0)
    assert struck > 5


CARRY = ("flow/carrier.py", *(f"memory/{name}.py" for name in ("cursors", "ring", "open_segment", "block_map")))


def test_what_is_carried_forward(pair):
    """As any other write, but in the destager's thread."""
    struck = 0
    for countdown in lines(pair, b"o" * 4 * MIB):
        cache = pair.start(**UNDISTURBED)
        cache.volume.write(page(b"a") + page(b"b"), 0, fua=True)
        carried = {0: memoryview(page(b"a")), 1: memoryview(page(b"b"))}
        with error_at(countdown, CARRY, ("_put",)) as injection, contextlib.suppress(MemoryError):
            cache._destager._carrier.carry(carried, cache._line.committed)
        if injection.struck is None:
            break
        struck += 1
        attempt(cache.volume.write, page(b"x"), FAR)
        attempt(cache.volume.write, page(b"y"), FAR + PAGE_BYTES)
        assert read(cache.volume, 2 * PAGE_BYTES, 0) == page(b"a") + page(b"b"), injection.struck
        cache.volume.flush()
        first = read(cache.volume, 4 * MIB, 0)
        with cache._line.lock:
            check_line(cache._line)
        cache.stop()
        check_pair(pair.log, pair.origin)
        again = pair.start(**QUIET)
        assert read(again.volume, 4 * MIB, 0) == first, injection.struck
    assert struck > 5


def test_no_memory_for_a_batch(pair, monkeypatch):
    """It is tried again, as a failure of the origin is."""
    pair.make_origin(MIB)
    cache = pair.start(**QUIET)
    cache.volume.write(page(b"a"), 0, fua=True)
    failures = [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()]
    allocate = batch_executor.aligned_buffer

    def fail_twice(length):
        if failures:
            raise failures.pop()
        return allocate(length)

    monkeypatch.setattr(batch_executor, "aligned_buffer", fail_twice)
    in_background(cache.drain).result(PATIENCE_S)
    assert not failures
    assert pair.origin.read_bytes()[:PAGE_BYTES] == page(b"a")
