# SPDX-License-Identifier: BSD-3-Clause
"""The samples of a server's life (server/series.py) as steps of charts."""

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

from wbcache_core.counters import bucket_seconds
from wbcache_core.server.history import Facts
from wbcache_core.tools.report.charts import Span, Step

_SHORTEST = 0.25
"""Of the interval: if the last sample is closer to the one before it, that one is left out."""


class _Interval:
    """From one sample to the next."""

    def __init__(self, fields: dict[str, int], before: list[float], after: list[float]) -> None:
        self._fields, self._before, self._after = fields, before, after
        self.start, self.end = before[0], after[0]
        self.seconds = self.end - self.start

    def grown(self, name: str) -> float:
        """By how much a sum has grown in it."""
        return self._after[self._fields[name]] - self._before[self._fields[name]]

    def at_end(self, name: str) -> float:
        """What a field is at its end."""
        return self._after[self._fields[name]]


class Life:
    """From the answer to series."""

    def __init__(self, series: Facts) -> None:
        fields = {name: at for at, name in enumerate(series["fields"])}
        samples = list(series["samples"])
        if len(samples) > 2 and samples[-1][0] - samples[-2][0] < _SHORTEST * series["interval"]:
            del samples[-2]
        self.span = Span(datetime.fromisoformat(series["began"]), samples[-1][0])
        self._intervals = [_Interval(fields, *pair) for pair in pairwise(samples) if pair[0][0] < pair[1][0]]

    def _steps(self, value: Callable[[_Interval], float]) -> list[Step]:
        return [Step(one.start, one.end, value(one)) for one in self._intervals]

    def per_second(self, name: str, unit: float = 1.0) -> list[Step]:
        """How fast a sum grows, in units."""
        return self._steps(lambda one: one.grown(name) / one.seconds / unit)

    def level(self, name: str) -> list[Step]:
        """What it is at the end of each interval."""
        return self._steps(lambda one: one.at_end(name))

    def mean(self, name: str) -> list[Step]:
        """Seconds that a request took, 0 where there was none."""

        def value(one: _Interval) -> float:
            count = one.grown(f"timed_{name}")
            return one.grown(f"{name}_us") / 1e6 / count if count else 0.0

        return self._steps(value)

    def slowest(self, name: str) -> list[Step]:
        """At most so many seconds the slowest request took, 0 where there was none."""

        def value(one: _Interval) -> float:
            bucket = int(one.at_end(f"slowest_{name}"))
            return bucket_seconds(bucket - 1) if bucket else 0.0

        return self._steps(value)
