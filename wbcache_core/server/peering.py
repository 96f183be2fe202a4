# SPDX-License-Identifier: BSD-3-Clause
"""Puts together what ships the log of a server to its peers."""

import logging

from wbcache_core.device.device import Device
from wbcache_core.errors import LogFailedError
from wbcache_core.flow.failure import fail
from wbcache_core.flow.retention import Pins
from wbcache_core.format.epoch import NO_EPOCH
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.events import Events
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.shipping.peer import PeerRules
from wbcache_core.shipping.shipping import Shipping

_log = logging.getLogger("wbcache")


def shipping_of(
    rules: PeerRules, line: NumberLine, table: SegmentTable, log: Device, store: SuperblockStore, pins: Pins,
    events: Events,
) -> Shipping:  # fmt: skip
    """For a log as it is when the server starts, before its new epoch."""

    def end_superseded(why: str) -> None:
        """Another server has the volume now: nothing is committed or written to the origin any more."""
        _log.error("%s", why)
        fail(line, LogFailedError(why))

    before = store.current
    own_epoch = NO_EPOCH if before.is_copy else before.epoch
    return Shipping(rules, line, table, log, store, lambda: pins.floor, own_epoch, end_superseded, events)
