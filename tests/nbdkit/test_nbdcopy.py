# SPDX-License-Identifier: BSD-3-Clause
"""nbdcopy into the cache and back: the same bytes, for random data and for a sparse image."""

import random

import pytest

from tests.support import clients

MIB = 1 << 20
SIZE = 24 * MIB + 512


def random_image(path, seed):
    path.write_bytes(random.Random(seed).randbytes(SIZE))


def sparse_image(path, seed):
    source = random.Random(seed)
    with open(path, "wb") as image:
        image.truncate(SIZE)
        for _ in range(40):
            image.seek(source.randrange(SIZE - 70000))
            image.write(source.randbytes(source.randrange(1, 70000)))


@pytest.mark.parametrize("make_image", [random_image, sparse_image])
@pytest.mark.parametrize("settings", [{}, {"ring_size": "1M", "log_size": "16M"}], ids=["default", "small"])
def test_copy_there_and_back(pair, folder, make_image, settings):
    """The origin starts full of other data, so that what nbdcopy zeroes has to be zeroed really."""
    image, back, after_restart = folder / "image", folder / "back", folder / "after-restart"
    make_image(image, seed=11)
    pair.make_origin(SIZE, b"\xee" * SIZE)
    with pair.serve(**settings) as server:
        clients.nbdcopy("--flush", image, server.uri)
        clients.nbdcopy(server.uri, back)
        clients.run("cmp", image, back)
    with pair.serve(on_exit="destage", **settings) as server:
        clients.nbdcopy(server.uri, after_restart)
        clients.run("cmp", image, after_restart)
    clients.run("cmp", image, pair.origin)


def test_copy_from_cache_to_cache(pair, folder):
    """Two exports of one server program on two pairs, as in a migration."""
    sparse_image(pair.origin, seed=12)
    other_folder = folder / "other"
    other_folder.mkdir()
    other = type(pair)(other_folder)
    other.make_origin(SIZE)
    with pair.serve() as source, other.serve(on_exit="destage") as target:
        clients.nbdcopy("--flush", source.uri, target.uri)
    clients.run("cmp", pair.origin, other.origin)
