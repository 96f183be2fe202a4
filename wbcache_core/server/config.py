# SPDX-License-Identifier: BSD-3-Clause
"""The parameters, checked. docs/nbdkit-wbcache-plugin.1 describes each for users."""

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from wbcache_core.device.file_device import system_path
from wbcache_core.device.name import absolute_device_name, absolute_path, is_uri, local_path
from wbcache_core.device.nbd_times import NbdTimes
from wbcache_core.errors import ConfigError
from wbcache_core.flow.batch_executor import batch_lsns
from wbcache_core.format.superblock import MIN_LOG_BYTES
from wbcache_core.memory.policy import LEVEL_NAMES, LOG, PEER_LEVELS, RAM, Policy
from wbcache_core.memory.ring_size import VOLATILE_BYTES
from wbcache_core.pairing.pairing import DISCARD_LOG, ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG, TAKE_OVER
from wbcache_core.shipping.log_uri import log_uri
from wbcache_core.shipping.peer import PeerRules
from wbcache_core.units import GIB, MIB, PAGE_SHIFT, format_size, pages_of, parse_duration, parse_size

COMMIT, DESTAGE = "commit", "destage"
DROP, HOLD = "drop", "hold"
OWNER, STANDBY = "owner", "standby"
WAIT, CONTINUE = "wait", "continue"
REFUSE, ALLOW = "refuse", "allow"
ONE_ORIGIN, OWN_ORIGINS = "shared", "own"
SHARED, PRIVATE = "shared", "private"
IN_USE = "in-use"
LOG_LEVELS = {"errors": logging.ERROR, "warnings": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
FORCE_WORDS = (ORIGIN_CHANGED, ORIGIN_MOVED, OTHER_LOG, DISCARD_LOG, IN_USE, TAKE_OVER)

_LEVELS = {name: level for level, name in enumerate(LEVEL_NAMES)}
_DURABLE = {name: level for name, level in _LEVELS.items() if level != RAM}
_MIN_RING_BYTES = MIB
_MAX_DEPTH = 256

_HISTORY_SIZE = re.compile(r"[0-9]{1,12}[KMGT]")
_HISTORY_TIME = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|[smhd])")
_DAY_SECONDS = 86400


class History(NamedTuple):
    """How far destaging is held back: bytes of data, or seconds; with neither, not at all."""

    byte_count: int = 0
    seconds: float = 0.0


NO_HISTORY = History()


def _choice(text: str, allowed: Iterable[str]) -> str:
    if text not in allowed:
        raise ConfigError(f"'{text}' is not one of {', '.join(allowed)}")
    return text


def _parse_compress(text: str) -> int | None:
    if text == "off":
        return None
    name, colon, level = text.partition(":")
    if name != "zstd" or (colon and not (level.isascii() and level.isdigit() and 1 <= int(level) <= 19)):
        raise ConfigError(f"'{text}' is not one of off, zstd, zstd:1 to zstd:19")
    return int(level) if level else 1


def _parse_percent(text: str) -> int:
    digits = text.removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and int(digits) <= 100):
        raise ConfigError(f"'{text}' is not a percentage from 0 to 100")
    return int(digits)


def _parse_depth(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_DEPTH):
        raise ConfigError(f"'{text}' is not a number from 1 to {_MAX_DEPTH}")
    return int(text)


def _parse_switch(text: str) -> bool:
    return _choice(text, ("on", "off")) == "on"


def _parse_history(text: str) -> History:
    if text in ("off", "0"):
        return NO_HISTORY
    if _HISTORY_SIZE.fullmatch(text):
        return History(byte_count=parse_size(text))
    if _HISTORY_TIME.fullmatch(text):
        # Days are a unit only here: nothing else takes that long.
        days = text.endswith("d")
        return History(seconds=float(text[:-1]) * _DAY_SECONDS if days else parse_duration(text))
    raise ConfigError(
        f"'{text}' is neither off, nor a size like 500M or 20G (capital letter), nor a time like 90s, 10m, 2h or 1d"
    )


def _parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, or PORT on this machine."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(f"'{text}' is neither HOST:PORT nor PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _parse_force(text: str) -> frozenset[str]:
    return frozenset(_choice(part, FORCE_WORDS) for part in text.split(","))


