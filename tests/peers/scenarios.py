# SPDX-License-Identifier: BSD-3-Clause
"""Which models are searched, within which bounds, and what leaving out a rule is known to break."""

import functools

from tests.peers import gate, ownership_scenarios
from tests.peers import standby_log as log


def _log(*without):
    return functools.partial(log.StandbyLog, places=2, segments=4, crashes=1, without=without)


def _gate(*without):
    return functools.partial(gate.Gate, without=without)


WHOLE = {
    "laps over two places": _log(),
    "a second crash": lambda: log.StandbyLog(places=2, segments=4, crashes=2),
    "a takeover behind a gate": _gate(),
    **ownership_scenarios.WHOLE,
}
"""With all rules, small enough for every test run. Nothing is wrong, and the set never gets stuck."""

EXHAUSTIVE = {
    "three laps, two crashes": lambda: log.StandbyLog(places=2, segments=6, crashes=2),
    "three places": lambda: log.StandbyLog(places=3, segments=6, crashes=1),
    "three places, two crashes": lambda: log.StandbyLog(places=3, segments=5, crashes=2),
    "takeovers behind a gate": lambda: gate.Gate(contents=4, takeovers=3, reconnects=3, restarts=2),
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
    **ownership_scenarios.BROKEN,
}
"""The model without some rules, how the violation begins, and the length of the shortest trace."""

NEEDLESS = {"the standby trusts the owner": _log(log.OWN_SUPERBLOCKS), **ownership_scenarios.NEEDLESS}
"""Models without rules that nothing breaks without, as long as all others are kept."""

NEEDLESS_EXHAUSTIVE = ownership_scenarios.NEEDLESS_EXHAUSTIVE
"""The same with bounds that are too large for every test run, for the command."""
