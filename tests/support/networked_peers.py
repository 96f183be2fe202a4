# SPDX-License-Identifier: BSD-3-Clause
"""Owner and standbys in network namespaces: they share the origin, and have addresses and memory of their own."""

import contextlib
import shutil

from tests.support.network_namespaces import network
from tests.support.peer_pair import ORIGIN_BYTES, PeerPair

PORT = 10810


class NetworkedPeers(PeerPair):
    """Hosts of a Network."""

    def __init__(self, folder, network, count):
        super().__init__(folder, count)
        self.network = network
        self._memories = [self.folder / f"m{number}" for number in range(count)]
        for memory in self._memories:
            memory.mkdir()

    def lose_memory(self, number):
        """As a host does that loses power. No server runs there."""
        shutil.rmtree(self._memories[number])
        self._memories[number].mkdir()

    def uri_of(self, number):
        return f"nbd://{self.network.address(number)}:{PORT}"

    def standby(self, number, **parameters):
        settings = {"log": self.logs[number], "control": self.controls[number], **parameters}
        listen = {"address": self.network.address(number), "port": PORT}
        return self.pair.start_bare(
            role="standby", prefix=self._host(number), plain_tcp="allow", **listen, **settings
        )

    def owner(self, number, **parameters):
        return super().owner(number, prefix=self._host(number), **parameters)

    def _host(self, number):
        return ["env", f"WBCACHE_SHM={self._memories[number]}", *self.network.command(number)]


@contextlib.contextmanager
def networked(folder, count):
    """So many hosts, and their origin; at the end their servers are killed."""
    with network(count) as links:
        hosts = NetworkedPeers(folder, links, count)
        hosts.pair.make_origin(ORIGIN_BYTES)
        yield hosts
        hosts.pair.destroy()
