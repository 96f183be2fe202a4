# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share. How to replay a failure is in README.md."""

import atexit
import importlib.util
import itertools
import os
import shutil
import tempfile
import time

import pytest

COUNTED = (
    "power cuts", "places of power cuts", "runs with power cuts", "past moments compared", "deaths of processes"
)  # fmt: skip
"""Properties of the reports of tests."""

MODULES = ("hypothesis", "sortedcontainers", "xxhash", "zstandard")


def pytest_configure():
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.exit(f"Python modules that the tests need are missing: {', '.join(missing)}", returncode=3)
    from hypothesis import HealthCheck, Phase, settings

    os.environ["WBCACHE_PAIRS"] = registry = tempfile.mkdtemp(prefix="wbcache-pairs-")
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    os.environ["WBCACHE_SHM"] = memory = tempfile.mkdtemp(prefix="wbcache-rings-", dir=shared)
    # Servers of tests may run as other users.
    os.chmod(memory, 0o755)
    for folder in (registry, memory):
        atexit.register(shutil.rmtree, folder, ignore_errors=True)

    # Examples are new in each run. A failing one is printed as a @reproduce_failure line. Other load on the machine
    # makes single examples slow, which is no failure. Without targets there is nothing to optimise, and yet that phase
    # runs hundreds of examples more than max_examples.
    settings.register_profile(
        "wbcache", deadline=None, print_blob=True, derandomize=False, suppress_health_check=[HealthCheck.too_slow],
        phases=[phase for phase in Phase if phase is not Phase.target],
    )  # fmt: skip
    settings.load_profile("wbcache")


def pytest_terminal_summary(terminalreporter):
    """Say how many power cuts and comparisons there were, in all processes that took part in the run."""
    totals = dict.fromkeys(COUNTED, 0)
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name in totals:
                totals[name] += value
    cuts, places, runs, compared, deaths = totals.values()
    if cuts:
        terminalreporter.write_line(f"power cuts: {cuts} verified, at {places} writes and syncs of {runs} seeded runs")
    if deaths:
        terminalreporter.write_line(f"deaths of processes whose memory stays: {deaths} verified in the same runs")
    if compared:
        terminalreporter.write_line(f"past moments: {compared} opened and compared, byte for byte")


_numbers = itertools.count()


@pytest.fixture
def seed():
    """Chosen by the clock and printed; WBCACHE_TEST_SEED repeats a run."""
    seed = int(os.environ.get("WBCACHE_TEST_SEED", time.time_ns() % 10**9))
    print(f"WBCACHE_TEST_SEED={seed}")
    return seed


@pytest.fixture
def ring_folder():
    """A folder for rings. Removed when everything that the test has patched is as it was."""
    path = tempfile.mkdtemp(dir=os.environ["WBCACHE_SHM"])
    os.chmod(path, 0o1777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def registry_of_its_own(ring_folder, monkeypatch):
    """Marks of origins that cannot carry their own go to a folder of the test, and rings in shared memory to another,
    also those of processes it starts."""
    monkeypatch.setenv("WBCACHE_PAIRS", os.path.join(os.environ["WBCACHE_PAIRS"], str(next(_numbers))))
    monkeypatch.setenv("WBCACHE_SHM", ring_folder)


@pytest.fixture
def pair(tmp_path):
    """An origin and a log in a temporary folder; caches that the test left running are abandoned."""
    from tests.support.local_pair import LocalPair

    pair = LocalPair(tmp_path)
    yield pair
    pair.abandon()
