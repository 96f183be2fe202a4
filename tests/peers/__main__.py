# SPDX-License-Identifier: BSD-3-Clause
"""Search the models of a volume on several hosts exhaustively, and show the trace that each rule prevents."""

import argparse
import sys

from tests.peers.scenarios import BROKEN, EXHAUSTIVE, NEEDLESS, NEEDLESS_EXHAUSTIVE, WHOLE
from tests.peers.search import search


def main():
    parser = argparse.ArgumentParser(prog="python3 -m tests.peers", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="all unless given")
    chosen = parser.parse_args().scenario
    models = WHOLE | EXHAUSTIVE | NEEDLESS | NEEDLESS_EXHAUSTIVE
    models |= {name: model for name, (model, _violation, _length) in BROKEN.items()}
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
