# SPDX-License-Identifier: BSD-3-Clause
"""All scenarios in turn, seed after seed, for a given time. Run by soak.sh."""

import argparse
import logging
import random
import sys
import time

from tests.crash.broken_promise import BrokenPromiseError
from tests.crash.explorer import Chain
from tests.crash.scenarios import SCENARIOS

_CUTS = 1000


def main():
    parser = argparse.ArgumentParser(description="Cut the power of simulated caches for a while")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000_000))
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    end = time.monotonic() + 60 * chosen.minutes
    seed, cuts, failures = chosen.seed, 0, 0
    while time.monotonic() < end:
        for name in SCENARIOS:
            if time.monotonic() >= end:
                break
            try:
                cuts += Chain(name, seed).explore(_CUTS)
            except BrokenPromiseError as violation:
                failures += 1
                print(f"{name}, seed {seed}: {violation}", flush=True)
        print(f"seed {seed}: {cuts} cuts so far, {failures} failures", flush=True)
        seed += 1
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
