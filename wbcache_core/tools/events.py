# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache events`: the changes of a running server's state as they happen, one JSON object a line."""

import json
import time

from wbcache_core.errors import ControlError
from wbcache_core.server.control.client import ask, check_socket
from wbcache_core.tools.standard_streams import tell

_POLL_SECONDS = 0.5
_ENDING = ("stopping", "draining")


def run_events(path: str, is_all: bool) -> int:
    """Print events from now on, or all that the server still knows, until it ends; returns the exit status: 1 if it
    ended without being told to. Raises ControlError."""
    check_socket(path, "events")
    answer = ask(path, "events", after=0)
    seen = 0 if is_all else max((event["number"] for event in answer["events"]), default=0)
    is_ending = False
    while True:
        if answer["missed"] and seen:
            tell(f"wbcache: {answer['missed']} events are lost: the server keeps only the last ones")
        for event in answer["events"]:
            if event["number"] > seen:
                print(json.dumps(event), flush=True)
                seen = event["number"]
            if event["event"] == "state":
                is_ending = event["state"] in _ENDING
        time.sleep(_POLL_SECONDS)
        try:
            answer = ask(path, "events", after=seen)
        except ControlError as error:
            if is_ending:
                return 0
            tell(f"wbcache: {error}")
            return 1
