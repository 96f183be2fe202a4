# SPDX-License-Identifier: BSD-3-Clause
"""Measuring in turn, A B A B ..., and what is made of it: medians, spread, ratios, rows of the table."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Spread:
    """Median, lowest and highest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Target:
    """`at_least` or at most a number."""

    limit: float
    at_least: bool = True

    def reached(self, value):
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self):
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass
class Row:
    """One line of the table."""

    what: str
    found: Spread
    unit: str = "x"
    target: Target | None = None
    note: str = ""

    @property
    def reached(self):
        """None for a row without a target. The median counts."""
        return self.target.reached(self.found.median) if self.target else None


@dataclass
class Outcome:
    """What a measurement found: rows for the table, and every value behind them, by name, for JSON and charts."""

    rows: list[Row] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    unit: str = ""
    """Of the values."""

    def add(self, *arguments, **keywords):
        self.rows.append(Row(*arguments, **keywords))


def in_turn(bench, turns, rounds=None):
    """Call each of `turns` (name -> function without arguments) once a round; name -> list of what they returned."""
    found = {name: [] for name in turns}
    for number in range(rounds or bench.rounds):
        for name, turn in turns.items():
            bench.settle()
            result = turn()
            found[name].append(result)
            bench.say(f"  round {number + 1}: {name}: {describe(result)}")
    return found


def describe(result):
    """A result for the progress lines."""
    if hasattr(result, "rate"):
        latency = f", median {result.median_us:.0f} us, 99.9 % {result.high_us:.0f} us" if result.median_us else ""
        return f"{result.rate:,.0f}/s{latency}, CPU {result.cpu_us_per_request:.1f} us"
    if isinstance(result, tuple):
        return "; ".join(describe(part) for part in result)
    return f"{result:.4g}"


def ratio(found, one, other, of=lambda sample: sample.rate):
    """`one` against `other`, round by round."""
    return Spread.of([of(a) / of(b) for a, b in zip(found[one], found[other], strict=True)])


def rates(found):
    """name -> rates, for Outcome.values."""
    return {name: [sample.rate for sample in samples] for name, samples in found.items()}


def cpu_rows(outcome, what, found, names):
    """Rows with the server's CPU seconds per million requests and per GiB."""
    for name in names:
        samples = found[name]
        outcome.add(f"{what}: CPU of {name}", Spread.of([s.cpu_us_per_request for s in samples]), "s per million")
        per_gib = [s.cpu_us_per_request * 2**30 / s.request_bytes / 1e6 for s in samples]
        outcome.add(f"{what}: CPU of {name}", Spread.of(per_gib), "s per GiB")
