# SPDX-License-Identifier: BSD-3-Clause
"""Waking a thread that waits for descriptors."""

import os
import resource
import threading
import time

import pytest

from wbcache_core.shipping.bell import Bell


@pytest.fixture
def many_descriptors():
    """As a server with a thousand connections has them: the next one has a number above 1024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    yield
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_it_wakes_who_waits(many_descriptors):
    bell = Bell()
    assert bell.fd > 1024
    started = time.monotonic()
    threading.Timer(0.1, bell.ring).start()
    bell.wait(20)
    assert 0.05 < time.monotonic() - started < 10
    bell.close()


def test_it_wakes_who_waits_next(many_descriptors):
    bell = Bell()
    bell.ring()
    bell.wait(20)
    started = time.monotonic()
    bell.wait(0.1)
    assert time.monotonic() - started > 0.05, "it was heard before"
    bell.close()


def test_a_closed_one_is_not_heard():
    bell = Bell()
    bell.close()
    bell.ring()
    bell.close()
