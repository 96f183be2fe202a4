# SPDX-License-Identifier: BSD-3-Clause
"""What stays the same in a server while logs come and go: its parameters, its counters, and the events it has noted."""

from wbcache_core.counters import Counters
from wbcache_core.memory.events import Events, Watch
from wbcache_core.server.config import Config
from wbcache_core.server.settings import Settings


class Lasting:
    """Each part has its own lock."""

    def __init__(self, config: Config) -> None:
        self.settings = Settings(config)
        self.counters = Counters()
        self.events = Events()
        self.watch = Watch(self.events)