@dataclass
class Config:
    """Sizes in bytes, times in seconds, watermarks in percent of the log."""

    role: str = OWNER
    origin: str = ""
    log: str = ""
    log_size: int = GIB
    ring_size: int | None = None
    """None for a size that follows the memory there is, see memory/ring_size.py."""
    ring_memory: str = SHARED
    ack: int = RAM
    flush: int = LOG
    fua: int = LOG
    commit_interval: float = 1.0
    commit_size: int = 0
    destage_delay: float = 5.0
    destage_depth: int = 64
    destage_worker: bool = True
    origin_settle: float = NbdTimes().settle
    origin_timeout: float = NbdTimes().timeout
    origin_connect_timeout: float = NbdTimes().connect
    low_watermark: int = 25
    high_watermark: int = 75
    on_exit: str = COMMIT
    compress: int | None = None
    history: History = NO_HISTORY
    history_full: str = DROP
    control: str = ""
    metrics: tuple[str, int] | None = None
    """Host and port."""
    peer: tuple[str, ...] = ()
    """URIs of the export `log` of each."""
    origins: str = ONE_ORIGIN
    """Whether all nodes have one origin, or each one of its own."""
    peer_lost: str = WAIT
    peer_timeout: float = 10.0
    plain_tcp: str = REFUSE
    """Of a standby: whether its log may be written over a network without TLS."""
    log_level: int = logging.WARNING
    """What is at least so important is said to the log."""
    force: frozenset[str] = field(default_factory=frozenset)
    pin_thread_state: bool = True

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]], size: Callable[[str], int] = parse_size) -> "Config":
        """A checked configuration from key=value pairs; `size` parses sizes. Raises ConfigError."""
        config = cls()
        for key, value in pairs:
            config.set(key, value, size)
        config.check()
        return config

    def set(self, key: str, value: str, size: Callable[[str], int] = parse_size) -> None:
        """One parameter, with hyphens or underscores. Raises ConfigError."""
        name = key.replace("-", "_")
        parsers: dict[str, Callable[[str], object]] = {
            "role": lambda text: _choice(text, (OWNER, STANDBY)),
            "origin": absolute_device_name,
            "log": lambda text: absolute_path(local_path(text)),
            "log_size": size,
            "ring_size": lambda text: None if text == "auto" else size(text),
            "ring_memory": lambda text: _choice(text, (SHARED, PRIVATE)),
            "ack": lambda text: _LEVELS[_choice(text, _LEVELS)],
            "flush": lambda text: _DURABLE[_choice(text, _DURABLE)],
            "fua": lambda text: _DURABLE[_choice(text, _DURABLE)],
            "commit_interval": parse_duration,
            "commit_size": size,
            "destage_delay": parse_duration,
            "destage_depth": _parse_depth,
            "destage_worker": _parse_switch,
            "origin_settle": parse_duration,
            "origin_timeout": parse_duration,
            "origin_connect_timeout": parse_duration,
            "low_watermark": _parse_percent,
            "high_watermark": _parse_percent,
            "on_exit": lambda text: _choice(text, (COMMIT, DESTAGE)),
            "compress": _parse_compress,
            "history": _parse_history,
            "history_full": lambda text: _choice(text, (DROP, HOLD)),
            "control": absolute_path,
            "metrics": _parse_address,
            "peer": self._with_peer,
            "origins": lambda text: _choice(text, (ONE_ORIGIN, OWN_ORIGINS)),
            "peer_lost": lambda text: _choice(text, (WAIT, CONTINUE)),
            "peer_timeout": parse_duration,
            "plain_tcp": lambda text: _choice(text, (REFUSE, ALLOW)),
            "log_level": lambda text: LOG_LEVELS[_choice(text, LOG_LEVELS)],
            "force": _parse_force,
            "pin_thread_state": _parse_switch,
        }
        if name not in parsers:
            near = difflib.get_close_matches(name, parsers, n=1)
            hint = f"; did you mean '{near[0].replace('_', '-')}'?" if near else ""
            raise ConfigError(f"unknown parameter '{key}'{hint}")
        if not value:
            raise ConfigError(f"parameter '{key}' needs a value")
        try:
            setattr(self, name, parsers[name](value))
        except (ConfigError, ValueError, OverflowError) as error:
            raise ConfigError(f"{key}={value}: {error}") from None

    def _with_peer(self, text: str) -> tuple[str, ...]:
        """All that were named so far, and one more. Raises ConfigError."""
        uri = log_uri(absolute_device_name(text))
        if uri in self.peer:
            raise ConfigError("this peer has been named before; name each once")
        return (*self.peer, uri)

    @property
    def peer_rules(self) -> PeerRules:
        return PeerRules(self.peer, self.peer_timeout, self.has_own_origins)

    @property
    def has_own_origins(self) -> bool:
        """Whether each node has an origin of its own."""
        return self.origins == OWN_ORIGINS

    @property
    def nbd_times(self) -> NbdTimes:
        return NbdTimes(self.origin_settle, self.origin_timeout, self.origin_connect_timeout)

    def policy(self, data_pages: int, volatile_pages: int | None = None) -> Policy:
        """What of it may change while the server runs, for a log with so many pages of data, and a ring of which so
        many may be volatile, if that is not what the parameters say."""
        high_pages = data_pages * self.high_watermark // 100
        return Policy(
            ack=self.ack,
            flush=self.flush,
            fua=max(self.fua, self.ack),
            commit_interval=self.commit_interval,
            commit_pages=min(self.commit_size >> PAGE_SHIFT, data_pages // 8, (volatile_pages or data_pages) // 2),
            destage_delay=self.destage_delay,
            destage_depth=self.destage_depth,
            low_pages=data_pages * self.low_watermark // 100,
            high_pages=high_pages,
            # A batch below the high watermark, so that writers are not slowed while the history is giving way.
            give_way_pages=max(high_pages - batch_lsns(data_pages), 0),
            history_pages=pages_of(self.history.byte_count),
            history_ns=round(self.history.seconds * 1e9),
            hold=self.history_full == HOLD,
            may_go_on=self.peer_lost == CONTINUE,
            drain_at_stop=self.on_exit == DESTAGE,
            draining=False,
        )

    def _check_standby(self) -> None:
        """Everything else is for when it takes over. Raises ConfigError."""
        if not self.log:
            raise ConfigError("parameter 'log' is missing: a standby needs log=PATH")
        if self.peer and not self.origin:
            raise ConfigError("a standby has no peers, and one without an origin cannot take over: add origin=")
        if self.has_own_origins and not self.origin:
            raise ConfigError("parameter 'origin' is missing: with origins=own a standby has an origin, too")

    def check(self) -> None:
        """Check what must hold between parameters; fill in defaults that depend on others. Raises ConfigError."""
        if self.role == STANDBY:
            self._check_standby()
        elif self.plain_tcp != REFUSE:
            raise ConfigError("plain-tcp is for a standby, which says who may write its log: remove it here")
        elif not self.origin:
            raise ConfigError("parameter 'origin' is missing: origin=PATH names the slow device or image to cache")
        if not self.log:
            path = system_path(self.origin)
            if is_uri(self.origin) or (os.path.exists(path) and not os.path.isfile(path)):
                raise ConfigError(
                    "parameter 'log' is missing: it has a default only if the origin is a file; add log=PATH"
                )
            self.log = f"{self.origin}.wblog"
        if self.log_size < MIN_LOG_BYTES:
            raise ConfigError(
                f"log-size={self.log_size} is too small: a log needs at least {format_size(MIN_LOG_BYTES)}"
            )
        if self.ring_size is not None and self.ring_size < _MIN_RING_BYTES:
            raise ConfigError(
                f"ring-size={self.ring_size} is too small: the ring needs at least {format_size(_MIN_RING_BYTES)}"
            )
        most = VOLATILE_BYTES if self.ring_size is None else self.ring_size
        self.commit_size = min(self.commit_size or most // 4, most // 2)
        for name in ("ack", "flush", "fua"):
            if getattr(self, name) in PEER_LEVELS and not self.peer:
                raise ConfigError(f"{name}={LEVEL_NAMES[getattr(self, name)]} needs a peer: add peer=URI")
        for name in ("commit_interval", "origin_timeout", "origin_connect_timeout", "peer_timeout"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name.replace('_', '-')} has to be longer than 0")
        if self.low_watermark >= self.high_watermark:
            raise ConfigError(
                f"low-watermark={self.low_watermark} has to be below high-watermark={self.high_watermark}"
            )
