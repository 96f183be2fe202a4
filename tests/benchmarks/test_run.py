# SPDX-License-Identifier: BSD-3-Clause
"""benchmarks/run still runs: its list, and the smallest of its measurements with table, JSON and charts."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from benchmarks import images, report, servers
from benchmarks.bench import Bench
from benchmarks.measurements import MEASUREMENTS
from benchmarks.rounds import Outcome, Row, Spread, Target
from tests.support import clients
from tests.support.clients import REPOSITORY
from wbcache_core.units import MIB

LIMIT_S = 120
QUIET = {"destage_delay": "1h", "low_watermark": "98", "high_watermark": "99"}


def benchmarks(folder, *arguments):
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "benchmarks", *arguments],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_names_every_measurement(tmp_path):
    names = [line.split()[0] for line in benchmarks(tmp_path, "--list").splitlines()]
    assert names == list(MEASUREMENTS)
    assert not list(tmp_path.iterdir())


def test_a_measurement_from_servers_to_charts(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    table = benchmarks(tmp_path, "--quick", "--only", "durability", "--only", "memory", "--folder", "images")
    assert not list(images.iterdir()), "files were left behind"
    results = tmp_path / "benchmark-results"
    assert (results / "table.md").read_text() == table
    document = json.loads((results / "results.json").read_text())
    rows = [row for found in document["measurements"].values() for row in found["rows"]]
    assert len(table.splitlines()) == 2 + len(rows)
    durable, lost = document["measurements"]["durability"]["rows"]
    assert durable["found"]["median"] > 0 == lost["found"]["median"]
    for name in ("durability", "memory"):
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def bench(tmp_path):
    """As benchmarks/run makes it. The path of a socket has to be short."""
    with tempfile.TemporaryDirectory(prefix="wbcache-bench-") as sockets:
        yield Bench(tmp_path, Path(sockets), rounds=1, quick=True, threads=4)


def test_one_origin_is_served_with_several_logs(tmp_path, bench):
    """As several measurements do it; each server is killed while its log holds data."""
    origin = images.sparse(tmp_path / "origin", MIB)
    for name, is_fresh in (("one", True), ("two", True), ("one", False), ("two", True), ("three", True)):
        with servers.wbcache(bench, origin, tmp_path / name, fresh=is_fresh, log_size="4M", **QUIET) as server:
            with clients.connection(server.uri) as handle:
                if not is_fresh:
                    assert handle.pread(3, 0) == b"one"
                handle.pwrite(name.encode(), 0)
                handle.flush()


@pytest.mark.parametrize(
    ("value", "target", "reached"),
    [
        (0.8, Target(0.75), True),
        (0.7, Target(0.75), False),
        (12, Target(12, False), True),
        (13, Target(12, False), False),
    ],
)
def test_a_row_tells_whether_its_target_is_reached(value, target, reached):
    row = Row("what", Spread.of([value, value * 2, value / 2]), target=target)
    assert row.reached is reached
    assert f"| {'yes' if reached else 'NO'} |" in report.table({"name": Outcome([row])})
