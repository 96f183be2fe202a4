# SPDX-License-Identifier: BSD-3-Clause
"""PNG charts: bars of medians with the lowest and the highest round."""

import statistics

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

_OURS, _THEIRS = "#1f6fb4", "#b8bcc2"
_CHART_DPI = 80


def draw(path, title, values, unit):
    """One horizontal bar for each name in values."""
    names = list(values)
    medians = [statistics.median(values[name]) for name in names]
    errors = [
        [median - min(values[name]) for name, median in zip(names, medians, strict=True)],
        [max(values[name]) - median for name, median in zip(names, medians, strict=True)],
    ]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.32 * len(names)))
    colours = [_OURS if name.startswith("wbcache") else _THEIRS for name in names]
    axes.barh(names, medians, xerr=errors, color=colours, ecolor="#444444", capsize=3)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=_CHART_DPI, bbox_inches="tight")
    pyplot.close(figure)
