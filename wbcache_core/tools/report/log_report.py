# SPDX-License-Identifier: BSD-3-Clause
"""The page about a log that no server holds, from the log alone."""

from wbcache_core.errors import DeviceInUseError, LogRefusedError
from wbcache_core.log.recovery import Found
from wbcache_core.server.history import Facts, Query, choose, describe
from wbcache_core.tools.info import gather_facts
from wbcache_core.tools.log_content import content_of
from wbcache_core.tools.log_facts import gather
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.tools.offline_devices import ForgivingLog
from wbcache_core.tools.report.charts import Part, bar
from wbcache_core.tools.report.density import log_picture
from wbcache_core.tools.report.markup import Markup
from wbcache_core.tools.report.page import ACT, GOOD, WATCH, Finding, Tile, charts, page, section, table, tiles
from wbcache_core.tools.report.past import ROWS, past_section
from wbcache_core.tools.scales import count, share, size


def log_page(path: str) -> tuple[str, list[Finding], bool]:
    """The document, what needs attention, and whether the log is sound. Raises DeviceError, LogVersionError."""
    try:
        log = ForgivingLog(path, read_only=True)
    except DeviceInUseError as error:
        raise DeviceInUseError(f"{error}, or name its socket (parameter control=) instead of the log") from None
    try:
        info = gather_facts(log)
        sections = [_identity(info)]
        if not info["problem"] and info["state"] != "blank":
            try:
                sections = [tiles(_tiles(info)), _content(info), _past(log), *sections]
            except LogRefusedError as error:
                info["problem"] = str(error)
    finally:
        log.close()
    found = _findings(info)
    return page(f"wbcache log: {path}", _about(info), found, sections), found, not info["problem"]


def _about(info: Facts) -> str:
    origin = f", for origin {info['origin']['name']} of {size(info['origin']['bytes'])}" if "origin" in info else ""
    return f"A log of {size(info['bytes'])}{origin}, {info['state']}; no server holds it."


def _findings(info: Facts) -> list[Finding]:
    found = []
    if info["problem"]:
        found.append(
            Finding(
                ACT,
                f"A server refuses this log: {info['problem']}",
                "Change nothing yet. See docs/recovery.md, and what wbcache salvage says.",
            )
        )
    if info["state"] == "blank":
        found.append(Finding(GOOD, "The log is blank.", "A server formats it for the first client that may write."))
    if info.get("uncommitted"):
        found.append(
            Finding(
                WATCH,
                f"Not all of it is in the log: {info['uncommitted']}.",
                "The next server of this log takes it over, as long as the machine is not restarted.",
            )
        )
    if info.get("left_out_lsn") is not None:
        found.append(
            Finding(
                WATCH,
                "The last commit is incomplete, and is left out.",
                "Usual after a crash: no flush covers it. Otherwise the end of the log is damaged.",
            )
        )
    if info["state"] == "dirty":
        found.append(
            Finding(
                WATCH,
                "The origin alone is not the volume: keep this log with it.",
                "Start a server, or write it to the origin: wbcache replay LOG ORIGIN.",
            )
        )
    if not found:
        found.append(Finding(GOOD, "Nothing needs attention.", "The log is sound, and the origin has all of it."))
    return found


def _tiles(info: Facts) -> list[Tile]:
    dirty, window = info["dirty"], info["window"]
    alone = info["origin_alone"]
    return [
        Tile("The origin lacks", size(dirty["log_bytes"]), "What would be lost with this log."),
        Tile(
            "Log in use",
            share(dirty["log_bytes"], info["log_bytes"]),
            f"Of {size(info['log_bytes'])}, in {count(dirty['segments'])} segments with {count(dirty['pages'])} pages.",
        ),
        Tile("Moments", count(window["generations"]) if window else "0", "So many past moments can be opened."),
        Tile(
            "The origin alone is",
            alone["time"].partition(".")[0].replace("T", " ") if alone["time"] else "as before",
            "The volume as of this time, if the log were lost"
            + (", perhaps with parts of a later batch over it." if alone["batch_under_way"] else "."),
        ),
    ]


def _content(info: Facts) -> Markup:
    used = info["dirty"]["log_bytes"]
    parts = [
        Part("the origin lacks it", "orange", used),
        Part("free, or on the origin too", "empty-part", max(info["log_bytes"] - used, 0)),
    ]
    return section(
        "The log",
        "A server that starts may write over what the origin has too.",
        charts(bar("What the log holds", parts, size)),
    )


def _past(log: ForgivingLog) -> Markup:
    """Raises LogRefusedError."""
    segments: list[Found] = []
    history = LogHistory(log, segments)
    recovered = history.recovered
    rows = describe(choose(recovered.covered, Query(ROWS)), history.superblock.tags)
    return past_section(rows, log_picture(gather(content_of(history, segments))))


def _identity(info: Facts) -> Markup:
    rows: list[list[object]] = [["Log", f"{info['log']}, {info['bytes']} bytes"]]
    if "volume" in info:
        origin = info["origin"]
        rows += [
            ["Volume", f"{info['volume']}, format {info['format']}"],
            ["Origin", f"{origin['name']}, {origin['bytes']} bytes"],
            ["Identity of the origin", ", ".join(origin["identity"])],
            ["Cursors (LSN)", ", ".join(f"{name} {lsn}" for name, lsn in info["cursors"].items())],
        ]
        rows += [
            [
                f"Superblock at byte {one['offset']}",
                f"sequence {one['sequence']}, written {one['written']}" if one["valid"] else "not valid",
            ]
            for one in info["superblocks"]
        ]
    return section("What it says about itself", "As wbcache info shows it.", table([], rows))
