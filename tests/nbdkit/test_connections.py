# SPDX-License-Identifier: BSD-3-Clause
"""Several connections at once: they see each other's writes, and a flush on one of them counts for all."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import clients

MIB = 1 << 20
CONNECTIONS = 8
SHARE = MIB
NEVER = {"commit_interval": "1h", "destage_delay": "1h"}
SETTINGS = {
    "default": NEVER,
    "small": {"ring_size": "2M", "log_size": "16M", **NEVER},
    "flush-origin": {"flush": "origin", **NEVER},
    "zstd": {"compress": "zstd", **NEVER},
}


def _write_share(handle, number, seed):
    """Fill one connection's share of the volume in pieces of odd sizes and return it."""
    source = random.Random(f"{seed}/{number}")
    data = source.randbytes(SHARE)
    position = 0
    while position < SHARE:
        count = min(source.randint(1, 40000), SHARE - position)
        handle.pwrite(data[position : position + count], number * SHARE + position)
        position += count
    return data


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_one_flush_covers_all_connections(pair, settings):
    """Nothing but the flush commits here. The one that flushes has written nothing itself."""
    pair.make_origin(CONNECTIONS * SHARE)
    for seed in range(2):
        with pair.serve(**settings) as server:
            with clients.connections(server.uri, CONNECTIONS + 1) as handles, ThreadPoolExecutor(CONNECTIONS) as pool:
                shares = list(pool.map(_write_share, handles, range(CONNECTIONS), [seed] * CONNECTIONS))
                handles[-1].flush()
                server.kill()
        with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
            assert clients.read_all(handle) == b"".join(shares)


def test_fua_survives_a_kill(pair):
    """A FUA write is there after a kill, and so is all that was answered before it."""
    pair.make_origin(4 * MIB)
    with pair.serve(**NEVER) as server, clients.connections(server.uri, 2) as handles:
        handles[0].pwrite(b"\x11" * 5000, 1000)
        handles[1].pwrite(b"\x22" * 5000, MIB + 77, 1)
        handles[1].zero(100000, 2 * MIB)
        handles[0].trim(100, 1100, 1)
        server.kill()
    with pair.serve(**NEVER) as server, clients.connection(server.uri) as handle:
        assert handle.pread(7000, 0) == bytes(1000) + b"\x11" * 100 + bytes(100) + b"\x11" * 4800 + bytes(1000)
        assert handle.pread(5002, MIB + 76) == b"\0" + b"\x22" * 5000 + b"\0"


def test_connections_see_each_others_writes(pair):
    pair.make_origin(4 * MIB)
    choose = random.Random(6)
    with pair.serve(ring_size="1M", log_size="16M") as server, clients.connections(server.uri, 5) as handles:
        for _ in range(1500):
            data = choose.randbytes(choose.randint(1, 9000))
            offset = choose.randrange(4 * MIB - len(data))
            choose.choice(handles).pwrite(data, offset)
            assert choose.choice(handles).pread(len(data), offset) == data


@pytest.mark.parametrize("settings", [{}, {"ring_size": "1M", "log_size": "16M"}], ids=["default", "small"])
def test_writers_of_different_parts_of_a_page(pair, settings):
    """Eight connections go over the same pages, each with sectors of its own: every page gets all eight.

    The pages come from the origin at first, and in later rounds from ring or log.
    """
    pages, sector, rounds = 800, 512, 3
    content = bytearray(random.Random(9).randbytes(pages * 4096))
    pair.make_origin(len(content), content)

    def write_own_sectors(handle, number, mark):
        for page in range(pages):
            handle.pwrite(bytes([mark]) * sector, page * 4096 + number * sector)

    with pair.serve(**settings) as server:
        with clients.connections(server.uri, CONNECTIONS) as handles, ThreadPoolExecutor(CONNECTIONS) as pool:
            for round_number in range(rounds):
                marks = [round_number * CONNECTIONS + number + 1 for number in range(CONNECTIONS)]
                list(pool.map(write_own_sectors, handles, range(CONNECTIONS), marks))
                wanted = b"".join(bytes([mark]) * sector for mark in marks)
                found = clients.read_all(handles[0])
                torn = [page for page in range(pages) if found[page * 4096 : (page + 1) * 4096] != wanted]
                assert not torn, f"round {round_number}: {len(torn)} pages lack a sector, the first is {torn[0]}"
