# SPDX-License-Identifier: BSD-3-Clause
"""qemu's NBD client: qemu-io at odd offsets, qemu-img bench with flushes at depth 64, compare and convert."""

import json
import random
from bisect import bisect_right

import pytest

from tests.support import clients

MIB = 1 << 20
SMALL = {"ring_size": "1M", "log_size": "16M"}


def test_qemu_io_reads_back_every_kind_of_write(pair):
    size = 8 * MIB + 512
    pair.make_origin(size, b"\xee" * size)
    reads = [
        "read -P 0xee 0 4095",
        "read -P 0x11 4095 513",
        "read -P 0xee 4608 57",
        "read -P 0x22 4665 8191",
        "read -P 0xee 12856 1",
        "read -P 0 65536 65536",
        "read -P 0xee 131072 1",
        "read -P 0 131073 70001",
        "read -P 0xee 201074 100",
        "read -P 0 1048576 1048576",
        "read -P 0x33 2097152 4096",
        "read -P 0x44 3000001 1",
        "read -P 0xee 3000002 1",
        "read -P 0x55 8388607 513",
    ]
    with pair.serve() as server:
        clients.qemu_io(
            server.uri,
            "write -P 0x11 4095 513",
            "write -P 0x22 4665 8191",
            "write -z 65536 65536",
            "write -z 131073 70001",
            "write -z -u 1048576 524288",
            "discard 1572864 524288",
            "write -f -P 0x33 2097152 4096",
            "write -z -f 6000000 4097",
            "write -P 0x44 3000001 1",
            "write -P 0x55 8388607 513",
            "flush",
            *reads,
        )
    with pair.serve(on_exit="destage") as server:
        clients.qemu_io(server.uri, *reads, "read -P 0 6000000 4097")
    assert pair.origin.read_bytes()[4095:4608] == b"\x11" * 513


def test_discard_leaves_its_neighbours(pair):
    """qemu rounds a discard inwards, so what must be zero is what the server was asked for; the rest must stay."""
    pair.make_origin(MIB, b"\xee" * MIB)
    with pair.serve() as server:
        clients.qemu_io(
            server.uri,
            "discard 8192 4096",
            "discard 20000 30000",
            "read -P 0xee 0 8192",
            "read -P 0 8192 4096",
            "read -P 0xee 12288 7712",
            "read -P 0xee 50000 50000",
        )


@pytest.mark.parametrize("settings", [{}, SMALL, {**SMALL, "compress": "zstd"}], ids=["default", "small", "zstd"])
def test_bench_with_flushes_at_depth_64(pair, settings):
    """20,000 writes: with the small log that is five times round it."""
    size = 32 * MIB
    pair.make_origin(size)
    with pair.serve(on_exit="destage", **settings) as server:
        clients.qemu_bench(server.uri, "--flush-interval=64", "--pattern=0x7b", count=20000)
        clients.qemu_bench(server.uri, "--pattern=0x6d", "-S", "12288", "-o", "2048", count=2000)
        written_by_second = [f"read -P 0x6d {2048 + n * 12288} 4096" for n in range(0, 2000, 97)]
        clients.qemu_io(server.uri, *written_by_second, f"read -P 0x7b {31 * MIB} {MIB}")
    content = pair.origin.read_bytes()
    assert content.count(b"\x6d") == 2000 * 4096
    assert content.count(b"\x7b") == size - 2000 * 4096


def test_bench_with_fua(pair):
    """A writethrough cache mode makes each write of qemu's a FUA write."""
    pair.make_origin(16 * MIB)
    with pair.serve() as server:
        clients.qemu_bench(server.uri, "-t", "writethrough", "--pattern=0x42", count=500)
        server.kill()
    with pair.serve() as server:
        clients.qemu_io(server.uri, f"read -P 0x42 0 {500 * 4096}")


def test_bench_reads(pair):
    pair.make_origin(16 * MIB, random.Random(3).randbytes(MIB))
    with pair.serve() as server:
        clients.qemu_img("bench", "-f", "raw", "-c", 4000, "-d", 64, "-s", 4096, server.uri)


def test_convert_and_compare(pair, folder):
    """A qcow2 image converted into the cache is the same as the image, then and from the origin alone."""
    size = 16 * MIB
    raw, image, back = folder / "raw", folder / "image.qcow2", folder / "back.qcow2"
    with open(raw, "wb") as file:
        file.truncate(size)
        file.seek(MIB + 512)
        file.write(random.Random(4).randbytes(5 * MIB))
    clients.qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, image)
    pair.make_origin(size, b"\xee" * size)
    with pair.serve(on_exit="destage") as server:
        clients.qemu_img("convert", "-n", "-f", "qcow2", "-O", "raw", image, server.uri)
        clients.qemu_img("compare", "-f", "qcow2", "-F", "raw", image, server.uri)
        clients.qemu_img("convert", "-f", "raw", "-O", "qcow2", server.uri, back)
    clients.qemu_img("compare", "-f", "qcow2", "-F", "raw", image, pair.origin)
    clients.qemu_img("compare", image, back)


def test_a_fragmented_volume_is_mapped_and_copied(pair, tmp_path):
    size, rng = 256 * MIB, random.Random(9)
    pair.make_origin(size)
    with pair.serve(ring_size="16M", log_size="128M", history="1h") as server:
        blocks = [*rng.sample(range(size // 8192), size // 8192 // 10), 1, size // 12288]
        with clients.connection(server.uri) as handle:
            for block in blocks:
                handle.pwrite(bytes([block % 255 + 1]) * 4096, block * 4096)
            handle.flush()
        ranges = json.loads(clients.run("qemu-img", "map", "-f", "raw", "--output=json", server.uri, limit_s=30))
        clients.run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, tmp_path / "copy", limit_s=30)
    assert sum(one["length"] for one in ranges) == size
    zeros = [range(one["start"], one["start"] + one["length"]) for one in ranges if one["zero"]]
    assert zeros[-1].stop == size and len(zeros[-1]) >= size // 2
    starts = [one.start for one in zeros]
    for block in blocks:
        index = bisect_right(starts, block * 4096) - 1
        assert index < 0 or block * 4096 not in zeros[index], "what is said to be zeros is data"
    expected = bytearray(size)
    for block in blocks:
        expected[block * 4096 : block * 4096 + 4096] = bytes([block % 255 + 1]) * 4096
    assert (tmp_path / "copy").read_bytes() == expected
