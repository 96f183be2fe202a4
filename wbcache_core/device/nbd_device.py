# SPDX-License-Identifier: BSD-3-Clause
"""A device behind an NBD URI: an origin on another machine, in Ceph or S3 through nbdkit or qemu-nbd.

A pool of connections lets requests overlap: one request per connection, or
several writes of a batch at once on each. There is only one if the export does
not promise that all see the same (multi-conn). If a connection is lost, reads are
retried on a new one for a while. Writes are not: a server that went away may
have lost whatever was not flushed, even what it had acknowledged. So the next
sync() fails and the destager, which still has all of it in the log, repeats the
batch.

A write that was in progress on a lost connection may be carried out later: the
server has received it, and does not know that nobody waits any more. Until
`settles_at` nothing is written, so all such writes come before the repetition.

docs/nbd-origins.md has the states of a connection and all time limits as a table.
"""

import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import nbd

from wbcache_core.device.device import Extent, Write
from wbcache_core.device.nbd_connection import ALLOCATION, FLUSH, PIPELINE_DEPTH, NbdConnection, Part, Rules
from wbcache_core.device.nbd_export import NbdExport
from wbcache_core.device.nbd_times import NbdTimes, Patience
from wbcache_core.device.optional_requests import MAP, PREFETCH, TRIM, ZERO, OptionalRequests
from wbcache_core.errors import ConfigError, DeviceError, DeviceLostError, NoConnectionError, StoppedError
from wbcache_core.units import GIB, MIB, PAGE_BYTES

_RETRY_SECONDS = 15.0
"""How long after the first loss a read may start again, before its client gets an error."""
_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 0.05, 2.0
_FIRST_GROW_PAUSE, _LONGEST_GROW_PAUSE = 5.0, 300.0
"""How long until more connections are tried than the server accepted last time."""
_CHECK_SECONDS = 15.0
"""Connections that have been idle for about this long are checked: is the server still there, or about to end?"""
_CLOSE_SECONDS = 10.0
_LARGEST_DATA = 16 * MIB
_LARGEST_RANGE = GIB
_HOLE, _ZERO = 1, 2
_ZEROS = memoryview(bytes(MIB))


