# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache rejoin`: what a standby has that the owner does not, and giving it up."""

import json
import os

from wbcache_core.memory.moments import words
from wbcache_core.server.control.client import ask, check_socket
from wbcache_core.server.history import Facts
from wbcache_core.units import format_size


def run_rejoin(path: str, discard: bool, target: str | None, as_json: bool) -> int:
    """Ask a running standby; returns the exit status: 1 if there is something that was not given up. Raises
    ControlError."""
    check_socket(path, "rejoin")
    fields = {"save": os.path.abspath(target)} if target else {}
    facts = ask(path, "rejoin", discard=discard, **fields)["rejoin"]
    if as_json:
        print(json.dumps({"rejoin": facts}, indent=2))
    elif facts["tail"] is None:
        print("the owner has not said that this standby has anything that it lacks")
    else:
        _tell(facts["tail"], facts["given_up"], facts["saved"])
    return 1 if facts["tail"] and not facts["given_up"] else 0


def _tell(tail: Facts, is_given_up: bool, saved: str | None) -> None:
    commits = "one commit" if tail["commits"] == 1 else f"{tail['commits']} commits"
    found = f"LSN {tail['lsn']} to {tail['head']}, of epoch {tail['epoch']}"
    if tail["commits"]:
        found += (
            f": {format_size(tail['bytes'])} in {commits}, from {words(tail['since_ns'])} to {words(tail['until_ns'])}"
        )
    print(found)
    if tail["ack"]:
        print(f"Writes among them may have been answered at level {tail['ack']}, flushes at level {tail['flush']}.")
    if is_given_up:
        copy = f"a copy is in '{saved}', for wbcache info and wbcache dump" if saved else "the log had nothing of it"
        print(f"given up; {copy}")
        return
    if tail["on_origin"]:
        print(
            f"The origin of this host has them already up to LSN {tail['on_origin']}, and a copy of the log will lack "
            "those:\ncopy the origin first if anybody may need them. It is filled again when they are given up."
        )
    print(
        "The owner does not have them: they were written by the owner before, and never reached it. Clients may have "
        "been\ntold that they are durable. This standby takes nothing until they are given up: wbcache rejoin "
        "--discard-tail"
    )
