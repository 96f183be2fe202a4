# SPDX-License-Identifier: BSD-3-Clause
"""Memory that a GiB of log takes which is full of trims, four to a page."""

import subprocess
import sys
from functools import partial

from benchmarks.rounds import Outcome, Spread, Target, in_turn
from benchmarks.trims_in_memory import KINDS
from tests.support.clients import REPOSITORY
from wbcache_core.units import GIB, MIB, PAGE_BYTES

TITLE = "Memory for a log full of trims"

_LIMIT = 600


def measure(bench):
    outcome = Outcome(unit="MiB per GiB")
    # What it takes follows the number, but for the tables of dicts, which grow by leaps.
    byte_count = bench.pick(GIB // 2, GIB // 64)

    def taken(kind):
        command = [sys.executable, "-m", "benchmarks.trims_in_memory", kind, str(byte_count // PAGE_BYTES)]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
        return int(done.stdout) / MIB / (byte_count / GIB)

    outcome.values = in_turn(bench, {kind: partial(taken, kind) for kind in KINDS}, rounds=1)
    for kind, values in outcome.values.items():
        outcome.add(f"{TITLE}: {kind}", Spread.of(values), "MiB per GiB", Target(_LIMIT, at_least=False))
    return outcome
