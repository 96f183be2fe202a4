# SPDX-License-Identifier: BSD-3-Clause
"""The mark that an origin carries: which log holds, or may hold, data that it lacks.

A file has it as an extended attribute, which stays with it when it is renamed
or linked. If the file system has none, a small file lies beside it. For
everything else, and if neither can be written, there is a registry on this
host, by what identifies the origin and not by its path.

A mark is written before the first write may be acknowledged. If none can be
written, the cache works anyway, and says so.
"""

import contextlib
import errno
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice, sync_folder, system_path
from wbcache_core.device.name import is_uri
from wbcache_core.errors import FormatError
from wbcache_core.format import origin_facts
from wbcache_core.format.origin_facts import NO_FACTS, OriginFacts
from wbcache_core.pairing.identity import Identity, identify, opened, real_path

_log = logging.getLogger("wbcache")

REGISTRY_VARIABLE = "WBCACHE_PAIRS"
"""The environment variable that names a different folder for the registry."""
_REGISTRY = Path("/var/lib/wbcache/pairs")
ATTRIBUTE = "user.wbcache"
SIDECAR_SUFFIX = ".wbpair"

DIRTY, CLEAN = STATES = ("dirty", "clean")
_VERSION = 1
_LONGEST_NAME = 1024


class Mark(NamedTuple):
    """The state of the log with this volume: it may hold data that the origin lacks (DIRTY), or the origin had all of
    it."""

    volume: bytes
    log: str
    """Its real path."""
    state: str
    origin: str = ""
    facts: OriginFacts = NO_FACTS
    """The facts of the origin at that time: a copy of a file has the mark of the original."""

    @property
    def is_dirty(self) -> bool:
        return self.state == DIRTY


def encode(mark: Mark) -> bytes:
    """As JSON, so that people who come across it can read it."""
    value = {
        "wbcache": _VERSION, "volume": str(UUID(bytes=mark.volume)), "log": mark.log[-_LONGEST_NAME:],
        "state": mark.state, "origin": mark.origin[-_LONGEST_NAME:],
        "facts": origin_facts.encode(mark.facts).rstrip(b"\0").hex(),
    }  # fmt: skip
    return json.dumps(value).encode()


