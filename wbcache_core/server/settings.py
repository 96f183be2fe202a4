# SPDX-License-Identifier: BSD-3-Clause
"""The parameters that may change while the server runs: what they are, as text, and changes to several at once."""

import copy
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from wbcache_core.errors import ConfigError
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.policy import LEVEL_NAMES
from wbcache_core.server.config import LOG_LEVELS, Config, History
from wbcache_core.units import GIB, KIB, MIB

_log = logging.getLogger("wbcache")


class Setting(NamedTuple):
    """A parameter with two of its values, as they may be written on the command line."""

    name: str
    before: str
    now: str


def _size(byte_count: int) -> str:
    for unit, letter in ((GIB, "G"), (MIB, "M"), (KIB, "K")):
        if byte_count and byte_count % unit == 0:
            return f"{byte_count // unit}{letter}"
    return str(byte_count)


def _duration(seconds: float) -> str:
    for unit, letter in ((3600, "h"), (60, "m")):
        if seconds and seconds % unit == 0:
            return f"{seconds // unit:.0f}{letter}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _history(history: History) -> str:
    if history.byte_count:
        return _size(history.byte_count)
    return _duration(history.seconds) if history.seconds else "off"


_LEVEL_WORDS = {level: word for word, level in LOG_LEVELS.items()}
_TEXTS: dict[str, Callable[[Config], str]] = {
    "ack": lambda config: LEVEL_NAMES[config.ack],
    "flush": lambda config: LEVEL_NAMES[config.flush],
    "fua": lambda config: LEVEL_NAMES[config.fua],
    "commit-interval": lambda config: _duration(config.commit_interval),
    "commit-size": lambda config: _size(config.commit_size),
    "destage-delay": lambda config: _duration(config.destage_delay),
    "destage-depth": lambda config: str(config.destage_depth),
    "low-watermark": lambda config: f"{config.low_watermark}%",
    "high-watermark": lambda config: f"{config.high_watermark}%",
    "history": lambda config: _history(config.history),
    "history-full": lambda config: config.history_full,
    "on-exit": lambda config: config.on_exit,
    "peer-lost": lambda config: config.peer_lost,
    "log-level": lambda config: _LEVEL_WORDS[config.log_level],
}
NAMES = tuple(_TEXTS)


class Settings:
    """`_lock` guards `_config`, `_line` and `_is_draining`, and is held until the line has the policy; the volume lock
    is taken while it is. `_config` is replaced as a whole, so a single value of it may be read without the lock."""

    def __init__(self, config: Config, line: NumberLine | None = None) -> None:
        self._lock = threading.Lock()
        self._line = line
        """None while there is no log; then what is changed counts for the next one."""
        self._at_start = self._config = copy.copy(config)
        self._is_draining = False

    @property
    def log_level(self) -> int:
        """What is at least so important is said to the log. Takes no lock: whoever logs may hold any."""
        return self._config.log_level

    def follow(self, line: NumberLine | None) -> None:
        """From now on be in force there. No drain is in effect."""
        with self._lock:
            self._line, self._is_draining = line, False
            self._apply()

    def config(self) -> Config:
        """A copy of what is in force."""
        with self._lock:
            return copy.copy(self._config)

    def ack(self) -> int:
        """The level of that name that is in force."""
        return self._config.ack

    def all(self) -> list[Setting]:
        """Each with its value at the start and the one in force."""
        with self._lock:
            return [Setting(name, text(self._at_start), text(self._config)) for name, text in _TEXTS.items()]

    def change(self, values: Mapping[str, str]) -> list[Setting]:
        """Put new values in force, all or none; returns each that was named, with its value before and now.

        Requests, commits and destaging follow them from then on. Raises ConfigError: then nothing has changed.
        """
        texts = {name.replace("_", "-"): value for name, value in values.items()}
        with self._lock:
            changed = copy.copy(self._config)
            for name, value in texts.items():
                if name not in _TEXTS:
                    raise ConfigError(
                        f"'{name}' cannot be changed while the server runs; what can: {', '.join(NAMES)}"
                    )
                changed.set(name, value)
            changed.check()
            settings = [Setting(name, _TEXTS[name](self._config), _TEXTS[name](changed)) for name in texts]
            self._config = changed
            self._apply()
        for name, before, now in settings:
            _log.info("%s is %s from now on; it was %s", name, now, before)
        return settings

    def drain(self, is_wanted: bool) -> None:
        """Have all writes wait for the origin, and hold nothing back from it, whatever the parameters say; or let the
        parameters count again."""
        with self._lock:
            self._is_draining = is_wanted
            self._apply()

    def _apply(self) -> None:
        """`_lock` held."""
        if self._line is None:
            return
        policy = self._config.policy(self._line.data_pages, self._line.volatile_pages)
        if self._is_draining:
            policy = dataclasses.replace(
                policy, draining=True, destage_delay=0.0, low_pages=0, history_pages=0, history_ns=0, hold=False
            )
        self._line.apply(policy)
