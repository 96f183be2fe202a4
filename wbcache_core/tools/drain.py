# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache drain`: has a running server destage everything, and waits for it."""

import json
import time

from wbcache_core.server.control.client import ask, check_socket
from wbcache_core.server.drain import DRAINED, DRAINING, INCOMPLETE
from wbcache_core.server.history import Facts
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import tell
from wbcache_core.units import format_size

_POLL_SECONDS = 0.25


def run_drain(path: str, waits: bool, cancels: bool, as_json: bool) -> int:
    """Begin, await or cancel a drain; returns the exit status. Raises ControlError."""
    check_socket(path, "drain")
    facts = ask(path, "drain", cancel=cancels)["drain"]
    if waits and facts["state"] == DRAINING:
        facts = wait_for_drain(path, facts)
    if as_json:
        print(json.dumps({"drain": facts}, indent=2))
    else:
        print(_sentence(facts))
    return 0 if facts["state"] == DRAINED or not waits else 1


def _sentence(facts: Facts) -> str:
    if facts["state"] == DRAINED:
        return "the origin has everything; writes wait for it until wbcache drain --cancel"
    if facts["state"] == INCOMPLETE:
        return f"the origin has everything, except: {facts['incomplete']}"
    if facts["state"] == DRAINING:
        left = format_size(facts["bytes_left"])
        return f"draining: {left} left; writes wait for the origin until wbcache drain --cancel"
    return "no drain: writes are acknowledged as the parameters say"


def wait_for_drain(path: str, facts: Facts) -> Facts:
    """Show progress until it is done, cancelled, or cannot be done; returns how it is then. Raises ControlError."""
    total, told = facts["bytes_total"], None
    with Progress("draining", total) as progress:
        while facts["state"] == DRAINING:
            progress.update(total - facts["bytes_left"])
            time.sleep(_POLL_SECONDS)
            status = ask(path, "status")
            facts, errors = status["drain"], status["errors"]
            error = errors["log"] or errors["origin"]
            if error and error != told:
                tell(f"wbcache: {error}")
            told = error
            if errors["log"]:
                break
    return facts
