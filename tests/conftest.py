# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share. How to replay a failure is in README.md."""

import importlib.util

import pytest

MODULES = ("hypothesis", "sortedcontainers", "xxhash", "zstandard")


def pytest_configure():
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.exit(f"Python modules that the tests need are missing: {', '.join(missing)}", returncode=3)
    from hypothesis import HealthCheck, settings

    # Examples are new in each run. A failing one is printed as a @reproduce_failure line. Other load on the machine
    # makes single examples slow, which is no failure.
    settings.register_profile(
        "wbcache", deadline=None, print_blob=True, derandomize=False, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("wbcache")


@pytest.fixture
def pair(tmp_path):
    """An origin and a log in a temporary folder; caches that the test left running are abandoned."""
    from tests.support.local_pair import LocalPair

    pair = LocalPair(tmp_path)
    yield pair
    pair.abandon()
