# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache nodes`: the owner of a volume, its peers and standbys, in one table."""

import json
from collections.abc import Iterator, Sequence

from wbcache_core.server.control.client import ask, check_socket
from wbcache_core.server.history import Facts

_HEADINGS = ("node", "role", "state", "epoch", "committed", "behind", "takeover")
LEFT_OUT, FILLING = "left out", "being filled"


def run_nodes(paths: Sequence[str], as_json: bool) -> int:
    """Ask each server; returns the exit status: 1 if an owner has a peer that could not take over. Raises
    ControlError."""
    rows: list[Facts] = []
    for path in paths:
        check_socket(path, "nodes")
        rows += _rows(path, ask(path, "status"))
    if as_json:
        print(json.dumps({"nodes": rows}, indent=2))
    else:
        table = [_HEADINGS, *([_text(row[name]) for name in _HEADINGS] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    return 0 if all(row["takeover"] == "yes" for row in rows if row["role"] == "peer") else 1


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _rows(path: str, facts: Facts) -> Iterator[Facts]:
    """An owner has a row for each of its peers, as it sees them."""
    epoch = facts["epoch"] and facts["epoch"]["number"]
    is_standby = facts.get("role") == "standby"
    takeover = _answer(facts["takeover"]["complete"]) if is_standby else None
    state = f"{facts['state']}, {FILLING}" if facts.get("filled_blocks") is not None else facts["state"]
    yield _row(path, "standby" if is_standby else "owner", state, epoch, facts["cursors"]["committed"], None,
               takeover)  # fmt: skip
    for peer in facts.get("peers", ()):
        # An older server does not say.
        is_filling = peer.get("inconsistent", False)
        state = ", ".join([peer["state"], *[LEFT_OUT] * (not peer["counts"]), *[FILLING] * is_filling])
        may_take = peer["complete"] and not is_filling
        yield _row(peer["peer"], "peer", state, epoch if may_take else None, peer["committed"], peer["behind"],
                   _answer(may_take))  # fmt: skip


def _answer(is_complete: bool) -> str:
    return "yes" if is_complete else "no"


def _row(*values: object) -> Facts:
    return dict(zip(_HEADINGS, values, strict=True))
