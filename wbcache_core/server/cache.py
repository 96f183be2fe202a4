# SPDX-License-Identifier: BSD-3-Clause
"""A cache from start to stop: opens, locks and recovers; activates for writers; drains; closes.

    Cache(config) -> activate() -> volume ... -> stop()

Until activate() no byte of log or origin is written, so a server through which
nobody may write changes nothing.
"""

import logging
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.device.device import Device
from wbcache_core.device.log_file import LogFile
from wbcache_core.errors import DeviceError, ReadOnlyError, StoppedError
from wbcache_core.flow.admission import wait_for_destaged
from wbcache_core.flow.bad_blocks import BadBlocks, pages_to_carry
from wbcache_core.flow.batch_executor import BatchExecutor, DirectExecutor
from wbcache_core.flow.carrier import Carrier
from wbcache_core.flow.committer import Committer
from wbcache_core.flow.consumer import Consumer, SegmentsInRing
from wbcache_core.flow.destager import Destager
from wbcache_core.flow.origin_writer import OriginWriter
from wbcache_core.flow.retention import Pins
from wbcache_core.flow.ring_keeper import RingKeeper
from wbcache_core.flow.tags import Tags
from wbcache_core.flow.throttle import Throttle
from wbcache_core.format.superblock import Superblock, Tag
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.hot_log import Taken
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import line_of
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.takeover import FoundData
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.moments import LAST_FLUSH
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.ring_size import automatic_ring
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.pairing.mark import CLEAN, DIRTY
from wbcache_core.server import log_preparation, log_segments
from wbcache_core.server import status as status_facts
from wbcache_core.server.config import SHARED, Config
from wbcache_core.server.dirty_content import DirtyContent
from wbcache_core.server.drain import Drain
from wbcache_core.server.handover import HandOver
from wbcache_core.server.history import Facts
from wbcache_core.server.lasting import Lasting
from wbcache_core.server.movers import Movers
from wbcache_core.server.opening import Joining, OpenedPair, open_pair
from wbcache_core.server.past import Past
from wbcache_core.server.peering import shipping_of
from wbcache_core.server.quiesce import Quiesce
from wbcache_core.server.ring_memory import RingMemory
from wbcache_core.server.stopping import commit_and_drain, tell_undrained
from wbcache_core.server.succession import Succession
from wbcache_core.units import PAGE_SHIFT
from wbcache_core.volume.fill_source import FillSource
from wbcache_core.volume.reader import VolumeReader
from wbcache_core.volume.snapshot import Sources
from wbcache_core.volume.snapshots import Snapshots
from wbcache_core.volume.volume import Volume
from wbcache_core.worker.launch import with_worker

_log = logging.getLogger("wbcache")


