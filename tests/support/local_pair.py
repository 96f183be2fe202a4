# SPDX-License-Identifier: BSD-3-Clause
"""An origin and a log as small files, and caches on them inside the test's own process."""

from pathlib import Path

from tests.support.abandon import abandon
from tests.support.gated_origin import PATIENCE_S, in_background
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import Config

SMALL = {"ring_size": "1M", "log_size": "4M"}

QUIET = {
    "commit_interval": "1h",
    "commit_size": "1M",
    "destage_delay": "1h",
    "low_watermark": "98",
    "high_watermark": "99",
}
"""Parameters with which nothing is committed and little destaged unless something asks for it.

An idle volume is destaged all the same, after a second.
"""


class LocalPair:
    """`origin` and `log` are paths in a folder. The log appears when the first cache is started."""

    def __init__(self, folder):
        self.origin = Path(folder) / "origin"
        self.log = Path(folder) / "log"
        self._caches = []

    def make_origin(self, content):
        """content is a number of bytes, all zero and not allocated, or the bytes themselves."""
        with open(self.origin, "wb") as file:
            if isinstance(content, int):
                file.truncate(content)
            else:
                file.write(content)

    def config(self, **parameters):
        """A checked configuration of small sizes, with the given parameters."""
        pairs = SMALL | parameters
        return Config.from_pairs([("origin", str(self.origin)), ("log", str(self.log)), *pairs.items()])

    def start(self, origin_device=None, may_spawn=False, **parameters):
        """A cache that takes writes; origin_device stands in for the origin's file."""
        cache = Cache(self.config(**parameters), origin_device, may_spawn=may_spawn)
        self.own(cache)
        cache.activate()
        return cache

    def own(self, cache):
        """Have abandon() end a cache that was made elsewhere."""
        self._caches.append(cache)

    def abandon(self):
        """End all caches as a crash would; those that have ended already do not mind. One that hangs is an error."""
        caches, self._caches = self._caches, []
        for cache in caches:
            in_background(abandon, cache).result(PATIENCE_S)
