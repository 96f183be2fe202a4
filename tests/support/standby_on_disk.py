# SPDX-License-Identifier: BSD-3-Clause
"""The log of a standby on a simulated disk, and a connection to it."""

import pytest

from tests.support.shipped_log import disk
from wbcache_core.errors import NotOwnerError
from wbcache_core.format import standby_state
from wbcache_core.log.standby_log import Sender, StandbyLog
from wbcache_core.log.superblocks import newest, read_slots


class StandbyOnDisk:
    """The connection has asked for the state."""

    def __init__(self):
        self.disk = disk()
        self.restart()

    def restart(self, image=None):
        """On what is there after a crash."""
        if image is not None:
            self.disk = type(self.disk)(image, "standby log")
        slots = read_slots(self.disk)
        self.log = StandbyLog(self.disk, slots if newest(slots) else None)
        self.log.prepare()
        self.sender = Sender()
        self.state = standby_state.decode(memoryview(self.log.state(self.sender)))

    def tell(self, page):
        self.log.take_superblock(self.sender, page)

    def send(self, parcels, durable=True):
        for offset, content in parcels:
            self.log.take_segment(self.sender, memoryview(content), offset, durable)

    @property
    def superblocks(self):
        return read_slots(self.disk)


def refused(standby, error, words, call):
    """It is refused, and so is everything that this connection sends afterwards."""
    with pytest.raises(error, match=words):
        call()
    with pytest.raises(NotOwnerError, match="nothing of this connection is taken"):
        standby.log.flush(standby.sender)
    assert standby.log.refused == 1
    before = standby.log.cursors
    standby.restart()
    assert standby.state.head == before[0]
