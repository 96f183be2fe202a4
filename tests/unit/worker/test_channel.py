# SPDX-License-Identifier: BSD-3-Clause
"""Messages between server and worker."""

import errno
import select
import socket
import threading

import pytest

from wbcache_core.errors import DamagedPageError, DeviceError, DeviceLostError, StoppedError
from wbcache_core.worker.channel import Channel, ChannelEndedError, PackedError

LARGE = {"page": bytes(range(256)) * 20000, "none": None, 7: [1, 2]}


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_message_larger_than_the_buffers_arrives_whole(ends):
    waits = []

    def wait(event):
        waits.append(event)
        select.select([ends[0]] if event == select.POLLIN else [], [ends[0]] if event == select.POLLOUT else [], [])

    ours, theirs = Channel(ends[0], wait), Channel(ends[1])
    echo = threading.Thread(target=lambda: theirs.send(theirs.receive()))
    echo.start()
    ours.send(LARGE)
    assert ours.receive() == LARGE
    echo.join()
    assert {select.POLLIN, select.POLLOUT} == set(waits)


@pytest.mark.parametrize("part", [b"", b"\x05", b"\x05" + bytes(7) + b"ab"], ids=["nothing", "a length", "a part"])
def test_the_other_end_is_gone(ends, part):
    ends[1].sendall(part)
    ends[1].close()
    channel = Channel(ends[0])
    with pytest.raises(ChannelEndedError):
        channel.receive()
    with pytest.raises(ChannelEndedError):
        channel.send(LARGE)


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("cannot write", errno.ENOSPC),
        DeviceLostError("gone"),
        DamagedPageError("a page fails", 17, 4),
        StoppedError("the server stops"),
    ],
)
def test_errors_arrive_as_they_were(ends, error):
    Channel(ends[0]).send(PackedError(error))
    found = Channel(ends[1]).receive().unpack()
    assert (type(found), str(found), vars(found), found.errno_value) == (
        type(error), str(error), vars(error), error.errno_value,
    )  # fmt: skip
