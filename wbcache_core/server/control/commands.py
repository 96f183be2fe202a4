# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked through `control=`, from status to give-up; see docs/control-socket.md.

A request is a JSON object on one line, and so is the answer, in which `ok` says whether it was done.
"""

import json
import logging
import os
from collections.abc import Callable

from wbcache_core import __version__
from wbcache_core.errors import ControlError, WbcacheError
from wbcache_core.memory.generations import Generation
from wbcache_core.server.control.past_commands import PastCommands
from wbcache_core.server.control.server import LONGEST_LINE, Answer
from wbcache_core.server.history import Facts, moment
from wbcache_core.server.series import Series
from wbcache_core.server.served import Served
from wbcache_core.server.status import Rates
from wbcache_core.threads import InternalErrors

_log = logging.getLogger("wbcache")


COMMANDS: dict[str, dict[str, type]] = {
    "status": {},
    "history": {"limit": int, "each": bool, "from": int},
    "tag": {"name": str, "when": str},
    "untag": {"name": str},
    "resolve": {"when": str},
    "diff": {"start": str, "end": str, "offset": int},
    "segments": {"from": int},
    "give-up": {"offset": int, "length": int},
    "drain": {"cancel": bool},
    "events": {"after": int},
    "series": {},
    "quiesce": {},
    "resume": {},
    "detach": {"force": bool},
    "attach": {"log": str, "format": bool, "log-size": str, "force": bool},
    "get": {},
    "set": {"values": dict},
    "promote": {"force": str},
    "rejoin": {"discard": bool, "save": str},
}
"""The fields of each command besides `command`."""
_REQUIRED = {
    "tag": ("name",), "untag": ("name",), "resolve": ("when",), "give-up": ("offset", "length"), "set": ("values",),
    "events": ("after",), "diff": ("start", "end"), "attach": ("log",),
}  # fmt: skip
_FORM = 'a request is an object in one line, such as {"command": "status"}'
_JSON_NAMES = {int: "a number", bool: "true or false", str: "a string", dict: "an object"}


def _line(facts: Facts) -> bytes:
    return json.dumps(facts).encode() + b"\n"


def refusal(text: str) -> bytes:
    """The answer to a request that is not carried out."""
    return _line({"ok": False, "error": text})


TOO_LONG = refusal(f"a request has at most {LONGEST_LINE} bytes; the connection is closed")


def parse(line: bytes) -> Facts:
    """A request whose command and fields are known. Raises ControlError."""
    try:
        request = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise ControlError(f"this is not JSON; {_FORM}") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise ControlError(f"this is not an object with the field 'command'; {_FORM}")
    command = request["command"]
    if command not in COMMANDS:
        raise ControlError(f"there is no command {command!r:.80}; there are {', '.join(COMMANDS)}")
    for name, value in request.items():
        if name != "command":
            _check_field(command, name, value)
    for name in _REQUIRED.get(command, ()):
        if name not in request:
            raise ControlError(f"'{command}' needs the field '{name}'")
    return request


def _check_field(command: str, name: str, value: object) -> None:
    fields = COMMANDS[command]
    if name not in fields:
        known = ", ".join(f"'{one}'" for one in fields) or "none"
        raise ControlError(f"'{command}' has no field {name!r:.80}; its fields: {known}")
    # A bool is an int to Python.
    if type(value) is not fields[name]:
        raise ControlError(f"'{name}' of '{command}' has to be {_JSON_NAMES[fields[name]]}")


class ControlCommands:
    """answer() and tick() are for one thread; what answer() returns may be called in another."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._rates = Rates(lambda: served.now.counters())
        self._past = PastCommands(lambda: served.now)
        self._series = Series(served.now.status())
        self._errors = InternalErrors("what the thread of the control socket does now and then")

    def tick(self) -> None:
        """To be called regularly, so that the rates are those of the last seconds. Never raises: what fails is logged,
        and the rest is done."""
        for step in (self._rates.sample, self._served.note_changes, self._past.tick, self._sample):
            try:
                step()
            except Exception as error:
                self._errors.note(error)

    def _sample(self) -> None:
        self._series.look(lambda: self._served.now.status())

    def answer(self, line: bytes) -> Answer:
        """The answer to a request; anything that waits for a device is left to the caller. Never raises."""
        try:
            request = parse(line)
        except ControlError as error:
            return refusal(str(error))
        if request["command"] == "status":
            return attempt(self._status)
        if request["command"] == "history":
            return attempt(lambda: self._past.history(request))
        if request["command"] == "events":
            return attempt(lambda: self._events(request["after"]))
        if request["command"] == "series":
            return attempt(lambda: self._series.facts(self._served.now.status()))
        if request["command"] == "get":
            return attempt(self._get)
        if request["command"] == "set":
            return attempt(lambda: self._set(request["values"]))
        if request["command"] == "resolve":
            return lambda: attempt(lambda: self._past.resolve(request["when"]))
        if request["command"] == "diff":
            return lambda: attempt(lambda: self._past.diff(request))
        if request["command"] == "segments":
            return lambda: attempt(lambda: self._served.now.log_segments.page(request.get("from", 0)))
        if request["command"] == "tag":
            return lambda: attempt(lambda: self._tag(request["name"], request.get("when")))
        if request["command"] == "drain":
            return lambda: attempt(lambda: self._drain(request.get("cancel", False)))
        if request["command"] == "quiesce":
            return lambda: attempt(self._quiesce)
        if request["command"] == "resume":
            return attempt(self._resume)
        if request["command"] in ("promote", "rejoin"):
            return refusal("this server is the owner of the volume already")
        if request["command"] == "detach":
            return lambda: attempt(lambda: self._detach(request))
        if request["command"] == "attach":
            return lambda: attempt(lambda: self._attach(request))
        if request["command"] == "give-up":
            return lambda: attempt(lambda: self._give_up(request["offset"], request["length"]))
        return lambda: attempt(lambda: self._untag(request["name"]))

    def _status(self) -> Facts:
        about = {"version": __version__, "pid": os.getpid()}
        return about | self._served.now.status() | {"rates": self._rates.facts()}

    def _events(self, after: int) -> Facts:
        self._served.note_changes()
        events, missed = self._served.now.events.after(after)
        return {"events": events, "missed": missed}

    def _get(self) -> Facts:
        settings = self._served.now.settings.all()
        return {"settings": [{"name": one.name, "value": one.now, "at_start": one.before} for one in settings]}

    def _set(self, values: dict[str, object]) -> Facts:
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        if not values or len(texts) < len(values):
            raise ControlError('\'values\' has to have parameters with their new values, such as {"ack": "log"}')
        changed = [one._asdict() for one in self._served.now.settings.change(texts)]
        facts = [{"name": one["name"], "was": one["before"], "is": one["now"]} for one in changed]
        self._served.now.events.note("set", changed=facts)
        return {"changed": facts}

    def _tag(self, name: str, when: str | None) -> Facts:
        tag = self._served.now.tag(name, when)
        _log.info("tag '%s' given to generation %d", tag.name, tag.generation)
        return {"tag": {"name": tag.name, **moment(Generation.of(tag))}}

    def _give_up(self, offset: int, length: int) -> Facts:
        byte_count, is_done = self._served.now.give_up(offset, length)
        _log.warning("giving up %d bytes that the origin rejects, from %d on, as requested", byte_count, offset)
        return {"bytes": byte_count, "done": is_done}

    def _drain(self, cancel: bool) -> Facts:
        if cancel:
            _log.info("a drain is cancelled")
            return {"drain": self._served.now.cancel_drain()}
        facts = self._served.now.begin_drain()
        _log.info("draining %d bytes to the origin; writes wait for it from now on", facts["bytes_left"])
        return {"drain": facts}

    def _quiesce(self) -> Facts:
        _log.info("the volume is quiesced: changes wait from now on")
        return {"quiesce": self._served.now.quiesce()}

    def _resume(self) -> Facts:
        _log.info("the volume goes on")
        return {"quiesce": self._served.now.resume()}

    def _detach(self, request: Facts) -> Facts:
        return {"detach": self._served.detach(request.get("force", False))}

    def _attach(self, request: Facts) -> Facts:
        fields = (request.get("format", False), request.get("log-size"), request.get("force", False))
        return {"attach": self._served.attach(request["log"], *fields)}

    def _untag(self, name: str) -> Facts:
        self._served.now.untag(name)
        _log.info("tag '%s' removed", name)
        return {}


def attempt(run: Callable[[], Facts]) -> bytes:
    """The answer to a request that is carried out by run()."""
    try:
        return _line({"ok": True, **run()})
    except WbcacheError as error:
        return refusal(str(error))
    except Exception as error:
        _log.exception("internal error in the control socket, please report it")
        return refusal(f"internal error: {error!r}; see the server's messages")
