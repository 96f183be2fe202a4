# SPDX-License-Identifier: BSD-3-Clause
"""A simulated disk behind a connection that can be lost, while the server at the other end lives on.

What was under way then gets no answer, and the server carries it out at any time within SETTLE_S, or never. The same
holds for what a killed client had under way.
"""

import math
import random
from dataclasses import dataclass

from tests.support.simulated_disk import SimulatedDisk
from wbcache_core.errors import DeviceLostError

SETTLE_S = 0.6
_NEVER = 0.2
"""The share of requests that are lost with their connection."""


@dataclass(eq=False)
class Request:
    """A write on its way. Places are numbers of events in the journal."""

    offset: int
    data: bytes
    sent: int = 0
    landed: float = math.inf
    """The place of the event, or where it was lost."""


class RemoteDisk(SimulatedDisk):
    """As nbd_device has it: nothing is written until what was under way on a lost connection has settled."""

    def __init__(self, image, name, journal, number, pause, simulation, seed):
        super().__init__(image, name, journal, number, pause)
        self._simulation = simulation
        self._random = random.Random(f"connection {seed}")
        self._connection = 0
        self._connected_at = simulation.now
        self._settles_at = 0.0
        self._under_way = set()
        self._is_unflushed = self._has_lost_writes = False
        self.requests = []
        self.late = 0
        """Writes that landed when nobody waited for them any more."""

    @property
    def settles_at(self):
        return self._settles_at

    def suspect_requests(self, ended_at):
        self._settles_at = max(self._settles_at, self._connected_at + SETTLE_S)

    @property
    def is_busy(self):
        return bool(self._under_way)

    def _change(self, kind, offset, data):
        self._check_settled()
        self._is_unflushed = True
        connection, request = self._connection, Request(offset, data, len(self._journal))
        self.requests.append(request)
        self._under_way.add(request)
        self._pause(kind)
        if connection == self._connection:
            number = self._land(request)
            self._pause(kind)
            self._running.discard(number)
        self._under_way.discard(request)
        self._check_connection(connection)

    def _land(self, request):
        request.landed = len(self._journal)
        return self._begin(request.offset, request.data)

    def sync(self):
        self._check_settled()
        if self._has_lost_writes:
            raise self._lost()
        if not self._is_unflushed:
            return
        connection = self._connection
        super().sync()
        self._check_connection(connection)
        self._is_unflushed = False

    def _check_settled(self):
        if self._settles_at > self._simulation.now:
            raise self._lost()

    def _check_connection(self, connection):
        if connection != self._connection:
            raise self._lost()

    def _lost(self):
        # Who is told repeats all that is unflushed.
        self._has_lost_writes = False
        return DeviceLostError(f"the connection to {self.name} was lost")

    def lose_connection(self):
        """The next request makes a new one."""
        self._connection += 1
        self._has_lost_writes |= self._is_unflushed
        if self._under_way:
            self._settles_at = self._simulation.now + SETTLE_S
        self.carry_out_late([request for request in self._under_way if request.landed == math.inf])

    def carry_out_late(self, requests):
        """The server has got these, and has not carried them out yet."""
        for request in sorted(requests, key=lambda one: (one.sent, one.offset)):
            if self._random.random() < _NEVER:
                request.landed = len(self._journal)
            else:
                self._simulation.spawn(self._land_late, request, SETTLE_S * self._random.random() ** 0.5, name="late")

    def _land_late(self, request, seconds):
        self._simulation.sleep(seconds)
        self._running.discard(self._land(request))
        self.late += 1

    def under_way_at(self, position):
        """What the server has got, and has not carried out, where the journal is at that place."""
        return [
            Request(request.offset, request.data)
            for request in self.requests
            if request.sent <= position <= request.landed
        ]
