# SPDX-License-Identifier: BSD-3-Clause
"""All peers of a server: what the committer, the destager and the stop ask of them."""

import time
from collections.abc import Callable
from typing import Any, NoReturn

from wbcache_core.device.device import Device
from wbcache_core.errors import ConfigError, StoppedError
from wbcache_core.format.epoch import Epoch
from wbcache_core.log.reader import LogReader
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.events import Events
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.shipping.filling import Filler, VolumeSource
from wbcache_core.shipping.parcels import LogParcels, parcels_of
from wbcache_core.shipping.peer import PeerRules, Peers
from wbcache_core.shipping.shipper import Connect, Shipper
from wbcache_core.threads import StartTogether
from wbcache_core.units import pages_of


class Shipping:
    def __init__(
        self, rules: PeerRules, line: NumberLine, table: SegmentTable, log: Device, store: SuperblockStore,
        floor: Callable[[], int], own_epoch: Epoch, supersede: Callable[[str], None], events: Events,
        connect: Connect | None = None,
    ) -> None:  # fmt: skip
        """`floor`, `own_epoch`, `supersede` and `connect` as in peer.py and shipper.py. Raises ConfigError if there are
        peers and no libnbd."""
        self._line = line
        self._store = store

        def newest_superblock() -> tuple[int, int]:
            return store.current.sequence, store.current.oldest_place

        self.peers = Peers(rules, line, floor, newest_superblock)
        connect = connect or (_connect() if rules.names else _nowhere)
        parcels = LogParcels(line, table, log, LogReader(log, line.data_pages, store.current.uuid))
        self._fillers = tuple(
            Filler(peer, line, rules.timeout, connect, store) if rules.own_origins else None
            for peer in self.peers.all
        )
        self.shippers = tuple(
            Shipper(peer, self.peers, line, parcels, store, events, own_epoch, supersede, connect, filler)
            for peer, filler in zip(self.peers.all, self._fillers, strict=True)
        )
        if self.shippers:
            store.note_written = self._look

    def fill_from(self, source: VolumeSource) -> None:
        """What origins of peers are filled from. Before any thread runs."""
        for filler in self._fillers:
            if filler:
                filler.source = source

    def _look(self) -> None:
        for shipper in self.shippers:
            shipper.look()

    def start(self, together: StartTogether) -> None:
        """The threads. Raises NoThreadError."""
        for shipper in self.shippers:
            shipper.start(together)

    def offer(self, writer: LogWriter) -> None:
        """By the leader of a commit, before it writes what it has prepared. No lock held."""
        if not self.shippers:
            return
        takers = [shipper for shipper in self.shippers if shipper.queue.wants(writer.prepared_first_lsn)]
        if takers:
            parcels = parcels_of(writer.copies())
            for shipper in takers:
                shipper.queue.offer(parcels)

    def note_commit(self) -> None:
        """By the leader of a commit, when the line knows of it. No lock held."""
        for shipper in self.shippers:
            shipper.queue.note_commit()

    def wait_until_announced(self) -> None:
        """Return when all peers that count have the newest superblock durably. For the destager. Raises StoppedError
        if the server stops and they do not answer. No lock held."""
        if not self.shippers or self._store.current.has_own_origins:
            # What is done to an origin of one's own is nobody else's business.
            return
        line = self._line
        with line.lock:
            while not self.is_announced():
                if line.destager_must_stop or (line.stopping and self._is_any_silent()):
                    raise StoppedError("the server is shutting down")
                line.moved.wait(1.0 if line.stopping else None)

    def is_announced(self) -> bool:
        """Whether all peers that count have the newest superblock durably. Lock held; only the caller writes those that
        matter to it."""
        sequence = self._store.current.sequence
        return all(peer.sequence >= sequence for peer in self.peers.all if peer.counts)

    def _is_any_silent(self) -> bool:
        """Of those that count. Lock held."""
        return any(peer.counts and peer.silent_since for peer in self.peers.all)

    def wait_at_stop(self) -> None:
        """Return when all peers that count have what is committed, or do not answer, or after peer-timeout."""
        line, until = self._line, time.monotonic() + self.peers.timeout
        with line.lock:
            while line.peers_committed < line.committed and not self._is_any_silent():
                left = until - time.monotonic()
                if left <= 0:
                    break
                line.moved.wait(min(left, 1.0))

    def finish(self, patience: float) -> None:
        """Let the peers have the rest, for so many seconds, and end the threads. Later calls do nothing."""
        for shipper in self.shippers:
            shipper.finish(patience)
        for shipper in self.shippers:
            shipper.join()

    def facts(self) -> dict[str, Any]:
        """Ready for JSON. Takes the volume lock."""
        with self._line.lock:
            peers = self.peers.facts()
        for peer, filler in zip(peers, self._fillers, strict=True):
            is_filling = filler is not None and filler.source is not None and peer["inconsistent"]
            peer["copied_blocks"] = filler.done_to if filler and is_filling else None
            peer["blocks"] = pages_of(filler.source.size) if filler and filler.source else None
        return {"peers": peers}


def _connect() -> Connect:
    """How to reach peers. Raises ConfigError."""
    try:
        from wbcache_core.shipping.link import Link
    except ImportError as error:
        raise ConfigError(f"peers need libnbd's Python module; install python3-libnbd ({error})") from None
    return Link


def _nowhere(*_: object) -> NoReturn:
    raise AssertionError("there are no peers")
