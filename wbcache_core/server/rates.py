# SPDX-License-Identifier: BSD-3-Clause
"""How fast counters have been growing during the last seconds."""

import time
from collections import deque
from collections.abc import Callable

from wbcache_core.server.status import Counters
from wbcache_core.units import PAGE_SHIFT

SAMPLE_SECONDS = 2.0
_SAMPLES = 5


class Rates:
    """For one thread, which calls sample() every SAMPLE_SECONDS."""

    def __init__(self, read: Callable[[], Counters]) -> None:
        self._read = read
        self._samples = deque([(time.monotonic(), read())], maxlen=_SAMPLES)

    def sample(self) -> None:
        """Look at the counters, if it is time to."""
        now = time.monotonic()
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._read()))

    def facts(self) -> dict[str, float]:
        """Bytes a second since the oldest sample, and how many seconds that is."""
        since, before = self._samples[0]
        seconds = max(time.monotonic() - since, 0.001)
        rates = {
            f"{name}_bytes_per_second": (now - then << PAGE_SHIFT) / seconds
            for name, now, then in zip(Counters._fields, self._read(), before, strict=True)
        }
        return {"seconds": seconds, **rates}
