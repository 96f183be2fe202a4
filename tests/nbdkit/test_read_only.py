# SPDX-License-Identifier: BSD-3-Clause
"""Nothing is written, nor a log created, before a client can write."""

import random

import pytest

from tests.support import clients

MIB = 1 << 20


@pytest.mark.parametrize(
    "settings", [{}, {"options": ["-r"]}, {"filters": ["cow"]}], ids=["no-client", "read-only", "cow"]
)
def test_no_log_is_created(pair, settings):
    content = random.Random(1).randbytes(MIB + 512)
    pair.make_origin(len(content), content)
    with pair.serve(check=False, **settings) as server:
        if settings:
            with clients.connection(server.uri) as handle:
                assert clients.read_all(handle) == content
    assert not pair.log.exists()
    assert pair.origin.read_bytes() == content


def test_a_blank_log_stays_blank_until_the_first_writer(pair):
    pair.make_origin(MIB)
    blank = bytes(16 * MIB)
    pair.log.write_bytes(blank)
    with pair.serve(check=False, options=["-r"]) as server:
        export = clients.nbdinfo(server.uri)
    assert export["is_read_only"] is True
    assert pair.log.read_bytes() == blank
    with pair.serve() as server:
        clients.qemu_io(server.uri, "write -P 0x77 0 4096")
    assert pair.log.read_bytes() != blank
    assert len(pair.log.read_bytes()) == len(blank)


def test_a_dirty_log_is_served_read_only_without_a_change(pair):
    pair.make_origin(4 * MIB)
    data = random.Random(2).randbytes(MIB)
    with pair.serve(destage_delay="1h") as server, clients.connection(server.uri) as handle:
        handle.pwrite(data, 12345)
        handle.flush()
        server.kill()
    before = pair.origin.read_bytes(), pair.log.read_bytes()
    with pair.serve(options=["-r"]) as server, clients.connection(server.uri) as handle:
        assert handle.pread(MIB, 12345) == data
        assert handle.is_read_only()
    assert (pair.origin.read_bytes(), pair.log.read_bytes()) == before


def test_the_log_is_beside_the_origin_by_default(pair):
    pair.make_origin(MIB)
    pair.log = pair.folder / "origin.img.wblog"
    with pair.serve(log_size="8M") as server:
        clients.qemu_io(server.uri, "write -P 0x77 0 4096")
    assert pair.log.stat().st_size == 8 * MIB
