# SPDX-License-Identifier: BSD-3-Clause
"""The worker's side: does what the server asks for, one request after another, and says that it is alive meanwhile."""

import contextlib
import logging
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

import wbcache_core
from wbcache_core.device.device import ConnectedDevice, Device
from wbcache_core.device.file_device import FileDevice, OpenFile
from wbcache_core.device.nbd_export import NbdExport
from wbcache_core.device.origin import open_beside
from wbcache_core.errors import WbcacheError
from wbcache_core.flow.batch_executor import BatchExecutor, DirectExecutor, Written
from wbcache_core.flow.origin_writer import OriginWriter
from wbcache_core.log.reader import LogReader
from wbcache_core.worker.channel import Channel, ChannelEndedError, PackedError
from wbcache_core.worker.priority import Priority
from wbcache_core.worker.ring_file import OpenRing, RingFile
from wbcache_core.worker.shared_page import SharedPage

TICK_SECONDS = 0.2

ANSWER, FAILURE, BUG, LOG = "answer", "failure", "bug", "log"
"""Kinds of messages to the server: what the request returned, what it raised, the traceback of an internal error, and
a line for the log (level, text). A message is (number of the request, (kind, content)); lines for the log have no
number, and the number of the setup is 0."""
REQUESTS = ("load", "write", "release", "check_idle")
"""The methods of BatchExecutor that the server calls."""

_log = logging.getLogger("wbcache")


TIED = "tied"
"""The worker's first message. Then it gets the descriptors of origin and log, and a Setup."""
_MOST_DESCRIPTORS = 8


class Setup(NamedTuple):
    """The first message to the worker."""

    interpreter: tuple[str, str]
    """interpreter_facts() of the server: both sides have to run the same code."""
    origin: OpenFile | NbdExport
    log: OpenFile
    ring: OpenRing | None
    """If it is in memory that another process can read."""
    data_pages: int
    uuid: bytes
    most_refused: int

    def with_descriptors(self, numbers: Iterator[int]) -> "Setup":
        """The same in the worker; see descriptors_of()."""
        return self._replace(
            origin=self.origin.with_descriptors(numbers),
            log=self.log.with_descriptors(numbers),
            ring=self.ring and self.ring.with_descriptors(numbers),
        )

    @property
    def descriptors(self) -> list[int]:
        """To be handed over, in the order in which with_descriptors() takes them."""
        ring = self.ring.descriptors if self.ring else []
        return self.origin.descriptors + self.log.descriptors + ring


def interpreter_facts() -> tuple[str, str]:
    """Which Python this is, and which core it runs."""
    return sys.version, os.path.realpath(wbcache_core.__file__)


def take_setup(end: socket.socket, channel: Channel) -> Setup:
    """Tell the server that this process is tied to it, and receive what to work with. Raises ChannelEndedError.

    Not earlier: whoever has the descriptors has the locks, and must not be able to outlive the server.
    """
    channel.send(TIED)
    try:
        _, numbers, _, _ = socket.recv_fds(end, 1, _MOST_DESCRIPTORS)
    except OSError:
        # The server was killed before it had read that.
        raise ChannelEndedError from None
    setup: Setup = channel.receive()
    return setup.with_descriptors(iter(numbers))


def executor_for(setup: Setup, origin: Device, page: SharedPage) -> DirectExecutor:
    """What carries out batches with the server's log and ring."""
    log = FileDevice.from_open(setup.log)
    writer = OriginWriter(origin, lambda: page.is_stop_wanted, setup.most_refused)
    ring = RingFile(setup.ring, lambda: page.ring_floor) if setup.ring else None
    return DirectExecutor(LogReader(log, setup.data_pages, setup.uuid), setup.data_pages, writer, ring)


def serve_until_hung_up(end: socket.socket, channel: Channel, page: SharedPage) -> None:
    """The whole life of a worker's process. Raises ChannelEndedError if the server is gone."""
    setup = take_setup(end, channel)
    if setup.interpreter != interpreter_facts():
        channel.send((0, (BUG, f"it is {interpreter_facts()}, and the server {setup.interpreter}")))
        return
    _log.setLevel(logging.DEBUG)
    _log.propagate = False
    # An NBD origin is connected to when there is something to write: that may take a while, or fail.
    origin = open_beside(setup.origin)
    executor = executor_for(setup, origin, page)
    hung_up = select.poll()
    hung_up.register(end, select.POLLRDHUP)
    is_busy = threading.Event()
    threading.Thread(target=show_life, args=(page, origin, is_busy, hung_up), name="wbcache-life", daemon=True).start()
    channel.send((0, (ANSWER, None)))
    serve(channel, page, executor, is_busy)


def serve(channel: Channel, page: SharedPage, executor: BatchExecutor, is_busy: threading.Event) -> None:
    """Until the server hangs up; `is_busy` is set while a request is in progress."""
    handler = _Forward(channel)
    _log.addHandler(handler)
    try:
        while True:
            number, name, arguments = channel.receive()
            is_busy.set()
            answer = _answer(executor, name, arguments)
            is_busy.clear()
            page.show_settling(executor.settles_at)
            channel.send((number, answer))
    except ChannelEndedError:
        return
    finally:
        _log.removeHandler(handler)


def _answer(executor: BatchExecutor, name: str, arguments: tuple[Any, ...]) -> tuple[str, object]:
    assert name in REQUESTS
    try:
        found = getattr(executor, name)(*arguments)
        return ANSWER, _without_views(found) if isinstance(found, Written) else found
    except WbcacheError as error:
        return FAILURE, PackedError(error)
    except Exception:
        return BUG, traceback.format_exc()


def _without_views(written: Written) -> Written:
    """With copies of what lies in the image: there are few."""
    contents = {block: None if page is None else bytes(page) for block, page in written.contents.items()}
    return written._replace(contents=contents)


class _Forward(logging.Handler):
    """Sends what is logged to the server, while the thread that answers works or waits for helpers that do."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        # If the server has gone, the answer finds that out.
        with contextlib.suppress(ChannelEndedError):
            self._channel.send((None, (LOG, (record.levelno, record.getMessage()))))


def show_life(page: SharedPage, origin: Device, is_busy: threading.Event, hung_up: select.poll) -> None:
    """In a thread of its own: while a request is in progress, tick, and follow what the server wants.

    Ends the process if the server hangs up in the middle of a request.
    """
    priority = Priority()
    while True:
        is_busy.wait()
        page.tick()
        priority.set_low(page.is_calm)
        if page.is_patient and isinstance(origin, ConnectedDevice):
            origin.be_patient()
        if page.is_stop_wanted:
            origin.interrupt()
        if hung_up.poll(0):
            os._exit(0)
        time.sleep(TICK_SECONDS)
