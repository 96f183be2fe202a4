#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Puts known bugs into a copy of the core, one at a time, and shows which test notices each.

    tests/mutations/run.py                     # all
    tests/mutations/run.py drop-log-sync       # the ones named
    tests/mutations/run.py --jobs 2            # two at a time
    tests/mutations/run.py --list

The test that a mutation names runs first. Only if that passes do whole suites follow, quick ones first. A mutation
that no test notices is a hole in the suite, and so is one that only makes the tests hang: the exit status is 1.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.mutations.mutation import Mutation  # noqa: E402
from tests.mutations.mutations import MUTATIONS  # noqa: E402

SUITES = (("tests/unit", "tests/model"), ("tests/crash",), ("tests/corruption",), ("tests/cli",))
TIME_LIMIT_S = 1200


class Result(NamedTuple):
    """How a run of pytest ended: `failed` is the test and what it said, empty where all passed."""

    failed: str
    hung: bool = False


def copied(folder: str) -> Path:
    """A copy of the repository, without what a run leaves behind."""
    copy = Path(folder) / "wbcache"
    unwanted = shutil.ignore_patterns(".git", "__pycache__", ".hypothesis", ".pytest_cache")
    shutil.copytree(REPOSITORY, copy, ignore=unwanted)
    return copy


def apply(mutation: Mutation, repository: Path) -> None:
    path = repository / "wbcache_core" / mutation.file
    source = path.read_text()
    if source.count(mutation.text) != 1:
        sys.exit(f"{mutation.name}: the text to change occurs {source.count(mutation.text)} times in {mutation.file}")
    path.write_text(source.replace(mutation.text, mutation.mutant))


def run_tests(repository: Path, *tests: str) -> Result:
    """Run tests until one fails."""
    command = ["/usr/bin/python3", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(
        command,
        cwd=repository,
        env=dict(os.environ, COLUMNS="400", PYTHONDONTWRITEBYTECODE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Result(f"no end within {TIME_LIMIT_S} s: {' '.join(tests)}", hung=True)
    if process.returncode == 0:
        return Result("")
    failed = [line for line in output.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))]
    return Result(failed[0].split(" ", 1)[1] if failed else f"(pytest exits with {process.returncode})\n{output}")


def try_out(mutation: Mutation) -> Result:
    """The first test that fails with a mutation."""
    with tempfile.TemporaryDirectory(prefix="wbcache-mutation-") as folder:
        copy = copied(folder)
        apply(mutation, copy)
        for tests in ((mutation.noticed_by,), *SUITES):
            result = run_tests(copy, *tests)
            if result.failed:
                return result
    return Result("")


def unchanged_passes(chosen: list[Mutation]) -> bool:
    """Whether the tests named by mutations pass as long as there is none, without which a failure says nothing."""
    with tempfile.TemporaryDirectory(prefix="wbcache-mutation-") as folder:
        result = run_tests(copied(folder), *sorted({mutation.noticed_by for mutation in chosen}))
    if result.failed:
        print(f"without any mutation: {result.failed}")
    return not result.failed


def report(mutation: Mutation, result: Result, seconds: float) -> bool:
    """Print a mutation's outcome; returns whether it was noticed."""
    test, _, said = result.failed.partition(" - ")
    outcome = "HANGS" if result.hung else "noticed" if test else "NOT NOTICED"
    print(f"{mutation.name}: {outcome}, {seconds:.0f} s", flush=True)
    if test:
        print(f"    {test}\n    {said}", flush=True)
    return outcome == "noticed"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="say what each of them does")
    parser.add_argument("--jobs", type=int, default=1, help="so many mutations at a time")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    chosen = [mutation for mutation in MUTATIONS if not arguments.names or mutation.name in arguments.names]
    if arguments.list:
        print(*(f"{mutation.name:34} {mutation.file:22} {mutation.what}" for mutation in chosen), sep="\n")
        return 0
    if not unchanged_passes(chosen):
        return 1

    def timed(mutation: Mutation) -> tuple[Result, float]:
        started = time.monotonic()
        return try_out(mutation), time.monotonic() - started

    noticed = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutation, (result, seconds) in zip(chosen, pool.map(timed, chosen), strict=True):
            noticed += report(mutation, result, seconds)
    print(f"{noticed} of {len(chosen)} noticed")
    return 0 if noticed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