def decode(raw: bytes) -> Mark:
    """Raises FormatError, also for a mark written by a later wbcache."""
    try:
        value = json.loads(raw)
        if value["wbcache"] != _VERSION or value["state"] not in STATES:
            raise FormatError("a mark that this wbcache does not know")
        facts = bytes.fromhex(value["facts"]).ljust(origin_facts.FACTS_BYTES, b"\0")
        if len(facts) != origin_facts.FACTS_BYTES:
            raise FormatError("no mark")
        return Mark(
            UUID(value["volume"]).bytes, str(value["log"]), value["state"], str(value["origin"]),
            origin_facts.decode(facts),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError("no mark") from None


class _Place(Protocol):
    """A place for a mark. All methods raise OSError."""

    def read(self) -> bytes | None:
        """None if there is none."""

    def write(self, raw: bytes) -> None:
        """Durable when it returns; if it is interrupted, the old one or the new one is there."""

    def remove(self) -> None:
        """Also if there is none."""


class _Attribute:
    def __init__(self, path: str) -> None:
        self._path = path

    def read(self) -> bytes | None:
        try:
            return os.getxattr(system_path(self._path), ATTRIBUTE)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise

    def write(self, raw: bytes) -> None:
        # A descriptor of its own, because an error of the origin's data must not be reported here.
        with opened(self._path) as fd:
            os.setxattr(fd, ATTRIBUTE, raw)
            os.fsync(fd)

    def remove(self) -> None:
        with contextlib.suppress(OSError), opened(self._path) as fd:
            os.removexattr(fd, ATTRIBUTE)
            os.fsync(fd)


class _File:
    """A mark that is a file. `makes_folder`: the folder is ours."""

    def __init__(self, path: bytes, makes_folder: bool) -> None:
        self._path = path
        self._makes_folder = makes_folder

    def read(self) -> bytes | None:
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, raw: bytes) -> None:
        if self._makes_folder:
            os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        partial = self._path + b".%d.new" % os.getpid()
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(fd)
            os.replace(partial, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        sync_folder(os.path.dirname(self._path))

    def remove(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return
        sync_folder(os.path.dirname(self._path))


def registry_folders() -> Iterator[Path]:
    """The folders for marks. The first one that can be written is used; all are read, so that root and other users see
    each other's marks."""
    override = os.environ.get(REGISTRY_VARIABLE)
    if override:
        yield Path(os.path.abspath(override))
        return
    yield _REGISTRY
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if state:
        yield Path(state) / "pairs"
    if os.geteuid():
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        if os.path.isabs(home):
            yield Path(home) / "wbcache" / "pairs"


def _places(identity: Identity) -> Iterator[_Place]:
    """In the order in which they are tried."""
    if identity.file:
        yield _Attribute(identity.file)
        yield _File(system_path(identity.file + SIDECAR_SUFFIX), makes_folder=False)
    if identity.key:
        for folder in registry_folders():
            yield _File(os.fsencode(folder / identity.key), makes_folder=True)


class OriginSide:
    """Which origin this is, and its mark. Only for one thread at a time: the one that holds the cache's `_lifecycle`,
    and after the stop has begun, `_finishing`."""

    def __init__(self, name: str, identity: Identity) -> None:
        """Reads the mark. Never fails: a mark that cannot be read counts as none, with a warning."""
        self.name = name
        self._places = list(_places(identity))
        self.facts = identity.facts
        self._reported = ""
        """Why the last put() failed; empty if it did not."""
        self.mark = self._read()

    @classmethod
    def of(cls, origin: Device) -> "OriginSide":
        """For an open origin. A device that is neither a file nor NBD, as in tests, has no identity."""
        return cls(origin.name, identify(origin.name, origin.fileno() if isinstance(origin, FileDevice) else None))

    @classmethod
    def at(cls, name: str) -> "OriginSide":
        """For an origin that is not open, by path or URI. Raises OSError."""
        if is_uri(name):
            return cls(name, identify(name, None))
        with opened(name) as fd:
            return cls(name, identify(name, fd))

    def _read(self) -> Mark | None:
        found = []
        for place in self._places:
            # If it cannot be read here, as attributes on vfat, no mark was written here.
            with contextlib.suppress(OSError):
                raw = place.read()
                if raw is not None:
                    try:
                        found.append(decode(raw))
                    except FormatError as error:
                        _log.warning("ignoring the mark of origin '%s': %s", self.name, error)
        found.sort(key=lambda mark: not mark.is_dirty)
        return found[0] if found else None

    def put(self, volume: bytes, log: str, state: str) -> bool:
        """Make this the origin's mark, durably; returns False if it cannot be kept, after a warning if the reason is
        new."""
        if not self._places:
            return False
        # The links to a device say more than its name, which may change at a reboot.
        path = real_path(log) if os.path.isfile(system_path(log)) else log
        mark = Mark(volume, path, state, self.name, self.facts)
        raw, refused = encode(mark), ""
        for number, place in enumerate(self._places):
            try:
                place.write(raw)
            except OSError as error:
                refused = error.strerror or str(error)
                continue
            self.mark, self._reported = mark, ""
            for other in self._places[number + 1 :] + self._places[:number]:
                with contextlib.suppress(OSError):
                    other.remove()
            return True
        if refused != self._reported:
            self._reported = refused
            _log.warning(
                "origin '%s' cannot be marked as belonging to log '%s' (%s): a start without this log will be "
                "accepted; see the section on the origin in docs/recovery.md", self.name, log, refused,
            )  # fmt: skip
        return False
