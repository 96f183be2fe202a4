# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache info`: what a log says about itself."""

import json
import uuid
from contextlib import suppress

from wbcache_core.errors import LogRefusedError
from wbcache_core.format.superblock import SLOT_OFFSETS, Superblock
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import Found, Recovered, recover
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.memory import moments
from wbcache_core.memory.generations import Generation
from wbcache_core.pairing import pairing
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.server import history, status
from wbcache_core.server.config import ONE_ORIGIN, OWN_ORIGINS
from wbcache_core.server.history import Facts
from wbcache_core.server.ring_memory import describe_uncommitted
from wbcache_core.tools.offline_devices import ForgivingLog
from wbcache_core.tools.standard_streams import say
from wbcache_core.units import PAGE_SHIFT, format_share, format_size, pages_of

_FILLING = "the origin alone is not the volume of any moment: it is being filled"


def run_info(path: str, as_json: bool) -> int:
    """Print what is known; returns the exit status. Raises WbcacheError if the log cannot be examined."""
    log = ForgivingLog(path, read_only=True)
    try:
        facts = gather_facts(log)
    finally:
        log.close()
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        say("\n".join(_lines(facts)))
    return 1 if facts["problem"] else 0


def gather_facts(log: ForgivingLog) -> Facts:
    """What `wbcache info` shows, ready for JSON. Raises LogVersionError."""
    facts: Facts = {"log": log.name, "bytes": log.size, "state": "refused", "problem": None}
    slots = read_slots(log)
    superblock = newest(slots)
    if superblock:
        facts |= _identity(superblock) | {"superblocks": _superblocks(slots)}
        facts["cursors"] = {name: getattr(superblock, name) for name in ("oldest", "destaged", "committed")}
        facts["origin_alone"] = _origin_alone(superblock)
        facts["tags"] = [{"name": tag.name, **history.moment(Generation.of(tag))} for tag in superblock.tags]
    try:
        if pairing.read_log(log) is None:
            facts["state"] = "blank"
        elif superblock:
            _add_content(facts, log, superblock)
    except LogRefusedError as error:
        facts["problem"] = str(error)
    if log.unreadable:
        where = ", ".join(map(str, sorted(log.unreadable)[:3]))
        said = f"log '{log.name}' cannot be read at byte {where}: the device fails"
        facts |= {"state": "refused", "problem": f"{said}; {facts['problem']}" if facts["problem"] else said}
    return facts


def _add_content(facts: Facts, log: ForgivingLog, superblock: Superblock) -> None:
    """What recovery finds. Raises LogRefusedError."""
    recovered = recover(log, LogReader(log, superblock.data_pages, superblock.uuid), superblock)
    facts["cursors"]["head"] = recovered.head
    facts["left_out_lsn"] = recovered.discarded_lsn
    facts["dirty"] = _dirty(recovered, superblock)
    facts["window"] = _window(recovered)
    facts["uncommitted"] = describe_uncommitted(log.name, superblock, recovered) or None
    facts["state"] = "dirty" if recovered.head > superblock.destaged or facts["uncommitted"] else "clean"


def _identity(superblock: Superblock) -> Facts:
    return {
        "volume": str(uuid.UUID(bytes=superblock.uuid)),
        "format": superblock.version,
        "copy": superblock.is_copy,
        "origins": OWN_ORIGINS if superblock.has_own_origins else ONE_ORIGIN,
        "inconsistent": superblock.is_inconsistent,
        "filled_blocks": superblock.fill.filled if superblock.is_inconsistent else None,
        "log_bytes": superblock.log_bytes,
        **status.epochs(superblock),
        "origin": {
            "name": superblock.origin_name,
            "bytes": superblock.origin_bytes,
            "identity": superblock.origin_facts.described(),
            "mark": _mark(superblock),
        },
    }


def _mark(superblock: Superblock) -> Facts | None:
    """The mark that the origin has today, if it can be reached from here by its recorded name."""
    mark = None
    with suppress(OSError):
        mark = OriginSide.at(superblock.origin_name).mark
    return mark and {
        "state": mark.state,
        "log": mark.log,
        "volume": str(uuid.UUID(bytes=mark.volume)),
        "of_this_log": mark.volume == superblock.uuid,
    }


def _superblocks(slots: list[Superblock | None]) -> list[Facts]:
    return [
        {"offset": offset, "valid": True, "sequence": slot.sequence, "written": moments.iso(slot.written_ns)}
        if slot
        else {"offset": offset, "valid": False}
        for offset, slot in zip(SLOT_OFFSETS, slots, strict=True)
    ]


def _origin_alone(superblock: Superblock) -> Facts:
    """How old the origin alone is."""
    generation = superblock.destaged_generation
    return {
        "generation": generation,
        "time": moments.iso(superblock.destaged_time_ns) if generation else None,
        "batch_under_way": superblock.batch_end > superblock.destaged,
        "batch_end": superblock.batch_end,
        "text": _FILLING if superblock.is_inconsistent else superblock.describe_origin(),
    }


