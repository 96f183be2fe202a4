# SPDX-License-Identifier: BSD-3-Clause
"""What a server serves, from start to stop: a cache with its log, or the origin without one; and the way between.

    Served(config) -> now.activate() -> switch.add(connection) ... detach(), attach() ... -> stop()
"""

import contextlib
import logging
import os
from collections.abc import Iterator

from wbcache_core import __version__
from wbcache_core.device.device import Device
from wbcache_core.device.file_device import system_path
from wbcache_core.device.name import absolute_path, local_path
from wbcache_core.errors import ControlError, LogRefusedError, StoppedError, WbcacheError
from wbcache_core.log.hot_log import Taken
from wbcache_core.memory import heap
from wbcache_core.pairing.identity import real_path
from wbcache_core.pairing.mark import CLEAN, OriginSide
from wbcache_core.pairing.pairing import DISCARD_LOG, OTHER_LOG
from wbcache_core.server.bypass import Bypass
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import IN_USE, Config
from wbcache_core.server.drain import DRAINING, INCOMPLETE
from wbcache_core.server.history import Facts
from wbcache_core.server.lasting import Lasting
from wbcache_core.server.log_preparation import check_joinable
from wbcache_core.server.metrics import exposition
from wbcache_core.server.new_log import NewLog
from wbcache_core.server.opening import Joining
from wbcache_core.server.replaceable import Replaceable
from wbcache_core.server.succession import Succession
from wbcache_core.volume.switch import Switch

_log = logging.getLogger("wbcache")

PATIENCE = 30.0
"""Seconds for which changes wait at the most while the origin gets what is left."""
ATTACHED, DETACHED = "attached", "detached"


