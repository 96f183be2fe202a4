# SPDX-License-Identifier: BSD-3-Clause
"""The pairs in tests/data that earlier versions made; the README there says how."""

import gzip
import random
from pathlib import Path

from wbcache_core.units import MIB

_DATA = Path(__file__).resolve().parents[1] / "data"


def image(name, version):
    """The bytes of `log` or `origin`."""
    return gzip.decompress((_DATA / f"{name}-v{version}.img.gz").read_bytes())


def put_images(pair, version):
    """Where the pair's origin and log are to be."""
    pair.origin.write_bytes(image("origin", version))
    pair.log.write_bytes(image("log", version))


def states():
    """The volume after each generation of the images."""
    volume, found = bytearray(MIB), []
    for offset, content in (
        (4096, b"one" * 4096),
        (8192, b"two" * 100),
        (65536, bytes(8192)),
        (70000, b"three" * 2000),
        (40 * 4096, b"four" * 16 * 1024 + random.Random(3).randbytes(7 * 4096)),
    ):
        volume[offset : offset + len(content)] = content
        found.append(bytes(volume))
    return [found[0], found[1], found[3], found[4]]