class NbdDevice:
    """See the module. `_lock` guards all fields that change; `_returned` is notified when a connection is free."""

    def __init__(self, uri: str, connections: int, times: NbdTimes = NbdTimes()) -> None:  # noqa: B008
        """Raises ConfigError, DeviceError."""
        self._prepare(uri, connections, times)
        self._is_beside_another = False
        connection = self._new_connection()
        handle = connection.handle
        smallest = handle.get_block_size(nbd.SIZE_MINIMUM)
        if smallest > PAGE_BYTES:
            raise ConfigError(f"origin '{uri}' requires blocks of {smallest} bytes; at most {PAGE_BYTES} is supported")
        can_zero = handle.can_zero()
        self._use(NbdExport(
            uri, connections, times,
            size=handle.get_size(),
            writable=not handle.is_read_only(),
            can_flush=handle.can_flush(),
            can_zero=can_zero,
            can_trim=can_zero and handle.can_trim(),
            can_cache=handle.can_cache(),
            can_map=handle.can_meta_context(ALLOCATION),
            is_multi_conn=handle.can_multi_conn(),
            largest_data=min(handle.get_block_size(nbd.SIZE_MAXIMUM) or _LARGEST_DATA, _LARGEST_DATA),
        ))  # fmt: skip
        self._all.add(connection)
        self._idle.append(connection)

    @classmethod
    def beside_another(cls, export: NbdExport) -> "NbdDevice":
        """The same export in another process, with connections of its own. The first one is made when it is needed, and
        none that leads to a smaller or larger export, or to one that is not multi-conn."""
        device = cls.__new__(cls)
        device._prepare(export.uri, export.connections, export.times)
        device._is_beside_another = True
        device._use(export)
        return device

    def _prepare(self, uri: str, connections: int, times: NbdTimes) -> None:
        """Everything but the export."""
        self.name = uri
        self.pipeline_depth = PIPELINE_DEPTH
        self.check_seconds = _CHECK_SECONDS
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self._most = self._limit = connections
        self._grow_at, self._grow_pause = 0.0, _FIRST_GROW_PAUSE
        self._idle: list[NbdConnection] = []
        self._all: set[NbdConnection] = set()
        self._connecting = 0
        self._waiting = 0
        self._failures = 0
        self._last_failure: DeviceError | None = None
        self._lost_writes = False
        self._times = times
        self._settles_at = 0.0
        self._stopping = False
        self._draining = False
        self._patience = Patience(times.timeout)
        self._rules = Rules(self._is_stopping, lambda: self._draining, self._patience, self._others_answered_at)
        self._optional = OptionalRequests()

    def _use(self, export: NbdExport) -> None:
        self.export, self._is_multi_conn = export, export.is_multi_conn
        self.size, self.writable, self.can_trim = export.size, export.writable, export.can_trim

    def _is_stopping(self) -> bool:
        return self._stopping

    def _new_connection(self) -> NbdConnection:
        """Raises ConfigError, DeviceLostError."""
        return NbdConnection(self.name, self._rules, self._times.connect, self._times.timeout)

    def _others_answered_at(self, silent: NbdConnection) -> float:
        """The last answer of this connection's server on any connection. One that started after the last answer on
        `silent` proves nothing: a successor may have accepted it."""
        with self._lock:
            return max(
                (other.answered_at for other in self._all if other.connected_at <= silent.answered_at), default=0.0
            )

    def _take(self) -> NbdConnection:
        """A connection for the caller alone: an idle one, or the next one that is returned or new.

        Raises DeviceError if there is none at all and none can be made.
        """
        with self._lock:
            failures = self._failures
            while not self._idle:
                limit = self._limit_now()
                if not self._all:
                    if self._last_failure and self._failures != failures:
                        # What one caller has tried meanwhile is not tried again by every other.
                        raise type(self._last_failure)(str(self._last_failure), self._last_failure.errno_value)
                    if not self._connecting:
                        break
                elif self._connecting <= self._waiting and len(self._all) + self._connecting < limit:
                    self._connect_one_more()
                self._waiting += 1
                try:
                    self._returned.wait(self._grow_at - time.monotonic() if self._limit < self._most else None)
                finally:
                    self._waiting -= 1
            else:
                return self._idle.pop()
            self._connecting += 1
        return self._connect()

    def _connect_one_more(self) -> None:
        """Start a thread that adds a connection to the idle ones: callers that wait may get another one earlier. Lock
        held.

        Some servers accept only so many and leave the next one waiting.
        """
        self._connecting += 1
        try:
            threading.Thread(target=self._add_idle, name="wbcache-connect", daemon=True).start()
        except RuntimeError:
            # No more threads: the existing connections have to suffice.
            self._connecting -= 1
            self._note_no_more()

    def _add_idle(self) -> None:
        with contextlib.suppress(DeviceError, ConfigError):
            self._give_back(self._connect())

    def _note_no_more(self) -> None:
        """For the moment the server accepts no more connections than there are. Lock held."""
        self._limit = max(len(self._all), 1)
        self._grow_at = time.monotonic() + self._grow_pause
        self._grow_pause = min(2 * self._grow_pause, _LONGEST_GROW_PAUSE)

    def _limit_now(self) -> int:
        """How many connections there may be. Lock held.

        One, if what is flushed on it need not be read on others: NBD's proto.md, NBD_FLAG_CAN_MULTI_CONN.
        """
        if not self._is_multi_conn:
            return 1
        if self._limit < self._most and time.monotonic() >= self._grow_at:
            self._limit = self._most
        return self._limit

    def _connect(self) -> NbdConnection:
        """Make a new connection, counted in `_connecting` until now. Raises DeviceError, ConfigError."""
        connection = None
        try:
            connection = self._new_connection()
            if (size := connection.handle.get_size()) != self.size:
                connection = None
                raise DeviceError(
                    f"origin '{self.name}' has {size} bytes now and had {self.size}: it is tried again; "
                    "restore the former size, or restart the cache"
                )
            is_multi_conn = connection.handle.can_multi_conn()
            with self._lock:
                if (self._is_beside_another or self._all) and not is_multi_conn:
                    connection = None
                    raise NoConnectionError(f"origin '{self.name}' is not multi-conn any more", errno.EIO)
                self._is_multi_conn = is_multi_conn
            self._grow_pause = _FIRST_GROW_PAUSE
            return connection
        except DeviceError as error:
            with self._lock:
                self._failures += 1
                self._last_failure = error
                if self._all:
                    self._note_no_more()
            raise
        finally:
            with self._lock:
                self._connecting -= 1
                if connection:
                    self._all.add(connection)
                self._returned.notify_all()

    def _give_back(self, connection: NbdConnection) -> None:
        with self._lock:
            self._idle.append(connection)
            self._returned.notify_all()

    def _drop(self, connection: NbdConnection) -> None:
        """Forget a connection that was lost, and idle ones to the same server: normally all are gone with it. One that
        started after the last answer on the lost one may lead to a successor, and is checked."""
        with self._lock:
            kept = [
                idle
                for idle in self._idle
                if idle.connected_at > connection.answered_at and not idle.has_ended()
            ]
            for lost in (connection, *(idle for idle in self._idle if idle not in kept)):
                self._all.discard(lost)
                lost.hang_up()
                self._lost_writes |= lost.unflushed
                if lost.unanswered:
                    self._settles_at = max(self._settles_at, time.monotonic() + self._times.settle)
            self._idle[:] = kept
            self._returned.notify_all()
        # The next one may be another server.
        self._optional.forget()

    @contextlib.contextmanager
    def _using(self, connection: NbdConnection) -> Iterator[None]:
        """For a connection that was taken: returns it to the pool at the end, or drops it if it is lost."""
        try:
            yield
        except BaseException:
            if connection.is_usable:
                self._give_back(connection)
            else:
                self._drop(connection)
            raise
        self._give_back(connection)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[NbdConnection]:
        """A connection for writes, which have to be flushed. Never repeated here: whoever gets the error repeats
        everything unflushed. Raises DeviceLostError until `settles_at`."""
        connection = self._take()
        if self._settles_at > time.monotonic():
            self._give_back(connection)
            raise DeviceLostError(f"requests on a lost connection to origin '{self.name}' may still be carried out")
        with self._lock:
            connection.unflushed = True
        try:
            with self._using(connection):
                yield connection
        except DeviceLostError:
            with self._lock:
                self._lost_writes = False
            raise

    def _change(self, verb: str, method: str, *arguments: Any) -> None:
        with self._changing() as connection:
            connection.change(verb, method, *arguments)

    def _ask(self, verb: str, method: str, *arguments: Any) -> None:
        """A request that changes nothing: repeated for a while if the server goes away."""
        deadline = 0.0
        back_off = _FIRST_BACK_OFF
        while True:
            try:
                connection = self._take()
                with self._using(connection):
                    connection.perform(verb, method, *arguments)
                return
            except DeviceLostError:
                deadline = deadline or time.monotonic() + _RETRY_SECONDS
                if self._stopping or time.monotonic() + back_off > deadline:
                    raise
            with self._lock:
                self._returned.wait_for(self._is_stopping, back_off)
            back_off = min(2 * back_off, _LONGEST_BACK_OFF)

    def _parts(self, view: memoryview, offset: int) -> Iterator[tuple[memoryview, int]]:
        """A buffer cut into requests that the server accepts, with the offset of each."""
        for start in range(0, len(view), self.export.largest_data):
            yield view[start : start + self.export.largest_data], offset + start

    def read_into(self, view: memoryview, offset: int) -> None:
        for part, at in self._parts(view, offset):
            self._ask("read", "aio_pread", part, at)

    def read_uncached_into(self, view: memoryview, offset: int) -> None:
        self.read_into(view, offset)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        data = views[0] if len(views) == 1 else memoryview(b"".join(views))
        for part, at in self._parts(data, offset):
            self._change("write to", "aio_pwrite", part, at)

    def write_many(
        self, take: Callable[[], Write | None], fail: Callable[[Write, DeviceError], None], depth: int
    ) -> None:
        parts: deque[Part] = deque()

        def next_part() -> Part | None:
            if not parts:
                write = take()
                if write is None:
                    return None
                offset, views = write
                data = views[0] if len(views) == 1 else memoryview(b"".join(views))
                parts.extend(Part(part, at, write) for part, at in self._parts(data, offset))
            return parts.popleft()

        with self._changing() as connection:
            connection.write_many(next_part, lambda part, error: fail(part.write, error), depth)

    def sync(self) -> None:
        """Flush every connection that wrote, even if the server says that one flush covers all: one that cannot be
        flushed belonged to a server that went away, which a connection to its successor would not reveal."""
        while True:
            with self._lock:
                connection = self._take_unflushed()
            if connection is None:
                return
            if self.export.can_flush:
                self._flush(connection)
            else:
                self._give_back(connection)
            with self._lock:
                connection.unflushed = False

    def _flush(self, connection: NbdConnection) -> None:
        """Raises DeviceError; whoever gets it repeats everything unflushed."""
        try:
            with self._using(connection):
                connection.perform(FLUSH, "aio_flush")
        except DeviceLostError:
            with self._lock:
                self._lost_writes = False
            raise
        self._patience.note_flushed()

    def _take_unflushed(self) -> NbdConnection | None:
        """An idle connection that wrote; waits for one that is in use. Lock held. Raises DeviceError after a loss."""
        while True:
            if self._lost_writes:
                self._lost_writes = False
                raise DeviceLostError(f"the connection to origin '{self.name}' was lost before everything was flushed")
            for connection in self._idle:
                if connection.unflushed:
                    self._idle.remove(connection)
                    return connection
            if not any(connection.unflushed for connection in self._all):
                return None
            self._returned.wait()

    def zero(self, offset: int, length: int, may_trim: bool) -> None:
        for start in range(0, length, _LARGEST_RANGE):
            self._zero_range(offset + start, min(length - start, _LARGEST_RANGE), may_trim)

    def _zero_range(self, offset: int, length: int, may_trim: bool) -> None:
        def write() -> None:
            for start in range(0, length, len(_ZEROS)):
                self.write([_ZEROS[: length - start]], offset + start)

        def change(verb: str, flags: int) -> None:
            self._change(verb, "aio_zero", length, offset, None, flags)

        def zero() -> None:
            self._optional.attempt(ZERO, lambda: change("zero", nbd.CMD_FLAG_NO_HOLE), write)

        if not self.export.can_zero:
            write()
        elif may_trim:
            self._optional.attempt(TRIM, lambda: change("deallocate blocks of", 0), zero)
        else:
            zero()

    def extents(self, offset: int, length: int, most: int | None = None) -> list[Extent]:
        found: list[Extent] = []
        end = offset + length

        def ask() -> None:
            while (at := _end_of(found, offset)) < end and (most is None or len(found) < most):
                entries = self._ask_extents(at, end)
                if not entries:
                    break
                found.extend(entries)

        if self.export.can_map:
            self._optional.attempt(MAP, ask, lambda: None)
        if (at := _end_of(found, offset)) < end and (most is None or len(found) < most):
            found.append((at, end - at, False, False))
        return found

    def _ask_extents(self, offset: int, end: int) -> list[Extent]:
        """One or more extents from offset; none if the server says nothing about them."""
        words: list[int] = []

        def receive(context: str, _: int, entries: list[int], error: Any) -> None:
            if context == ALLOCATION and not error.value:
                words[:] = entries

        self._ask("map", "aio_block_status", min(end - offset, _LARGEST_RANGE), offset, receive)
        found: list[Extent] = []
        for count, flags in zip(words[0::2], words[1::2], strict=True):
            count = min(count, end - offset)
            if count:
                found.append((offset, count, bool(flags & _HOLE), bool(flags & _ZERO)))
            offset += count
        return found

    def prefetch(self, offset: int, length: int) -> None:
        def ask() -> None:
            self._ask("prefetch", "aio_cache", min(length, _LARGEST_RANGE), offset)

        if self.export.can_cache:
            self._optional.attempt(PREFETCH, ask, lambda: None)

    def grow(self, length: int) -> None:
        raise ConfigError(f"origin '{self.name}' cannot be made larger from here")

    @property
    def settles_at(self) -> float:
        return self._settles_at

    def suspect_requests(self, ended_at: float) -> None:
        self.settle_until(ended_at + self._times.settle)

    def settle_until(self, when: float) -> None:
        with self._lock:
            self._settles_at = max(self._settles_at, when)

    def allow_connections(self, count: int) -> None:
        with self._lock:
            # A server that accepts fewer is asked for more when it is time for that.
            self._limit = count if self._limit == self._most else min(self._limit, count)
            self._most = count
            self._returned.notify_all()

    def be_patient(self) -> None:
        self._draining = True

    def check_idle(self) -> None:
        since = time.monotonic() - self.check_seconds / 2
        page = memoryview(bytearray(min(PAGE_BYTES, self.size)))
        while not self._stopping:
            with self._lock:
                unused = next((idle for idle in self._idle if idle.answered_at < since), None)
                if unused is None:
                    break
                self._idle.remove(unused)
            with contextlib.suppress(DeviceError, StoppedError), self._using(unused):
                try:
                    unused.perform("read", "aio_pread", page, 0)
                finally:
                    # A rejection is an answer too.
                    unused.answered_at = max(unused.answered_at, since)

    def interrupt(self) -> None:
        with self._lock:
            self._stopping = True
            self._returned.notify_all()

    def close(self) -> None:
        with self._lock:
            self._stopping = True
            # A thread must not outlive the Python interpreter of the process.
            self._returned.wait_for(lambda: not self._connecting, _CLOSE_SECONDS)
            self._idle.clear()
            self._all.clear()


def _end_of(extents: list[Extent], offset: int) -> int:
    """The byte after the last extent; offset if there is none."""
    return sum(extents[-1][:2]) if extents else offset
