# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache get` and `wbcache set`: the parameters of a running server that may change while it runs."""

import json

from wbcache_core.errors import ConfigError, ControlError
from wbcache_core.server.control.client import ask, check_socket


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE. Raises ConfigError."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"'{text}' is not NAME=VALUE")
    return name, value


def run_get(path: str, names: list[str], as_json: bool) -> int:
    """Print the values of all parameters, or of those named, and how they were at the start; returns the exit status.
    Raises ControlError."""
    check_socket(path, "get")
    settings = {one["name"]: one for one in ask(path, "get")["settings"]}
    for name in names:
        if name not in settings:
            raise ControlError(f"there is no parameter '{name}' that may change; there are {', '.join(settings)}")
    chosen = [settings[name] for name in names] or list(settings.values())
    if as_json:
        print(json.dumps({"settings": chosen}, indent=2))
        return 0
    for one in chosen:
        was = "" if one["value"] == one["at_start"] else f"   ({one['at_start']} at the start)"
        print(f"{one['name']:<15} {one['value']}{was}")
    return 0


def run_set(path: str, values: list[tuple[str, str]], as_json: bool) -> int:
    """Change parameters, all or none; returns the exit status. Raises ConfigError, ControlError."""
    check_socket(path, "set")
    if len(dict(values)) < len(values):
        raise ConfigError("a parameter is named twice")
    facts = ask(path, "set", values=dict(values))
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    for one in facts["changed"]:
        print(f"{one['name']:<15} {one['is']}   (it was {one['was']})")
    return 0
