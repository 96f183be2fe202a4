# SPDX-License-Identifier: BSD-3-Clause
"""Requests that make no sense, from a client that checks nothing: each is refused, and nothing else happens."""

import contextlib
import os

import nbd
import pytest

from tests.support import clients
from tests.support.matching import same

SIZE = (1 << 20) + 512
CONTENT = os.urandom(SIZE)
PAGE = 4096
BEYOND = {
    "last byte and one more": (2, SIZE - 1),
    "just behind the end": (1, SIZE),
    "page over the end": (PAGE, SIZE - 512),
    "all and more": (SIZE + 512, 0),
    "far away": (PAGE, 1 << 40),
    "largest offset": (PAGE, (1 << 63) - PAGE),
    "sum that overflows": (PAGE, (1 << 64) - 512),
}


@pytest.fixture
def served(pair):
    """A handle without libnbd's own checks, and the check that the volume is as before."""
    pair.make_origin(SIZE, CONTENT)
    with pair.serve(tolerate=["invalid request"], on_exit="destage") as server:
        with clients.connection(server.uri) as handle:
            handle.set_strict_mode(0)
            yield handle
            same(clients.read_all(handle), CONTENT)
            handle.flush()
    same(pair.origin.read_bytes(), CONTENT)


def requests(handle, count, offset, flags=0):
    """One request of each kind, by name, not sent yet."""
    data = b"x" * count
    return {
        "read": lambda: handle.pread(count, offset, flags),
        "write": lambda: handle.pwrite(data, offset, flags),
        "write with FUA": lambda: handle.pwrite(data, offset, flags | nbd.CMD_FLAG_FUA),
        "trim": lambda: handle.trim(count, offset, flags),
        "zero": lambda: handle.zero(count, offset, flags),
        "cache": lambda: handle.cache(count, offset, flags),
    }


def test_beyond_the_end(served):
    for place in BEYOND:
        for name, request in requests(served, *BEYOND[place]).items():
            with pytest.raises(nbd.Error) as caught:
                request()
            assert caught.value.errno in ("EINVAL", "ENOSPC", "EIO"), f"{name}, {place}: {caught.value.string}"


def test_unknown_flags(served):
    for name, request in requests(served, PAGE, 0, 1 << 14).items():
        with pytest.raises(nbd.Error) as caught:
            request()
        assert caught.value.errno == "EINVAL", f"{name}: {caught.value.string}"


def test_nothing_at_all(served):
    """Requests of no bytes may fail or not."""
    for request in requests(served, 0, PAGE).values():
        with contextlib.suppress(nbd.Error):
            request()
