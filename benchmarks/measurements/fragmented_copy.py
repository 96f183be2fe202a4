# SPDX-License-Identifier: BSD-3-Clause
"""Copying a volume that random writes have broken up into small pieces, by clients that ask what is allocated."""

import time

from benchmarks import images, servers
from benchmarks.loads import fio, flush
from benchmarks.rounds import Outcome, Spread, Target, in_turn
from tests.support import clients
from wbcache_core.units import GIB, MIB

TITLE = "Copying a fragmented volume"

_LIMIT_S = 300
_CONVERT = "qemu-img convert"
_NBDCOPY = "nbdcopy"
_FROM_FILE = "qemu-img convert of a file without a cache"


def measure(bench):
    size = bench.pick(4 * GIB, GIB)
    origin = images.sparse(bench.folder / "origin", size)
    log, plain, copy = (bench.folder / name for name in ("log", "plain", "copy"))

    def timed(*words):
        copy.unlink(missing_ok=True)
        started = time.monotonic()
        clients.run(*words, copy, limit_s=_LIMIT_S)
        return time.monotonic() - started

    convert = ("qemu-img", "convert", "-f", "raw", "-O", "raw")
    with servers.wbcache(bench, origin, log, log_size=size // 2, history="1h") as server:
        fio(bench, server, "randwrite", size=size, amount=size // 4096 // 10 * 4096, options=("--norandommap",))
        flush(server)
        clients.run("nbdcopy", server.uri, plain, limit_s=_LIMIT_S)
        turns = {
            _CONVERT: lambda: timed(*convert, server.uri),
            _NBDCOPY: lambda: timed("nbdcopy", server.uri),
            _FROM_FILE: lambda: timed(*convert, plain),
        }
        found = in_turn(bench, turns)
    outcome = Outcome(values=dict(found), unit="s")
    what = f"{TITLE}, {size // MIB // 10} MiB in 4 KiB pieces all over {size // GIB} GiB"
    for peer, limit in ((_NBDCOPY, 1.5), (_FROM_FILE, 3)):
        ratios = [ours / theirs for ours, theirs in zip(found[_CONVERT], found[peer], strict=True)]
        target = Target(limit, at_least=False)
        outcome.add(f"{what}: time of {_CONVERT} against {peer}", Spread.of(ratios), target=target)
    outcome.add(f"{what}: {_CONVERT}", Spread.of(found[_CONVERT]), "s")
    return outcome
