# SPDX-License-Identifier: BSD-3-Clause
"""The command: what to measure, how thoroughly, where the results go."""

import argparse
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.measurements import MEASUREMENTS

_FULL_ROUNDS, _QUICK_ROUNDS = 5, 1
_NBDKIT_THREADS = 16


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="benchmarks/run", description="Measure wbcache and its peers in turn: A B A B ... Takes under an hour."
    )
    parser.add_argument("--list", action="store_true", help="list the measurements and do nothing")
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASUREMENTS, help="only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="minutes: short loads, one round; figures are rough")
    parser.add_argument("--rounds", type=int, help=f"rounds ({_FULL_ROUNDS}; {_QUICK_ROUNDS} with --quick)")
    parser.add_argument("--threads", type=int, default=_NBDKIT_THREADS, help="nbdkit's -t for all peers (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure; a temporary one is made in it")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"), help="for the results (%(default)s)")
    return parser.parse_args(arguments)


def _measure(bench, names, output, command):
    """Measure, and write what there is after each measurement: a run that is cut off keeps what it has."""
    # Only here: not everything that imports this needs it.
    from benchmarks import charts

    output.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for name in names:
        module = MEASUREMENTS[name]
        bench.say(f"{name}: {module.TITLE}")
        started = time.monotonic()
        with bench.fresh_folder():
            outcome = outcomes[name] = module.measure(bench)
        bench.say(f"  took {time.monotonic() - started:.0f} s")
        report.write_json(output / "results.json", command, bench.threads, outcomes)
        (output / "table.md").write_text(report.table(outcomes) + "\n")
        charts.draw(output / f"{name}.png", module.TITLE, outcome.values, outcome.unit)
    return outcomes


def main(arguments):
    options = _parse(arguments)
    if options.list:
        for name, module in MEASUREMENTS.items():
            print(f"{name:18} {module.TITLE}")
        return 0
    # So that everything is cleaned up then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _FULL_ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="wbcache-bench-", dir=options.folder) as folder,
        tempfile.TemporaryDirectory(prefix="wbcache-bench-", dir="/tmp") as sockets,
    ):
        bench = Bench(Path(folder).resolve(), Path(sockets), rounds, options.quick, options.threads)
        command = shlex.join(["benchmarks/run", *arguments])
        outcomes = _measure(bench, options.only or MEASUREMENTS, options.output, command)
    print(report.table(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
