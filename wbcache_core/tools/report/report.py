# SPDX-License-Identifier: BSD-3-Clause
"""Writes the page, and says on the terminal what needs attention."""

import json

from wbcache_core.device.new_file import new_file, refuse_existing, write_all
from wbcache_core.errors import ConfigError
from wbcache_core.server.control.client import is_socket
from wbcache_core.tools.report.log_report import log_page
from wbcache_core.tools.report.page import GOOD, Finding
from wbcache_core.tools.report.server_report import ask_all, server_page
from wbcache_core.tools.standard_streams import say

_SUFFIXES = (".html", ".htm")


def run_report(target: str, path: str, as_json: bool) -> int:
    """About a server, by its socket, or a log; returns the exit status, 1 for a log that is refused. Raises
    WbcacheError."""
    if not path.lower().endswith(_SUFFIXES):
        raise ConfigError(f"'{path}' does not end in .html, the only format that is written")
    refuse_existing(path)
    is_sound = True
    if is_socket(target):
        document, found = server_page(ask_all(target))
    else:
        document, found, is_sound = log_page(target)
    with new_file(path, "report") as fd:
        write_all(fd, memoryview(document.encode()), 0)
    _tell(path, found, as_json)
    return 0 if is_sound else 1


def _tell(path: str, found: list[Finding], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"report": path, "findings": [one._asdict() for one in found]}, indent=2))
        return
    say(f"'{path}' is the report")
    for one in found:
        if one.urgency != GOOD:
            say(f"{one.urgency}: {one.what}")
