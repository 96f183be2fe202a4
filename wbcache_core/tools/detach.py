# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache detach` and `wbcache attach`: a running server goes on without its log, or with another one."""

import json

from wbcache_core.device.name import absolute_path
from wbcache_core.errors import ControlError
from wbcache_core.server.control.client import ask, check_socket
from wbcache_core.server.drain import DRAINING, OFF
from wbcache_core.server.history import Facts
from wbcache_core.tools.drain import wait_for_drain


def run_detach(path: str, force: bool, as_json: bool) -> int:
    """Have a running server go on without a log; returns the exit status. Raises ControlError."""
    check_socket(path, "detach")
    facts = _ask_until_done(path, "detach", force=force)
    _tell("detach", facts, "no log is attached: writes go to the origin until wbcache attach", as_json)
    return 0


def run_attach(path: str, log: str, formats: bool, log_size: str | None, force: bool, as_json: bool) -> int:
    """Have a running server go on with this log; returns the exit status. Raises ControlError, ConfigError."""
    check_socket(path, "attach")
    log = absolute_path(log)
    fields: Facts = {"log": log, "format": formats, "force": force}
    if log_size is not None:
        fields["log-size"] = log_size
    _tell("attach", _ask_until_done(path, "attach", **fields), f"log '{log}' is attached", as_json)
    return 0


def _tell(command: str, facts: Facts, sentence: str, as_json: bool) -> None:
    print(json.dumps({command: facts}, indent=2) if as_json else sentence)


def _ask_until_done(path: str, command: str, **fields: object) -> Facts:
    """The answer once everything has been drained. Shows progress. Raises ControlError."""
    facts: Facts = ask(path, command, **fields)[command]
    while facts["state"] == DRAINING:
        if wait_for_drain(path, ask(path, "status")["drain"])["state"] == OFF:
            raise ControlError("the drain was cancelled, so the log stays")
        try:
            facts = ask(path, command, **fields)[command]
        except ControlError as error:
            raise ControlError(f"{error}; writes wait for the origin until wbcache drain --cancel") from None
    return facts