def _dirty(recovered: Recovered, superblock: Superblock) -> Facts:
    facts: Facts = {
        "pages": recovered.page_count,
        "segments": len(recovered.table),
        "log_bytes": recovered.end.place - superblock.destaged_place << PAGE_SHIFT,
    }
    if recovered.first and recovered.last:
        facts |= {"oldest": _moment(recovered.first), "newest": _moment(recovered.last)}
    return facts


def _window(recovered: Recovered) -> Facts | None:
    generations = recovered.covered.generations
    oldest, newest = generations.oldest, generations.newest
    return history.window(oldest, newest, len(generations)) if oldest and newest else None


def _moment(found: Found) -> Facts:
    descriptor = found.descriptor
    return {
        "first_lsn": descriptor.first_lsn,
        "end_lsn": descriptor.end_lsn,
        "generation": descriptor.generation,
        "time": moments.iso(descriptor.time_ns),
    }


def _lines(facts: Facts) -> list[str]:
    lines = [f"{'log':<15} {facts['log']}, {format_size(facts['bytes'])} ({facts['bytes']} bytes), {facts['state']}"]

    def add(label: str, text: str) -> None:
        lines.append(f"{label:<15} {text}")

    if "volume" in facts:
        origin = facts["origin"]
        add("volume", f"{facts['volume']}, format {facts['format']}")
        if facts["copy"]:
            add("", "the copy of a standby, whose owner may have more")
        if facts["origins"] == OWN_ORIGINS:
            add("", "each node has an origin of its own")
        if facts["inconsistent"]:
            copied = format_share(facts["filled_blocks"], pages_of(origin["bytes"]))
            add("", f"it and the origin are not the volume: the origin is being filled, {copied} copied")
        add("origin", f"'{origin['name']}', {format_size(origin['bytes'])} ({origin['bytes']} bytes)")
        add("identity", ", ".join(origin["identity"]))
        if origin["mark"]:
            mark = origin["mark"]
            whose = "this volume" if mark["of_this_log"] else f"another volume, {mark['volume']}"
            add("mark", f"{mark['state']}, of {whose}, log '{mark['log']}'")
        for slot in facts["superblocks"]:
            text = f"sequence {slot['sequence']}, written {slot['written']}" if slot["valid"] else "not valid"
            add("superblock", f"at byte {slot['offset']}: {text}")
        if facts["epoch"]:
            add("epoch", f"{facts['epoch']['number']}, id {facts['epoch']['id']}")
        for switch in facts["epochs"]:
            after = f", after the descriptor {switch['previous']}" if int(switch["previous"], 16) else ""
            add("", f"epoch {switch['number']} began at LSN {switch['first_lsn']}{after}")
        cursors = facts["cursors"]
        add("cursors", ", ".join(f"{name} {lsn}" for name, lsn in cursors.items()) + " (LSN)")
        add("origin alone", facts["origin_alone"]["text"].removeprefix("the origin alone "))
    if "dirty" in facts:
        lines += _dirty_lines(facts["dirty"], facts["log_bytes"])
        if facts["left_out_lsn"] is not None:
            add(
                "left out",
                f"an incomplete last commit, from LSN {facts['left_out_lsn']}: no flush covers it, or the log "
                "has been damaged since",
            )
    if facts.get("uncommitted"):
        add("in memory", facts["uncommitted"])
    if facts.get("window"):
        ends = (facts["window"][end] for end in ("oldest", "newest"))
        first, last = (f"{end['generation']} ({end['time']})" for end in ends)
        add("window", f"generation {first} to {last} can be opened")
    for tag in facts.get("tags", ()):
        add("tag", f"'{tag['name']}' is generation {tag['generation']} ({tag['time']})")
    if facts["state"] == "blank":
        add("", "all zeros: a server formats it for the first client that may write")
    if facts["problem"]:
        add("refused", facts["problem"])
    return lines


def _dirty_lines(dirty: Facts, log_bytes: int) -> list[str]:
    if not dirty["segments"]:
        return [f"{'dirty':<15} nothing: the origin has all of it"]
    lines = [
        f"{'dirty':<15} {dirty['pages']} pages in {dirty['segments']} segments, "
        f"{format_size(dirty['log_bytes'])} ({dirty['log_bytes'] / log_bytes:.0%}) of the log"
    ]
    for which in ("oldest", "newest"):
        moment = dirty[which]
        lines.append(
            f"{which + ' dirty':<15} generation {moment['generation']}, {moment['time']}, "
            f"LSN {moment['first_lsn']} to {moment['end_lsn'] - 1}"
        )
    return lines
