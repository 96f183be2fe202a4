#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Puts known bugs into a copy of the core, one at a time, and shows which test notices each.

    tests/mutations/run.py                 # all
    tests/mutations/run.py drop-log-sync   # the ones named
    tests/mutations/run.py --list

A mutation that no test notices is a hole in the suite: the exit status is 1.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
SUITES = ("tests/crash", "tests/model", "tests/corruption", "tests/unit")
TIME_LIMIT_S = 900


class Mutation(NamedTuple):
    """One line of one file, and what replaces it. The line occurs once."""

    name: str
    file: str
    line: str
    mutant: str


MUTATIONS = (
    Mutation(
        "drop-log-sync",
        "log_writer.py",
        "        self._device.sync()\n        self.end = end",
        "        self.end = end",
    ),
    Mutation("drop-origin-sync", "origin_writer.py", "        self._origin.sync()", "        pass"),
    Mutation("drop-superblock-sync", "superblock_store.py", "            self._device.sync()", "            pass"),
    Mutation(
        "one-superblock-slot", "superblock_store.py", "return sequence % len(SLOT_OFFSETS)", "return 0 * sequence"
    ),
    Mutation("skip-checksum-of-reads", "log_reader.py", "        if sums == piece.page_sums:", "        if sums:"),
    Mutation("skip-checksum-of-destage", "destager.py", "        bad = batch.bad_pages()", "        bad = []"),
    Mutation(
        "advance-destaged-early",
        "destager.py",
        "            destaged=batch.end_lsn,",
        "            destaged=line.committed,",
    ),
    Mutation(
        "reuse-log-space-early",
        "number_line.py",
        "return self.data_pages - (self.write_place - self.reclaimed_place)",
        "return self.data_pages - (self.write_place - self.write_place)",
    ),
    Mutation(
        "reclaim-by-one-superblock",
        "superblock_store.py",
        "return min(slot.oldest_place for slot in self._slots if slot)",
        "return max(slot.oldest_place for slot in self._slots if slot)",
    ),
    Mutation(
        "older-version-wins-in-batch",
        "destage_batch.py",
        "            self._newest.update(zip(heads, range(index, index + len(heads)), strict=True))",
        "            self._newest = dict(zip(heads, range(index, index + len(heads)), strict=True)) | self._newest",
    ),
    Mutation("trim-forgets-older-pages", "destage_batch.py", "            newest.pop(block, None)", "            pass"),
    Mutation(
        "patch-ignores-other-writers",
        "volume.py",
        "elif base is None or (entry, locations.sweeps) != (seen, swept):",
        "elif base is None:",
    ),
    Mutation(
        "trim-zeroes-its-neighbours",
        "volume.py",
        "        first = pages_of(offset)",
        "        first = offset >> PAGE_SHIFT",
    ),
    Mutation(
        "serve-a-torn-tail",
        "recovery.py",
        "    return sums == page_sums_of(descriptor)",
        "    return bool(sums or descriptor)",
    ),
    Mutation(
        "ignore-the-chain",
        "recovery.py",
        "(descriptor.uuid, descriptor.first_lsn, descriptor.previous) == (superblock.uuid, lsn, previous)",
        "(descriptor.uuid, descriptor.first_lsn) == (superblock.uuid, lsn)",
    ),
    Mutation("leave-torn-segments", "log_writer.py", "        if candidate < limit:", "        if candidate < 0:"),
    Mutation("believe-the-end", "recovery.py", "    if known > head:", "    if known > head + 2**60:"),
    Mutation(
        "origin-read-races-destage",
        "volume_reader.py",
        "return sweeps == self._map.sweeps and self._map.entries(block, len(entries)) == entries",
        "return True",
    ),
    Mutation(
        "ring-floor-too-low",
        "number_line.py",
        "return max(self.ring_start, self.head - self.ring_pages)",
        "return max(self.ring_start, self.head - self.ring_pages - 1)",
    ),
    Mutation(
        "fua-is-ignored",
        "volume.py",
        "        if fua or self._ack:\n            self._reach(end, self._fua if fua else self._ack)\n\n    def trim",
        "        if self._ack:\n            self._reach(end, self._ack)\n\n    def trim",
    ),
    Mutation("wrap-a-segment", "log_writer.py", "return place if pages <= left else place + left", "return place"),
    Mutation(
        "ring-overrun",
        "number_line.py",
        "        self.limit = self.committed + max(room, 0)",
        "        self.limit = self.committed + max(room, 0) + 64",
    ),
)


def apply(mutation: Mutation, repository: Path) -> None:
    path = repository / "wbcache_core" / mutation.file
    source = path.read_text()
    if source.count(mutation.line) != 1:
        sys.exit(f"{mutation.name}: the line to change occurs {source.count(mutation.line)} times in {mutation.file}")
    path.write_text(source.replace(mutation.line, mutation.mutant))


def first_failure(repository: Path) -> str | None:
    """The name of a test that fails, None when all pass."""
    command = ["/usr/bin/python3", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *SUITES]
    try:
        run = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return "(it hangs: time limit)"
    if run.returncode == 0:
        return None
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"(pytest exits with {run.returncode})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if not arguments.names or mutation.name in arguments.names]
    if arguments.list:
        print(*(f"{mutation.name:30} {mutation.file}" for mutation in chosen), sep="\n")
        return 0
    missed = 0
    for mutation in chosen:
        with tempfile.TemporaryDirectory(prefix="wbcache-mutation-") as folder:
            copy = Path(folder) / "wbcache"
            shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".hypothesis"))
            apply(mutation, copy)
            failure = first_failure(copy)
        missed += failure is None
        print(f"{mutation.name:30} {failure or 'NOT NOTICED'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
