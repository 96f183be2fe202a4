# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache promote`: a running standby takes over."""

import json

from wbcache_core.server.control.client import ask, check_socket


def run_promote(path: str, force: str, as_json: bool) -> int:
    """Ask a running standby; returns the exit status. Raises ControlError."""
    check_socket(path, "promote")
    facts = ask(path, "promote", force=force)["promote"]
    if as_json:
        print(json.dumps({"promote": facts}, indent=2))
    else:
        print(f"took over in epoch {facts['epoch']['number']}, from LSN {facts['lsn']} on, in {facts['seconds']:.3f} s")
    return 0
