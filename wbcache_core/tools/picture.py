# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache picture`: what a log holds, as a PNG: time on the x axis, the volume on the y axis, and how much was
written."""

import math
import os
import warnings
from datetime import datetime, timezone
from typing import Any

from wbcache_core.device.new_file import new_file, refuse_existing
from wbcache_core.errors import ConfigError, LogRefusedError
from wbcache_core.server.control.client import is_socket
from wbcache_core.tools.log_content import LogContent, content_of_log, content_of_server
from wbcache_core.tools.log_facts import LogFacts, gather, unit_of
from wbcache_core.tools.scales import duration
from wbcache_core.tools.standard_streams import say, tell
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, format_size

_INCHES = (12.0, 7.2)
_DPI = 110
_WINDOW, _CLEAN, _CLEARED, _TAG = "#2e8b57", "#b8bcc2", "#f2a03d", "#b3123c"
_CURSORS = {
    "destaged": ("#1a1a1a", "-", "the origin is here (destaged)"),
    "batch_end": ("#1a1a1a", ":", "end of the batch that is on its way to the origin"),
}
_TAG_LEVELS = 3


def run_picture(path: str, target: str) -> int:
    """Draw it; returns the exit status. Raises WbcacheError if log or file are invalid, or the server refuses."""
    if not target.lower().endswith(".png"):
        raise ConfigError(f"'{target}' does not end in .png, the only format that is drawn")
    refuse_existing(target)
    figure_type = _load_matplotlib()
    try:
        content = content_of_server(path) if is_socket(path) else content_of_log(path)
    except LogRefusedError as error:
        tell(f"wbcache: {error}")
        return 1
    facts = gather(content)
    figure = figure_type(figsize=_INCHES, dpi=_DPI, facecolor="white")
    with warnings.catch_warnings(), new_file(target, "picture") as fd, os.fdopen(os.dup(fd), "wb") as file:
        # Warnings about letters in names that the font lacks.
        warnings.simplefilter("ignore", UserWarning)
        _Drawing(figure, facts, content, os.path.basename(path)).draw()
        figure.savefig(file, format="png")
    whose = "the server behind" if is_socket(path) else "log"
    say(f"'{target}' shows {facts.segment_count} segments of {whose} '{path}'")
    return 0


def _load_matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"drawing a picture needs Matplotlib; install python3-matplotlib ({error})") from None
    return Figure


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


class _Drawing:
    """One figure: a strip with window and tags, the density, and what was written in each span of time."""

    def __init__(self, figure: Any, facts: LogFacts, content: LogContent, name: str) -> None:
        self._figure = figure
        self._facts = facts
        self._content = content
        self._name = name
        grid = figure.add_gridspec(
            3, 2, height_ratios=(1.5 if facts.tags else 0.4, 6, 1.5), width_ratios=(60, 1), hspace=0.05, wspace=0.03,
            left=0.08, right=0.91, top=0.92, bottom=0.13,
        )  # fmt: skip
        self._main = figure.add_subplot(grid[1, 0])
        self._strip = figure.add_subplot(grid[0, 0], sharex=self._main)
        self._rate = figure.add_subplot(grid[2, 0], sharex=self._main)
        self._scale = figure.add_subplot(grid[1, 1])
        self._handles: list[Any] = []

    def draw(self) -> None:
        self._draw_density()
        self._draw_rate()
        self._draw_strip()
        self._draw_cursors()
        self._draw_time_axis()
        self._figure.legend(
            handles=self._handles, loc="lower center", ncol=len(self._handles), frameon=False, fontsize=9
        )  # fmt: skip
        self._figure.suptitle(self._title(), fontsize=12, y=0.975, parse_math=False)

    def _title(self) -> str:
        facts = self._facts
        written = format_size(sum(facts.density.written_at()) << PAGE_SHIFT)
        count = f"{facts.generation_count} generation{'s' if facts.generation_count != 1 else ''}"
        size = format_size(self._content.volume_bytes)
        return f"{_printable(self._name)}: {written} written in {count} to a volume of {size}"

    @staticmethod
    def _x(time_ns: int) -> float:
        """Days, as Matplotlib counts them."""
        from matplotlib.dates import date2num

        moment = datetime.fromtimestamp(time_ns // 10**9, timezone.utc)
        return float(date2num(moment)) + time_ns % 10**9 / 86400e9

    def _draw_density(self) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap, LogNorm
        from matplotlib.patches import Patch
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        facts, axes = self._facts, self._main
        density, blocks = facts.density, facts.blocks
        unit, name = unit_of(blocks.stop << PAGE_SHIFT)
        extent = (
            self._x(facts.start_ns), self._x(facts.end_ns),
            (blocks.start << PAGE_SHIFT) / unit, (blocks.stop << PAGE_SHIFT) / unit,
        )  # fmt: skip
        placed = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "extent": extent}
        cleared = [[1.0 if count else math.nan for count in row] for row in density.cleared]
        axes.imshow(cleared, cmap=ListedColormap([_CLEARED]), vmin=0, vmax=1, **placed)
        most = max(max(map(max, density.written)), 2)
        written = [[count or math.nan for count in row] for row in density.written]
        # Without the colours that are hard to see on white.
        colours = ListedColormap(colormaps["Blues"]([0.35 + 0.65 * step / 255 for step in range(256)]))
        image = axes.imshow(written, cmap=colours, norm=LogNorm(1, most), **placed)
        bar = self._figure.colorbar(image, cax=self._scale)
        ticks = [4**power for power in range(32) if 4**power <= most]
        bar.set_ticks(ticks, labels=[format_size(count << PAGE_SHIFT).replace(".0", "") for count in ticks])
        bar.minorticks_off()
        bar.set_label("written to each spot", fontsize=9)
        bar.ax.tick_params(labelsize=8)
        axes.set_ylabel(f"place in the volume ({name})")
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 4, 5, 8, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.2, linewidth=0.5)
        if any(map(any, density.cleared)):
            self._handles.append(Patch(color=_CLEARED, label="trimmed or zeroed"))
        if not any(map(any, density.written)):
            axes.text(
                0.5, 0.5, "the log holds no data", transform=axes.transAxes, ha="center", va="center", color="#777777"
            )  # fmt: skip

    def _draw_rate(self) -> None:
        facts, axes = self._facts, self._rate
        blocks = facts.density.written_at()
        # Two columns of the picture are one bar.
        bars = [sum(blocks[at : at + 2]) for at in range(0, len(blocks), 2)]
        unit, name = unit_of(max(bars) << PAGE_SHIFT)
        start, width = self._x(facts.start_ns), (self._x(facts.end_ns) - self._x(facts.start_ns)) / len(bars)
        axes.bar(
            [start + width * index for index in range(len(bars))], [count * PAGE_BYTES / unit for count in bars],
            width=width, align="edge", color="#2a6fad",
        )  # fmt: skip
        column = duration((facts.end_ns - facts.start_ns) / 1e9 / len(bars))
        axes.set_ylabel(f"{name} written\nin {column}", fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)

    def _draw_strip(self) -> None:
        from matplotlib.patches import Patch

        facts, axes = self._facts, self._strip
        axes.set_ylim(0, _TAG_LEVELS + 1.4 if facts.tags else 1)
        axes.axis("off")
        if facts.window:
            start, end = map(self._x, facts.window)
            least = (self._x(facts.end_ns) - self._x(facts.start_ns)) / 300
            axes.broken_barh([(start, max(end - start, least))], (0.15, 0.6), color=_WINDOW)
            oldest, newest = self._content.oldest, self._content.newest
            assert oldest and newest
            label = f"can be opened: generation {oldest.number} to {newest.number}"
            self._handles.append(Patch(color=_WINDOW, label=label))
            clean = facts.first_ns
            if clean and self._x(clean) < start:
                axes.broken_barh([(self._x(clean), start - self._x(clean))], (0.15, 0.6), color=_CLEAN)
                self._handles.append(Patch(color=_CLEAN, label="still in the log, can no longer be opened"))
        self._draw_tags()

    def _draw_tags(self) -> None:
        facts = self._facts
        left, width = self._x(facts.start_ns), self._x(facts.end_ns) - self._x(facts.start_ns)
        ends = [-math.inf] * _TAG_LEVELS
        for name, time_ns in facts.tags:
            place = (self._x(time_ns) - left) / width
            label = _printable(name if len(name) <= 24 else name[:23] + "\N{HORIZONTAL ELLIPSIS}")
            # About how wide it is, as a share of the picture; near the right edge it extends to the left.
            breadth = 0.012 + 0.0085 * len(label)
            flips = place + breadth > 1
            begin = place - breadth if flips else place
            level = next((level for level, end in enumerate(ends) if end <= begin), None)
            for axes in (self._main, self._rate):
                axes.axvline(left + place * width, color=_TAG, linewidth=0.9)
            height = 1.1 + (level if level is not None else 0)
            self._strip.vlines(left + place * width, 0, height + 0.5, color=_TAG, linewidth=0.9, clip_on=False)
            if level is not None:
                ends[level] = begin + breadth
                self._strip.text(
                    left + place * width, height, f"{label} " if flips else f" {label}", color=_TAG, fontsize=9,
                    ha="right" if flips else "left", va="bottom", parse_math=False,
                )  # fmt: skip
        if facts.tags:
            from matplotlib.lines import Line2D

            self._handles.append(Line2D([], [], color=_TAG, linewidth=0.9, label="tags"))

    def _draw_cursors(self) -> None:
        from matplotlib.lines import Line2D

        for name, time_ns in self._facts.cursors.items():
            colour, style, label = _CURSORS[name]
            for axes in (self._main, self._rate):
                axes.axvline(self._x(time_ns), color=colour, linestyle=style, linewidth=1.2)
            self._handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.2, label=label))

    def _draw_time_axis(self) -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(tz=timezone.utc, minticks=5, maxticks=11)
        self._rate.xaxis.set_major_locator(locator)
        self._rate.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=timezone.utc))
        self._rate.set_xlabel("time (UTC)", labelpad=2)
        self._main.tick_params(axis="x", labelbottom=False)
        self._main.set_xlim(self._x(self._facts.start_ns), self._x(self._facts.end_ns))
