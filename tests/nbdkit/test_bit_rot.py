# SPDX-License-Identifier: BSD-3-Clause
"""A bit of the log that changed at rest: the page reads as EIO, never as data, and the origin never gets it."""

import contextlib
import random
import time

import nbd
import pytest

from tests.support import clients, damage
from tests.support.matching import same

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
SETTINGS = {"ring_size": "1M", "log_size": "16M", "destage_delay": "1h", "lifetime_s": 60}
NOISE = ["fails its checksum", "cannot be read back", "destaging goes on", "skipping the damaged page", "not complete"]
STOP_LIMIT_S = 5

OLD = random.Random(1).randbytes(SIZE)
PIECE = 32 * PAGE
FIRST_AT, SECOND_AT, THIRD_AT = MIB, 2 * MIB, 4 * MIB
BAD_AT = SECOND_AT + 5 * PAGE


def text(seed, size):
    """Data that zstd makes smaller."""
    return b"".join(b"%015d\n" % number for number in random.Random(seed).choices(range(10**6), k=size // 16))


FIRST, SECOND, FRESH = text(2, PIECE), text(3, PIECE), text(4, PAGE)
THIRD = text(5, 2 * MIB)


def volume(*pieces):
    content = bytearray(OLD)
    for data, offset in pieces:
        content[offset : offset + len(data)] = data
    return bytes(content)


WRITTEN = (FIRST, FIRST_AT), (SECOND, SECOND_AT), (THIRD, THIRD_AT)
WHOLE = volume(*WRITTEN)
MENDED = volume(*WRITTEN, (FRESH, BAD_AT))


def write_pieces(handle):
    """Three commits, the last of them larger than the ring."""
    for data, offset in WRITTEN:
        for place in range(0, len(data), MIB):
            handle.pwrite(data[place : place + MIB], offset + place)
        handle.flush()


def damage_second_segment(log, compress):
    """One bit in the page of the volume at BAD_AT, or, where that is compressed, in what it was packed into."""
    _, second, *_ = damage.descriptor_offsets(log)
    damage.flip_bit(log, second + PAGE + 300 if compress else second + 6 * PAGE + 300)


def assert_unreadable(handle, place, count=PAGE):
    with pytest.raises(nbd.Error) as caught:
        handle.pread(count, place)
    assert caught.value.errno == "EIO"


def unreadable_pages(handle):
    """Numbers of the pages of SECOND that give EIO; all the others give what was written."""
    bad = []
    for place in range(0, PIECE, PAGE):
        try:
            found = handle.pread(PAGE, SECOND_AT + place)
        except nbd.Error as error:
            assert error.errno == "EIO"
            bad.append(place // PAGE)
        else:
            same(found, SECOND[place : place + PAGE])
    return bad


def wait_for(server, words, limit_s=15):
    deadline = time.monotonic() + limit_s
    while words not in server.stderr_text():
        assert time.monotonic() < deadline, f"never said: {words}\n{server.describe()}"
        time.sleep(0.02)


@contextlib.contextmanager
def damaged_pair(pair, while_serving, compress, **settings):
    """A server on a log whose second commit has a bad page."""
    pair.make_origin(SIZE, OLD)
    settings = {**SETTINGS, **settings, **({"compress": "zstd"} if compress else {})}
    with pair.serve(check=False, tolerate=NOISE, **settings) as server:
        with clients.connection(server.uri) as handle:
            write_pieces(handle)
            if while_serving:
                damage_second_segment(pair.log, compress)
        if while_serving:
            yield server
            return
        server.kill()
    damage_second_segment(pair.log, compress)
    with pair.serve(check=False, tolerate=NOISE, **settings) as server:
        yield server


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize("while_serving", [True, False], ids=["while-serving", "at-rest"])
def test_bad_page(pair, while_serving, compress):
    with damaged_pair(pair, while_serving, compress, on_exit="destage") as server:
        with clients.connection(server.uri) as handle:
            bad = unreadable_pages(handle)
            assert (bad and max(bad) < 16) if compress else bad == [5]
            place = SECOND_AT + bad[0] * PAGE
            assert f"volume at {place} are lost" in server.stderr_text()
            assert_unreadable(handle, place - 77, 100)
            assert_unreadable(handle, SECOND_AT - PAGE, MIB)
            wait_for(server, "destaging is stalled")
            assert unreadable_pages(handle) == bad
            same(pair.origin.read_bytes(), volume((FIRST, FIRST_AT)))
            same(handle.pread(SECOND_AT, 0), WHOLE[:SECOND_AT])
            same(handle.pread(SIZE - SECOND_AT - PIECE, SECOND_AT + PIECE), WHOLE[SECOND_AT + PIECE :])
            handle.pwrite(b"new data all the same", 0)
            handle.flush()
        assert server.stop() < STOP_LIMIT_S
    same(pair.origin.read_bytes(), volume((FIRST, FIRST_AT)))


def test_rewriting_the_page_mends_it(pair):
    with damaged_pair(pair, True, False, on_exit="destage") as server:
        with clients.connection(server.uri) as handle:
            wait_for(server, "destaging is stalled")
            handle.pwrite(FRESH, BAD_AT)
            same(clients.read_all(handle), MENDED)
            handle.flush()
            wait_for(server, "destaging goes on")
    same(pair.origin.read_bytes(), MENDED)


def test_it_is_found_by_a_read_only_server(pair):
    with damaged_pair(pair, True, False) as server:
        server.kill()
    before = pair.log.read_bytes()
    with pair.serve(check=False, tolerate=NOISE, options=["-r"]) as server, clients.connection(server.uri) as handle:
        assert_unreadable(handle, BAD_AT)
        same(handle.pread(BAD_AT, 0), WHOLE[:BAD_AT])
    assert pair.log.read_bytes() == before


def test_what_the_log_has_lost_the_origin_has(pair):
    """The bad page is one that was destaged and is only kept for reading."""
    pair.make_origin(SIZE, OLD)
    with pair.serve(check=False, **SETTINGS) as server, clients.connection(server.uri) as handle:
        write_pieces(handle)
        deadline = time.monotonic() + 15
        while pair.origin.read_bytes() != WHOLE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        damage_second_segment(pair.log, False)
        same(clients.read_all(handle), WHOLE)


def test_bad_descriptor(pair):
    """Reads need it no more, destaging does; nothing wrong goes to the origin."""
    pair.make_origin(SIZE, OLD)
    settings = {**SETTINGS, "on_exit": "destage"}
    with pair.serve(check=False, tolerate=NOISE, **settings) as server:
        with clients.connection(server.uri) as handle:
            write_pieces(handle)
            damage.flip_bit(pair.log, damage.descriptor_offsets(pair.log)[1] + 200)
            same(clients.read_all(handle), WHOLE)
            wait_for(server, "destaging is stalled")
            same(clients.read_all(handle), WHOLE)
        assert server.stop() < STOP_LIMIT_S
    assert pair.origin.read_bytes() in (OLD, volume((FIRST, FIRST_AT)))
