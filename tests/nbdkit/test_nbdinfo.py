# SPDX-License-Identifier: BSD-3-Clause
"""What the export says of itself: size, capabilities, block sizes and the allocation map."""

import pytest

from tests.support import clients

MIB = 1 << 20
CAPABILITIES = "can_cache can_df can_fast_zero can_flush can_fua can_multi_conn can_trim can_zero".split()


@pytest.mark.parametrize("size", [512, 4096, 4608, 7 * MIB + 512, 6 << 30], ids=str)
def test_size_and_capabilities(pair, size):
    pair.make_origin(size)
    with pair.serve() as server:
        export = clients.nbdinfo(server.uri)
    assert export["export-size"] == size
    assert export["is_read_only"] is False
    assert {name: export[name] for name in CAPABILITIES} == dict.fromkeys(CAPABILITIES, True)
    assert export["block_size_minimum"] == 1
    assert export["block_size_preferred"] == 4096
    assert export["block_size_maximum"] == 32 * MIB
    assert "base:allocation" in export["contexts"]


def _kind(extents, offset, length):
    """The (hole, zero) flags seen inside a range."""
    return {(hole, zero) for start, size, hole, zero in extents if start < offset + length and start + size > offset}


def _assert_covers(extents, size):
    """The map is in order, without gap or overlap, and ends with the volume."""
    position = 0
    for offset, length, _, _ in extents:
        assert offset == position and length > 0
        position += length
    assert position == size


HOLE = {(True, True)}
DATA = {(False, False)}


def test_map_shows_the_origins_holes_and_data(pair):
    size = 8 * MIB + 512
    pair.make_origin(size)
    with open(pair.origin, "r+b") as origin:
        origin.seek(2 * MIB)
        origin.write(b"\x5a" * MIB)
    with pair.serve() as server:
        extents = clients.extent_map(server.uri)
        _assert_covers(extents, size)
        assert _kind(extents, 0, 2 * MIB) == HOLE
        assert _kind(extents, 2 * MIB, MIB) == DATA
        assert _kind(extents, 3 * MIB, size - 3 * MIB) == HOLE


def test_map_shows_writes_and_trims_before_and_after_a_restart(pair):
    size = 8 * MIB + 512
    pair.make_origin(size, b"\x5a" * (4 * MIB))

    def check(uri):
        extents = clients.extent_map(uri)
        _assert_covers(extents, size)
        assert _kind(extents, 0, MIB) == DATA
        assert _kind(extents, MIB, MIB) == HOLE
        assert _kind(extents, 2 * MIB, 65536) == HOLE
        assert _kind(extents, 2 * MIB + 65536, 2 * MIB - 65536) == DATA
        assert _kind(extents, 4 * MIB, MIB) == HOLE
        assert _kind(extents, 5 * MIB, 8192) == DATA
        assert _kind(extents, 5 * MIB + 8192, 3 * MIB + 512 - 8192) == HOLE

    with pair.serve() as server:
        with clients.connection(server.uri) as handle:
            handle.trim(MIB, MIB)
            handle.zero(65536, 2 * MIB)
            handle.pwrite(b"\xa5" * 8192, 5 * MIB)
            handle.pwrite(b"\xa5" * 4096, 7 * MIB)
            handle.trim(4096, 7 * MIB)
        check(server.uri)
    with pair.serve(on_exit="destage") as server:
        check(server.uri)
    with pair.serve() as server:
        check(server.uri)


def test_partly_trimmed_pages_stay_data(pair):
    size = MIB
    pair.make_origin(size, b"\x5a" * size)
    with pair.serve() as server:
        with clients.connection(server.uri) as handle:
            handle.trim(3 * 4096, 4096 + 100)
        extents = clients.extent_map(server.uri)
        assert _kind(extents, 2 * 4096, 2 * 4096) == HOLE
        assert _kind(extents, 4096, 100) == DATA
        assert _kind(extents, 4 * 4096 + 100, 4096 - 100) == DATA
