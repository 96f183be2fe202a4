# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache quiesce` and `wbcache resume`: a pause in which nothing changes."""

import json

from wbcache_core.server.control.client import ask, check_socket


def run_quiesce(path: str, command: str, as_json: bool) -> int:
    """Ask a running server for either; returns the exit status. Raises ControlError."""
    check_socket(path, command)
    facts = ask(path, command)["quiesce"]
    if as_json:
        print(json.dumps({"quiesce": facts}, indent=2))
    elif facts["quiesced"]:
        print("everything acknowledged is in the log; changes wait until wbcache resume, or the next server")
    else:
        print("requests go on")
    return 0
