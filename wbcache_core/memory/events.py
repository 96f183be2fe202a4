# SPDX-License-Identifier: BSD-3-Clause
"""The last changes of a server's state, numbered, for programs that follow them."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from wbcache_core import clock
from wbcache_core.memory import moments

_KEPT = 200


class Events:
    """`_lock` guards all fields, and is held for moments only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def note(self, name: str, **facts: object) -> None:
        """Something has changed just now. Any lock may be held."""
        wall_ns = clock.read().wall_ns
        with self._lock:
            self._count += 1
            self._kept.append({"number": self._count, "time": moments.iso(wall_ns), "event": name, **facts})

    def after(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """The events after that number, oldest first, as far as they are kept; and how many of them are not."""
        with self._lock:
            found = [event for event in self._kept if event["number"] > number]
            return found, max(self._count - max(number, 0) - len(found), 0)


class Watch:
    """What of a state matters to others. For one thread at a time."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._last: dict[str, Any] = {}

    def look(self, facts: Mapping[str, Any]) -> None:
        """Note an event for each change since the last look, and for what is not as usual at the first one."""
        now = {
            "state": facts["state"],
            "throttling": facts["throttling"]["active"],
            "stalled": facts["throttling"]["waiting_for_log_space"] > 0,
            "drain": facts["drain"]["state"],
            "rejected": facts["bad_blocks"]["bytes"],
            "log": facts["errors"]["log"],
            "origin": facts["errors"]["origin"],
        }
        before = self._last or {
            "state": None, "throttling": False, "stalled": False, "drain": "off", "rejected": 0, "log": None,
            "origin": None,
        }  # fmt: skip
        self._last = now
        for name, value in now.items():
            if value != before[name]:
                self._note(name, value)

    def _note(self, name: str, value: Any) -> None:
        if name in ("throttling", "stalled"):
            self._events.note(f"{name}-{'began' if value else 'ended'}")
        elif name in ("log", "origin"):
            if value:
                self._events.note(f"{name}-failing", error=value)
            else:
                self._events.note(f"{name}-works-again")
        elif name == "rejected":
            self._events.note("origin-rejects", bytes=value)
        else:
            self._events.note(name, **{name: value})
