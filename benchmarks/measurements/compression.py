# SPDX-License-Identifier: BSD-3-Clause
"""What compress=zstd brings and costs: text-like and random data, copied in and flushed."""

import itertools
import json
import os
import random
import sys

from benchmarks import images, servers
from benchmarks.loads import copy_in
from benchmarks.rounds import Outcome, Spread, Target, in_turn, ratio
from tests.support import clients
from wbcache_core.units import MIB

TITLE = "zstd"


def _text(size):
    """Words in a distribution as in natural language, some numbers and lines."""
    choose = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(choose.choices(letters, range(26, 0, -1), k=choose.randint(2, 10))) for _ in range(20_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    text, length = [], 0
    while length < size:
        line = " ".join(choose.choices(words, cum_weights=weights, k=12)) + f" {choose.randrange(10**6)}\n"
        text.append(line)
        length += len(line)
    return "".join(text).encode()[:size]


def _log_used(log):
    """Bytes of the log that the segments take."""
    facts = json.loads(clients.run(sys.executable, "-m", "wbcache_core", "info", "--json", log))
    return facts["dirty"]["log_bytes"]


def measure(bench):
    size = bench.pick(256, 48) * MIB
    origin = images.sparse(bench.folder / "origin", size)
    log = images.allocate(bench.folder / "log", 2 * size, blank=True)
    piece = _text(16 * MIB)
    sources = {"text-like data": bench.folder / "text", "random data": bench.folder / "random"}
    with open(sources["text-like data"], "wb") as text:
        for start in range(0, size, len(piece)):
            turn = start // len(piece) * 4099 % len(piece)
            text.write((piece[turn:] + piece[:turn])[: size - start])
    with open(sources["random data"], "wb") as noise:
        for _ in range(0, size, MIB):
            noise.write(os.urandom(MIB))
    outcome = Outcome(unit="MiB/s")
    for name, path in sources.items():
        used = {}

        def turn(compress, path=path, used=used):
            def run():
                with servers.wbcache(bench, origin, log, compress=compress, **servers.NOT_DESTAGED) as server:
                    sample = copy_in(bench, server, path)
                used.setdefault(compress, []).append(_log_used(log))
                return sample

            return run

        found = in_turn(bench, {"off": turn("off"), "zstd": turn("zstd")})
        outcome.values |= {f"{compress}, {name}": [s.mib_per_s for s in samples] for compress, samples in found.items()}
        capacity = Spread.of([a / b for a, b in zip(used["off"], used["zstd"], strict=True)])
        is_text = path == sources["text-like data"]
        outcome.add(f"{TITLE}, {name}: log capacity against off", capacity, target=Target(2) if is_text else None)
        rate = ratio(found, "zstd", "off")
        outcome.add(f"{TITLE}, {name}: write rate against off", rate, target=Target(0.5 if is_text else 0.9))
    return outcome
