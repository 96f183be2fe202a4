# SPDX-License-Identifier: BSD-3-Clause
"""Search the models of a volume on several hosts exhaustively, and show the trace that each rule prevents."""

import argparse
import sys

from tests.peers.scenarios import BROKEN, EXHAUSTIVE, NEEDLESS, WHOLE, broken
from tests.peers.search import search


def main():
    parser = argparse.ArgumentParser(prog="python3 -m tests.peers", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="all unless given")
    chosen = parser.parse_args().scenario
    models = dict(WHOLE | EXHAUSTIVE)
    models |= {name: lambda without=without: broken(without) for name, without in NEEDLESS.items()}
    models |= {name: lambda without=entry[0]: broken(without) for name, entry in BROKEN.items()}
    unknown = set(chosen) - set(models)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are: {', '.join(models)}")
    wrong = False
    for name in chosen or models:
        result = search(models[name](), progress=True)
        print(f"{name}: {result}", flush=True)
        wrong |= not result.complete or (result.violation is not None) != (name in BROKEN)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
