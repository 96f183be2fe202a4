# SPDX-License-Identifier: BSD-3-Clause
"""Which models are searched, within which bounds, and what leaving out a rule is known to break."""

import functools

from tests.peers import gate, own_origins, ownership_scenarios
from tests.peers import standby_log as log


def _log(*without):
    return functools.partial(log.StandbyLog, places=2, segments=4, crashes=1, without=without)


def _gate(*without):
    return functools.partial(gate.Gate, without=without)


_MIXTURE = "B counts as consistent, and its origin and log are no state"


def _own(*without, writes=2):
    return functools.partial(own_origins.OwnOrigins, writes=writes, without=without)


WHOLE = {
    "laps over two places": _log(),
    "a second crash": lambda: log.StandbyLog(places=2, segments=4, crashes=2),
    "a takeover behind a gate": _gate(),
    "origins of their own": _own(),
    **ownership_scenarios.WHOLE,
}
"""With all rules, small enough for every test run. Nothing is wrong, and the set never gets stuck."""

EXHAUSTIVE = {
    "three laps, two crashes": lambda: log.StandbyLog(places=2, segments=6, crashes=2),
    "three places": lambda: log.StandbyLog(places=3, segments=6, crashes=1),
    "three places, two crashes": lambda: log.StandbyLog(places=3, segments=5, crashes=2),
    "takeovers behind a gate": lambda: gate.Gate(contents=4, takeovers=3, reconnects=3, restarts=2),
    "origins of their own, three writes": lambda: own_origins.OwnOrigins(writes=3, crashes=2, losses=2),
    **ownership_scenarios.EXHAUSTIVE,
}
"""The same with larger bounds, for the command."""

BROKEN = {
    "a commit ahead of its generation": (_log(log.GENERATION_SYNCED), "recovery refuses", 5),
    "a superblock ahead of its segments": (_log(log.SUPERBLOCK_LAST), "recovery refuses", 9),
    "catching up with superblocks first": (_log(log.CATCH_UP_IN_ORDER), "recovery refuses", 9),
    "the space of the owner only": (_log(log.OLDEST_REPORTED), "no progress", 15),
    "places overwritten too early": (_log(log.OWN_SUPERBLOCKS, log.OLDEST_REPORTED), "recovery refuses", 17),
    "no gate": (_gate(gate.TOKEN_CHECKED), "a write of an older epoch", 4),
    "a gate that forgets": (_gate(gate.GATE_DURABLE), "a write of an older epoch", 5),
    "a gate that does not wait": (_gate(gate.OLDER_ENDED), "a write of an older epoch", 4),
    "a connection made again": (
        _gate(gate.RECONNECT_RAISES_TOKEN),
        "content 1 of token (1, 0) overwrites",
        10,
    ),
    "a peer's origin above safe": (_own(own_origins.SAFE), "the origin of B has what is cut off", 5),
    "the owner's origin above safe": (_own(own_origins.OWNER_SAFE), "the origin of A has what B", 3),
    "noted after it was overwritten": (_own(own_origins.BITMAP_FIRST), _MIXTURE, 7),
    "begun again with a dirty log": (_own(own_origins.DRAIN_FIRST), _MIXTURE, 13),
    "consistent while it lacks regions": (_own(own_origins.INCONSISTENT_FIRST), _MIXTURE, 7),
    "destaged during a copy": (_own(own_origins.COPY_ALONE), _MIXTURE, 14),
    "a copy counts at once": (_own(own_origins.HEAD_REACHED), _MIXTURE, 11),
    "a copy of an earlier epoch": (_own(own_origins.SAME_EPOCH, writes=3), _MIXTURE, 17),
    "a copy of before a new beginning": (_own(own_origins.BEGIN_FORGETS), _MIXTURE, 15),
    "known although it was cut off": (_own(own_origins.KNOWN_CUT), _MIXTURE, 10),
    "noted at the owner only": (_own(own_origins.EVERYWHERE), _MIXTURE, 8),
    **ownership_scenarios.BROKEN,
}
"""The model without some rules, how the violation begins, and the length of the shortest trace."""

NEEDLESS = {"the standby trusts the owner": _log(log.OWN_SUPERBLOCKS), **ownership_scenarios.NEEDLESS}
"""Models without rules that nothing breaks without, as long as all others are kept."""

NEEDLESS_EXHAUSTIVE = ownership_scenarios.NEEDLESS_EXHAUSTIVE
"""The same with bounds that are too large for every test run, for the command."""