class Cache:
    """`_lifecycle` guards activate() and stop() against each other; the fields change only in them.

    `_finishing` guards `_finished` and `_is_unfinished`, and is held by the one that commits and drains at the stop.
    """

    def __init__(
        self, config: Config, origin: Device | None = None, log: Device | None = None, may_spawn: bool = False,
        lasting: Lasting | None = None, joining: Joining | None = None, taken: Taken | None = None,
    ) -> None:  # fmt: skip
        """Open, lock and recover, writing nothing. Raises WbcacheError.

        Devices that are passed in are used, and closed, instead of the files that config names. With may_spawn a
        process of its own may write to the origin. With `joining` the log is attached to an origin that is in use,
        which is not closed until `owns_origin` is set. What was `taken` from a standby is not read from the log.
        """
        self._may_spawn = may_spawn and config.destage_worker
        self._config = config
        self._lifecycle = threading.Lock()
        self._found = FoundData()
        self._finishing = threading.Lock()
        self._is_prepared = self._active = self._stopped = self._finished = False
        self._is_unfinished = True
        self._is_marked = False
        """Whether the origin's mark names this log."""
        self._settled = threading.Event()
        lasting = lasting or Lasting(config)
        self.events, self.settings, self._counters = lasting.events, lasting.settings, lasting.counters
        self.owns_origin = joining is None
        """Whether a stop interrupts the origin and closes it."""
        given = None if config.ring_size is None else RingBuffer(config.ring_size)
        self._ring_memory = RingMemory(config.ring_memory == SHARED)
        with ExitStack() as stack:
            stack.callback(self._ring_memory.close, is_empty=False)
            opened = open_pair(config, origin, log, self._ring_memory.join, joining, taken)
            stack.callback(opened.close if self.owns_origin else opened.log.close)
            if not opened.recovered:
                self._ring_memory.discard()
            ring = self._ring_memory.found or given or automatic_ring(opened.superblock.log_bytes)
            self._assemble(ring, opened)
            stack.pop_all()

    @property
    def is_writable(self) -> bool:
        """Whether activate() can succeed at all."""
        return self._origin.writable and self._log.writable

    @property
    def missing_log(self) -> str:
        """The path of a log that activate() has to create; empty if there is one."""
        return self._log.name if isinstance(self._log, LogFile) and not self._log.exists else ""

    @property
    def can_trim(self) -> bool:
        """Whether to offer trim to clients: trimmed blocks read as zeros, and the origin has to do the same."""
        return self._origin.can_trim

    def _assemble(self, ring: RingBuffer, opened: OpenedPair) -> None:
        """Put everything together. Nothing is written, and no thread runs, until activate()."""
        self._origin, self._side, self._log, superblock, pair, self._may_be_under_way, self._claimed_at = opened
        config, data_pages, recovered = self._config, superblock.data_pages, pair and pair.recovered
        self._ring, self._superblock, self._pair = ring, superblock, pair  # the pair until the log says what it says
        line = line_of(
            superblock, recovered, ring.pages, config.policy(data_pages, ring.volatile_pages),
            pages_to_carry(data_pages), ring.volatile_pages,
        )  # fmt: skip
        if pair and pair.volatile:
            line.take_over(pair.volatile)
        self._line = line
        self._keeper: RingKeeper | None = None
        found = self._ring_memory.found
        if config.ring_size is None or found:
            self._keeper = RingKeeper(line, ring, self._ring_memory.unused, is_new=not found)
        self._table = recovered.table if recovered else SegmentTable()
        self._locations = recovered.locations if recovered else LocationMap()
        self._covered = recovered.covered if recovered else CoveredLog(superblock.origin_bytes)
        self._store = SuperblockStore(self._log, pair.slots if pair else None, superblock)
        self._reader = LogReader(self._log, data_pages, superblock.uuid)
        self._writer = LogWriter(
            self._log, data_pages, superblock.uuid, ring, recovered.end if recovered else LogEnd(0, 0, 0, Reading(0)),
            config.compress, self._store.log_sync,
        )  # fmt: skip
        counters = self._counters
        self._throttle = Throttle(line, counters)
        floor, tags = superblock.batch_end, superblock.tags
        if pair and pair.past_is_gone:
            # If others wrote to the origin, no past moment is what it was.
            floor, tags = line.committed, ()
            self._covered.generations.drop_below(floor)
        self._covered.generations.times.mark(clock.read())
        self._pins = Pins(line, self._covered, floor, tags)
        self._tags = Tags(line, self._covered, self._pins, self._store)
        self._bad = BadBlocks(line, self._locations, self._origin.name)
        self._shipping = shipping_of(
            config.peer_rules, line, self._table, self._log, self._store, self._pins, self.events
        )
        self._committer = Committer(
            line, self._table, self._covered, self._writer, self._store, self._shipping, counters
        )
        self._destager = self._new_destager()
        self._movers = Movers(line, self._committer, self._destager, self._keeper, self._shipping)
        reader = VolumeReader(line, ring, self._locations, self._table, self._reader, self._origin, counters)
        self._shipping.fill_from(FillSource(line, self._locations, reader, self._origin))
        sources = Sources(line, reader, self._origin)
        self._snapshots = Snapshots(line, self._covered, self._pins, lambda _: sources)
        past = Past(
            line, self._covered, self._pins, self._snapshots, self._committer, self._found if pair else None, self._log
        )  # fmt: skip
        self.window, self.window_ends, self.history = past.window, past.window_ends, past.history
        self.open_snapshot, self.open_export, self.resolve = past.open_snapshot, past.open_export, past.resolve
        self.compare = past.compare
        self.log_segments = log_segments.LogSegments(line, self._table, self._reader, superblock.origin_bytes)
        self.settings.follow(line)
        self.handover = HandOver(line, self._pins, self._tags, self._table, self._origin)
        self.let_go = self.handover.finish
        dirty = DirtyContent(line, self._locations, self._table, self._reader, reader, superblock.origin_bytes)
        self.succession = Succession(line, self._pins, dirty, self._destager, self._origin, superblock.uuid, config.log)
        self._drain = Drain(line, self._pins, self.settings)
        self._quiesce = Quiesce(line, self._committer)
        self.volume = Volume(
            line, ring, self._locations, reader, self._origin, self._throttle, self._committer, counters
        )

    def _new_destager(self) -> Destager:
        line = self._line
        carrier = Carrier(
            line, self._ring, self._locations, self._table, self._pins, self._bad, self._committer.commit_until
        )  # fmt: skip
        executor = self._executor = self._new_executor()
        return Destager(
            line, Consumer(line, self._table, self._reader, executor), self._locations, self._table, self._covered,
            self._pins, self._tags, self._store, executor, self._throttle, self._bad, carrier, self._shipping,
            self._counters, self.events,
        )  # fmt: skip

    def _new_executor(self) -> BatchExecutor:
        line, most, memory = self._line, self._bad.most, self._ring_memory
        writer = OriginWriter(self._origin, lambda: line.destager_must_stop, most)
        direct = DirectExecutor(self._reader, line.data_pages, writer, SegmentsInRing(line, self._ring))
        if not self._may_spawn:
            return direct
        return with_worker(direct, line, self._origin, self._log, self._superblock.uuid, most, memory.open_again)

    def activate(self) -> None:
        """Let writers in: format a blank log, start the threads. Idempotent. Raises WbcacheError.

        After any error nobody can write, no thread is left, and the next call starts over.
        """
        self.check_not_stopping()
        with self._lifecycle:
            if self._stopped:
                raise StoppedError("the server is shutting down")
            if not self._active:
                self._prepare_log()
            if not self._is_marked:
                # Before the first write can be acknowledged, and after the log is one that can be named. If there was
                # no space for it then, there may be some now.
                self._is_marked = self._side.put(self._superblock.uuid, self._config.log, DIRTY)
            if not self._active:
                self._start()

    def _prepare_log(self) -> None:
        """Make sure of a formatted log whose superblocks say what recovery found. What failed is repeated by the next
        call."""
        if self._is_prepared:
            return
        if not self.is_writable:
            raise ReadOnlyError("the volume is served read-only: origin or log cannot be written")
        log_preparation.make_room(self._log, self._config, self._origin)
        self._writer.end = log_preparation.prepare(
            self._log, self._store, self._found, self._line, self._pair, self._origin, self._side, self._writer.end,
            self._covered,
        )  # fmt: skip
        log_preparation.set_origins(self._store, self._config.has_own_origins)
        self._pair, self._is_prepared = None, True

    def _start(self) -> None:
        """Start both threads and admit writers, or nothing: an error leaves everything as it was. Raises
        NoThreadError."""
        line = self._line
        if self._may_be_under_way:
            # The previous server was killed, or lost its connection for good.
            self._origin.suspect_requests(self._claimed_at)
        with line.lock:
            line.reclaimed_place = self._store.reclaimed_place
            line.origin_settles_at = self._origin.settles_at
        if line.origin_settles_at > time.monotonic():
            _log.info("the origin is left alone for %.0f s: requests of a killed server may still be carried out there",
                      line.origin_settles_at - time.monotonic())  # fmt: skip
        self._ring_memory.make_ready(self._ring, self._superblock, line.head, line.committed, self._writer.end)
        if not self._keeper:
            self._ring.populate()
        self._movers.start()
        self._active = True

    def status(self) -> Facts:
        """The state of everything at this moment, ready for JSON. Waits for no device."""
        volume = str(uuid.UUID(bytes=self._superblock.uuid))
        names = {"origin": self._origin.name, "log": self._config.log, "volume": volume, "drain": self._drain.facts()}
        names |= {"quiesce": self._quiesce.facts(), "counters": self._counters.facts()}
        names |= {"worker": status_facts.worker(self._executor.why_here), **status_facts.epochs(self._store.current)}
        names |= self._shipping.facts()
        return names | status_facts.gather(
            self._line, self._covered, self._pins, self._snapshots, self._throttle, self._bad, self._ring_bytes
        )  # fmt: skip

    @property
    def _ring_bytes(self) -> int:
        """Memory that the ring has now."""
        if self._keeper:
            return self._keeper.held_bytes
        return self._ring.pages << PAGE_SHIFT if self._active else 0

    @property
    def newest_superblock(self) -> Superblock:
        """Of the log."""
        return self._store.current

    def counters(self) -> status_facts.Counters:
        """Cursors that only grow."""
        line = self._line
        return status_facts.Counters(line.head, line.committed, line.destaged)

    def tag(self, name: str, when: str | None = None) -> Tag:
        """Give a name to a moment, by default the present one; durable when it returns. Admits writers. Raises
        MomentError, LogFailedError, DeviceError, and what activate() raises."""
        self.activate()
        if when is None:
            self._committer.commit_all()
        return self._tags.add(name, LAST_FLUSH if when is None else when)

    def untag(self, name: str) -> None:
        """Remove a tag; durable when it returns. Raises the same as tag()."""
        self.activate()
        self._tags.remove(name)

    def give_up(self, offset: int, length: int) -> tuple[int, bool]:
        """See BadBlocks.give_up_bytes(). Raises ControlError, and what activate() raises."""
        self.activate()
        return self._bad.give_up_bytes(offset, length)

    def check_not_stopping(self) -> None:
        """Raises StoppedError."""
        if self._line.stopping:
            raise StoppedError("the server is shutting down")

    def drain(self) -> None:
        """Return when everything written before is on the origin. Raises LogFailedError, OriginFailedError."""
        self._committer.commit_all()
        with self._line.lock:
            wait_for_destaged(self._line, self._line.committed)

    def begin_drain(self) -> Facts:
        """Have everything written before destaged, and make all writes wait for the origin until cancel_drain().
        Raises WbcacheError."""
        self.activate()
        return self._drain.begin()

    def cancel_drain(self) -> Facts:
        """Let writes wait for what the parameters say again."""
        return self._drain.cancel()

    def quiesce(self) -> Facts:
        """See Quiesce.begin()."""
        self.activate()
        return self._quiesce.begin()

    def resume(self) -> Facts:
        """End that. Raises StoppedError."""
        return self._quiesce.end()

    def interrupt(self) -> None:
        """The server is about to stop: wake every blocked request. Called again, it ends a drain. Never blocks long."""
        if self._line.stopping:
            if self._active:
                self._destager.cancel()
            self._interrupt_origin()
            return
        self._line.stop(drain=self._drains)
        self._throttle.stop()
        if not self._drains:
            # A drain needs requests without a time limit.
            self._interrupt_origin()

    def finish(self) -> None:
        """Commit, destage with on-exit=destage, end the threads; reads continue. Idempotent; failures are logged.

        Anything that an internal error prevented is tried again by the next call.
        """
        try:
            if not self._line.stopping:
                self.interrupt()
            with self._lifecycle:
                self._stopped = True
            # Not `_lifecycle`, which clients need in order to open the volume: this may take as long as a drain.
            with self._finishing:
                if not self._finished:
                    self._is_unfinished = not self._finish()
                    self._finished = True
        except Exception:
            _log.exception("internal error in the stop, please report it")
        finally:
            # Whatever happened, nobody may wait any longer.
            self._settled.set()

    @property
    def is_unfinished(self) -> bool:
        """After finish(): what was accepted could not be committed, or with on-exit=destage the origin is not complete
        and needs the log."""
        return self._is_unfinished

    @property
    def is_settled(self) -> bool:
        """After interrupt(): what was acknowledged has been committed, or cannot be; clients may be disconnected."""
        return self._settled.is_set()

    def wait_until_settled(self) -> None:
        """Return when is_settled. Call it only if finish() has been called, or will be by another thread."""
        self._settled.wait()

    def stop(self) -> None:
        """finish() and close the devices. Idempotent."""
        self.finish()
        with self._lifecycle:
            self._close()

    @property
    def _drains(self) -> bool:
        """Whether a stop is to complete the origin."""
        return self._line.policy.drain_at_stop

    def _finish(self) -> bool:
        """Commit and drain; returns whether everything was done. `_finishing` held."""
        line, pair = self._line, f"'{self._config.log}' '{self._origin.name}'"
        if not self._active:
            if not self._drains or line.destaged == line.head:
                return True
            tell_undrained(line, pair)
            return False
        try:
            is_done = commit_and_drain(
                line, self._committer, self._destager, self._pins, self._shipping, self._settled, pair, self._drains,
                self._ring_memory.path,
            )  # fmt: skip
        finally:
            line.stop(drain=False)
            self._interrupt_origin()
            self._movers.join()
        if not line.log_error:
            try:
                self._tags.write(committed=line.committed)
                self._shipping.finish(self._config.peer_timeout)
                if self._store.current.destaged == line.head:
                    self._side.put(self._superblock.uuid, self._config.log, CLEAN)
            except DeviceError as error:
                _log.error("stopping: %s", error)
        self._shipping.finish(0.0)
        return is_done

    def _close(self) -> None:
        # What could not be committed stays where it is, and so does what nobody was let in to commit.
        self._ring_memory.close(is_empty=self._active and self._line.head == self._line.committed)
        if self.owns_origin:
            self._origin.close()
        self._log.close()

    def _interrupt_origin(self) -> None:
        if self.owns_origin:
            self._origin.interrupt()

    def hand_over(self, patience: float) -> None:
        """Empty the log and close it; the origin stays open, and is the caller's. Changes wait until let_go().

        Raises what HandOver.begin() and activate() do; then everything goes on as before.
        """
        self.activate()
        self.handover.begin(patience)
        with self._ended():
            self.handover.read_from_origin()
            self.handover.note_in_log(self._store)
            self._side.put(self._superblock.uuid, self._config.log, CLEAN)
            self._close()

    def retire(self) -> None:
        """Another log has everything, and is served by now: nobody needs this one nor its ring. Requests that are still
        reading go on; the last of them closes the log."""
        weakref.finalize(self.volume, self._log.close).atexit = False
        with self._ended():
            self._ring_memory.close(is_empty=True)

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Nothing is left for a stop to do here, and the origin belongs to somebody else."""
        self.owns_origin = False
        with self._lifecycle, self._finishing:
            self._stopped = self._finished = True
            self._is_unfinished = False
            self._line.stop(drain=False)
            self._throttle.stop()
            self._movers.join()
            self._shipping.finish(0.0)
            yield
            self._settled.set()
