# SPDX-License-Identifier: BSD-3-Clause
"""One mixed load at any byte alignment, checked against a model, over the configurations that change its path."""

import random

import pytest

from tests.support import clients
from tests.support.modelled_load import ModelledVolume

MIB = 1 << 20
SMALL = {"ring_size": "1M", "log_size": "16M"}
CONFIGURATIONS = {
    "default": ({}, 16 * MIB),
    "small": (SMALL, 64 * MIB),
    "small-zstd": ({**SMALL, "compress": "zstd"}, 64 * MIB),
    "zstd-level-6": ({"compress": "zstd:6"}, 8 * MIB),
    "ack-log": ({"ack": "log"}, 8 * MIB),
    "ack-origin": ({"ack": "origin"}, 4 * MIB),
    "flush-origin": ({"flush": "origin"}, 8 * MIB),
    "fua-origin": ({"fua": "origin"}, 8 * MIB),
    "small-ack-origin": ({**SMALL, "ack": "origin"}, 8 * MIB),
    "small-eager": ({**SMALL, "commit_interval": "10ms", "commit_size": "64K", "destage_delay": "50ms"}, 32 * MIB),
    "small-lazy": ({**SMALL, "destage_delay": "1h", "low_watermark": "70", "high_watermark": "90"}, 32 * MIB),
    "one-write-in-flight": ({**SMALL, "destage_depth": "1"}, 24 * MIB),
    "unpinned": ({"pin_thread_state": "off"}, 4 * MIB),
}
SIZES = {"small": 7 * MIB + 512, "small-zstd": 5 * MIB + 3584}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_volume_is_as_modelled(pair, name):
    """Live, after SIGTERM and restart, and in the origin alone after on-exit=destage."""
    settings, volume_of_writes = CONFIGURATIONS[name]
    size = SIZES.get(name, 6 * MIB + 512)
    source = random.Random(name)
    content = bytes(MIB) + source.randbytes(2 * MIB) + bytes(size - 3 * MIB)
    pair.make_origin(size, content)
    volume = ModelledVolume(content, seed=name)
    with pair.serve(**settings) as server:
        volume.run(server.uri, volume_of_writes)
        volume.compare(server.uri)
    with pair.serve(**settings) as server:
        volume.compare(server.uri)
        volume.run(server.uri, MIB)
        server.stop()
    with pair.serve(on_exit="destage", **settings) as server:
        volume.compare(server.uri)
    volume.compare_origin(pair.origin)


@pytest.mark.parametrize("offset", [0, 4095], ids=["aligned", "odd"])
def test_a_write_larger_than_ring_and_log(pair, offset):
    """32 MiB in one request through a ring of 1 MiB and a log of 16 MiB."""
    size = 33 * MIB + 512
    data = random.Random(9).randbytes(32 * MIB)
    pair.make_origin(size, b"\xee" * size)
    with pair.serve(**SMALL) as server, clients.connection(server.uri) as handle:
        handle.pwrite(data, offset)
        assert handle.pread(32 * MIB, offset) == data
    with pair.serve(on_exit="destage", **SMALL) as server, clients.connection(server.uri) as handle:
        assert handle.pread(32 * MIB, offset) == data
    content = pair.origin.read_bytes()
    assert content == b"\xee" * offset + data + b"\xee" * (size - offset - len(data))