class Served(Replaceable[Cache | Bypass]):
    """`_cache` is `now` if that is a Cache, and guarded by `_replacing`."""

    def __init__(
        self, config: Config, origin: Device | None = None, log: Device | None = None, may_spawn: bool = False,
        patience: float = PATIENCE, taken: Taken | None = None,
    ) -> None:  # fmt: skip
        """As of Cache. Raises WbcacheError."""
        self._may_spawn = may_spawn
        self._patience = patience
        self._lasting = Lasting(config)
        cache = Cache(config, origin, log, may_spawn, self._lasting, taken=taken)
        super().__init__(cache)
        self._cache: Cache | None = cache
        self.switch = Switch(self.now.volume)

    @property
    def is_writable(self) -> bool:
        """Whether activate() can succeed at all."""
        return self.now.is_writable

    @property
    def missing_log(self) -> str:
        """See Cache.missing_log."""
        return self.now.missing_log

    def activate(self) -> None:
        """Let writers in. Raises what Cache.activate() does."""
        while True:
            now = self.now
            try:
                now.activate()
                return
            except StoppedError:
                self.check_not_stopping()
            # It was being replaced. Not much longer.
            with self._replacing:
                pass

    def note_changes(self) -> None:
        """Have the events note what has changed since the last call. For one thread at a time."""
        self._lasting.watch.look(self.now.status())

    def metrics(self) -> bytes:
        """The status for Prometheus."""
        return exposition([{"version": __version__, **self.now.status()}])

    def detach(self, ends_past: bool) -> Facts:
        """Go on without the log, as soon as the origin has everything: `state` says whether that is so, or how much is
        left; then ask again. With ends_past, tags and open snapshots are given up.

        Raises ControlError, RequestError, and what activate() raises: then everything goes on as before, except that a
        drain may have begun. For one thread at a time, the one that tags and drains.
        """
        with self._replacing:
            self.check_not_stopping()
            self._check_no_peers()
            if self._cache is None:
                return {"state": DETACHED, "bytes_left": 0}
            return self._detach(self._cache, ends_past)

    def _check_no_peers(self) -> None:
        """Raises ControlError."""
        if self._lasting.settings.config().peer:
            raise ControlError(
                "the log cannot be detached or replaced while there are peers: they would not notice what the origin "
                "gets; start the server without peer= first"
            )

    def _detach(self, cache: Cache, ends_past: bool) -> Facts:
        """`_replacing` held. Raises the same."""
        cache.activate()
        cache.succession.check_not_failed()
        cache.handover.give_up_past(ends_past)
        drain = cache.begin_drain()
        if drain["state"] == INCOMPLETE:
            raise ControlError(f"the origin cannot take everything: {drain['incomplete']}; see wbcache status")
        if drain["state"] == DRAINING:
            return {"state": DRAINING, "bytes_left": drain["bytes_left"]}
        facts = cache.status()
        cache.hand_over(self._patience)
        bypass = Bypass(cache.handover.origin, self._lasting, facts["volume"])
        self._lasting.settings.follow(None)
        self._cache = None
        self._replace(cache, bypass)
        self._lasting.events.note("detached", log=facts["log"])
        _log.info("log '%s' is detached: writes go to origin '%s'", facts["log"], facts["origin"])
        # The ring and the map go with the cache.
        del cache
        heap.give_back()
        return {"state": DETACHED, "bytes_left": 0}

    def attach(self, log: str, formats: bool, log_size: str | None, ends_past: bool) -> Facts:
        """Go on with this log. If there is one, it is detached first, as detach() does it, and answers likewise; if
        that one has failed, this log gets what the origin lacks.

        Raises what a start with the log would raise, and what detach() raises. A log that is refused leaves everything
        as it was. If something fails that nobody could foresee, the former log is detached, which the error says.
        """
        with self._replacing:
            self.check_not_stopping()
            self._check_no_peers()
            config = self._config(log, formats, log_size)
            if self._cache:
                self._check_other(self._cache, config, formats)
                if self._cache.succession.is_needed:
                    return self._succeed(self._cache, config, formats, ends_past)
                facts = self._detach(self._cache, ends_past)
                if facts["state"] != DETACHED:
                    return facts
                hint = "; the log that was attached before is detached now: writes go to the origin"
            else:
                hint = ""
            assert isinstance(self.now, Bypass)
            try:
                self._attach(self.now, config, formats)
            except WbcacheError as error:
                raise (ControlError(f"{error}{hint}") if hint else error) from None
            return {"state": ATTACHED, "bytes_left": 0}

    def _config(self, log: str, formats: bool, log_size: str | None) -> Config:
        """Of a cache with another log. Raises ConfigError."""
        config = self._lasting.settings.config()
        config.log = absolute_path(local_path(log))
        if log_size is not None:
            config.set("log-size", log_size)
        # What was forced at the start was meant for the log of that time.
        config.force &= {IN_USE}
        config.force |= {DISCARD_LOG} if formats else set()
        config.check()
        return config

    def _check_other(self, cache: Cache, config: Config, formats: bool) -> None:
        """That a log could be attached once the present one is detached. Raises the same as attach()."""
        present = system_path(str(cache.status()["log"]))
        path = system_path(config.log)
        if os.path.exists(path) and os.path.exists(present) and os.path.samefile(path, present):
            raise ControlError(f"log '{config.log}' is attached already")
        with _helpful():
            check_joinable(config, cache.handover.origin, Joining(formats))

    def _attach(self, bypass: Bypass, config: Config, formats: bool) -> None:
        """`_replacing` held. Raises the same as attach()."""
        origin = bypass.origin
        with _helpful():
            cache = Cache(config, origin, None, self._may_spawn, self._lasting, Joining(formats))
        try:
            bypass.prepare_to_attach(self._patience)
            try:
                cache.activate()
            except BaseException:
                bypass.go_on()
                raise
        except BaseException:
            self._lasting.settings.follow(None)
            _unmark(origin, config.log)
            cache.stop()
            raise
        cache.owns_origin, bypass.owns_origin = True, False
        self._cache = cache
        self._replace(bypass, cache)
        self._lasting.events.note("attached", log=config.log)
        _log.info("log '%s' is attached to origin '%s'", config.log, origin.name)

    def _succeed(self, cache: Cache, config: Config, formats: bool, ends_past: bool) -> Facts:
        """`_replacing` held. Raises the same as attach()."""
        succession, log = cache.succession, cache.status()["log"]
        succession.begin(self._patience, ends_past)
        try:
            successor = self._successor(succession, config, formats)
        except BaseException:
            self._lasting.settings.follow(succession.line)
            succession.go_on()
            raise
        successor.owns_origin = True
        self._cache = successor
        self._replace(cache, successor)
        cache.retire()
        self._lasting.events.note("attached", log=config.log)
        _log.info("log '%s' has taken the place of log '%s', which has failed", config.log, log)
        del cache, succession
        heap.give_back()
        return {"state": ATTACHED, "bytes_left": 0}

    def _successor(self, succession: Succession, config: Config, formats: bool) -> Cache:
        """Serves the other log. Raises the same as attach(); then the failed one is still the one."""
        with _helpful():
            new = NewLog(config, succession.origin, formats)
        try:
            succession.check_mark(new.side)
            succession.fill(new)
        except BaseException:
            new.close()
            raise
        config.force |= {OTHER_LOG}
        cache = Cache(
            config, succession.origin, new.device, self._may_spawn, self._lasting, Joining(False, new.volume)
        )  # fmt: skip
        try:
            succession.switch(new.side, new.volume, config.log, cache.activate)
        except BaseException:
            cache.stop()
            raise
        return cache

    def _replace(self, old: Cache | Bypass, new: Cache | Bypass) -> None:
        self._put(new)
        self.switch.change(new.volume)
        old.let_go()


@contextlib.contextmanager
def _helpful() -> Iterator[None]:
    """Refusals speak of a parameter, which a command has as an option."""
    try:
        yield
    except LogRefusedError as error:
        if DISCARD_LOG not in str(error):
            raise
        raise type(error)(f"{error} (wbcache attach --format does that)") from None


def _unmark(origin: Device, log: str) -> None:
    """The origin has everything, although it may have been marked as lacking what this log has."""
    side = OriginSide.of(origin)
    if side.mark and side.mark.is_dirty and side.mark.log in (log, real_path(log)):
        side.put(side.mark.volume, log, CLEAN)
