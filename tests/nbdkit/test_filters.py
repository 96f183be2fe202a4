# SPDX-License-Identifier: BSD-3-Clause
"""nbdkit's filters above the plugin: the same mixed load, seen through each of them, live and after a restart."""

import random
import struct

import pytest

from tests.support import clients
from tests.support.modelled_load import ModelledVolume

MIB = 1 << 20
SECTOR = 512
SMALL = {"ring_size": "1M", "log_size": "16M"}
PLAIN_FILTERS = {
    "stats": ["statsfile={folder}/stats.txt"],
    "log": ["logfile={folder}/log.txt"],
    "delay": ["rdelay=1ms", "wdelay=1ms"],
    "blocksize": ["minblock=4K", "maxdata=64K", "maxlen=1M"],
    "blocksize-policy": ["blocksize-minimum=1", "blocksize-maximum=1M"],
    "readahead": [],
    "fua": ["fuamode=pass"],
    "nozero": ["zeromode=notrim"],
}


@pytest.mark.parametrize("name", PLAIN_FILTERS)
def test_filter_above_the_plugin(pair, folder, name):
    """A filter that shows the volume unchanged. `blocksize` does so for whole blocks only: it cuts off a last
    partial one, trims no part of a block, and refuses to zero one fast."""
    size = 4 * MIB
    content = random.Random(name).randbytes(MIB) + bytes(size - MIB)
    pair.make_origin(size, content)
    volume = ModelledVolume(content, seed=name)
    parameters = [word.format(folder=folder) for word in PLAIN_FILTERS[name]]
    with pair.serve(filters=[name], filter_parameters=parameters, **SMALL) as server:
        volume.run(server.uri, 6 * MIB, block_size=4096 if name == "blocksize" else 1)
        volume.compare(server.uri)
    with pair.serve(on_exit="destage", **SMALL) as server:
        volume.compare(server.uri)
    volume.compare_origin(pair.origin)


def test_cow_filter_leaves_log_and_origin_alone(pair):
    """A trial on top of a pair with dirty data: the trial sees it and its own writes, the pair does not change."""
    size = 4 * MIB + 512
    pair.make_origin(size)
    volume = ModelledVolume(bytes(size), seed=1)
    with pair.serve(**SMALL) as server:
        volume.run(server.uri, 2 * MIB)
    before = pair.origin.read_bytes(), pair.log.read_bytes()
    trial = ModelledVolume(volume.content, seed=2)
    with pair.serve(filters=["cow"], **SMALL) as server:
        trial.run(server.uri, 2 * MIB)
        trial.compare(server.uri)
    assert (pair.origin.read_bytes(), pair.log.read_bytes()) == before
    with pair.serve(**SMALL) as server:
        volume.compare(server.uri)


def _partition_table(first_sector, sector_count):
    """A master boot record with one Linux partition."""
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), first_sector, sector_count)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def test_partition_filter(pair):
    """The partition starts at an odd sector, so nothing of it is aligned to the cache's pages."""
    first_sector, sector_count = 63, 4 * MIB // SECTOR + 1
    start, size = first_sector * SECTOR, sector_count * SECTOR
    total = start + size + 3 * SECTOR
    table = _partition_table(first_sector, sector_count)
    pair.make_origin(total, table)
    volume = ModelledVolume(bytes(size), seed=3)
    through = {"filters": ["partition"], "filter_parameters": ["partition=1"]}
    with pair.serve(**through, **SMALL) as server:
        volume.run(server.uri, 6 * MIB)
        volume.compare(server.uri)
    with pair.serve(on_exit="destage", **through, **SMALL) as server:
        volume.compare(server.uri)
    content = pair.origin.read_bytes()
    assert content[start : start + size] == volume.content
    assert content[:start] == table + bytes(start - SECTOR)
    assert content[start + size :] == bytes(3 * SECTOR)


def _create_luks(origin, size, secret):
    """qemu first measures by a clock of ticks how fast keys are derived, and gives up where it takes less than one: one
    time in six for SHA-256 on a CPU that has instructions for it, hardly ever for SHA-512."""
    options = "key-secret=key,iter-time=10,hash-alg=sha512"
    for _ in range(20):
        try:
            clients.qemu_img("create", "-q", *secret, "-f", "luks", "-o", options, origin, str(size))
        except AssertionError as error:
            if "Unable to get accurate CPU usage" not in str(error):
                raise
        else:
            return
    pytest.fail("qemu-img could not measure the CPU in 20 attempts")


def test_luks_filter(pair, folder):
    """What the filter encrypts into the cache is what qemu decrypts from the origin."""
    size = 4 * MIB
    key = folder / "key"
    key.write_text("correct horse")
    secret = ["--object", f"secret,id=key,file={key}"]
    _create_luks(pair.origin, size, secret)
    through = {"filters": ["luks"], "filter_parameters": [f"passphrase=+{key}"]}
    with pair.serve(**through, **SMALL) as server:
        with clients.connection(server.uri) as handle:
            assert handle.get_size() == size
            volume = ModelledVolume(clients.read_all(handle), seed=4)
        volume.run(server.uri, 4 * MIB)
        volume.compare(server.uri)
    with pair.serve(on_exit="destage", **through, **SMALL) as server:
        volume.compare(server.uri)
    plain = folder / "plain"
    image = f"driver=luks,key-secret=key,file.filename={pair.origin}"
    clients.qemu_img("convert", *secret, "--image-opts", image, "-O", "raw", plain)
    volume.compare_origin(plain)
