# SPDX-License-Identifier: BSD-3-Clause
"""Which models are searched, within which bounds, and what leaving out a rule is known to break."""

from tests.peers import gate
from tests.peers import standby_log as log

WHOLE = {
    "laps over two places": lambda: log.StandbyLog(places=2, segments=4, crashes=1),
    "a second crash": lambda: log.StandbyLog(places=2, segments=4, crashes=2),
    "a takeover behind a gate": lambda: gate.Gate(),
}
"""With all rules, small enough for every test run. Nothing is wrong, and the set never gets stuck."""

EXHAUSTIVE = {
    "three laps, two crashes": lambda: log.StandbyLog(places=2, segments=6, crashes=2),
    "three places": lambda: log.StandbyLog(places=3, segments=6, crashes=1),
    "three places, two crashes": lambda: log.StandbyLog(places=3, segments=5, crashes=2),
    "takeovers behind a gate": lambda: gate.Gate(contents=4, takeovers=3, reconnects=3, restarts=2),
}
"""The same with larger bounds, for the command."""

BROKEN = {
    "a commit ahead of its generation": ([log.GENERATION_SYNCED], "recovery refuses", 5),
    "a superblock ahead of its segments": ([log.SUPERBLOCK_LAST], "recovery refuses", 9),
    "catching up with superblocks first": ([log.CATCH_UP_IN_ORDER], "recovery refuses", 9),
    "the space of the owner only": ([log.OLDEST_REPORTED], "no progress", 15),
    "places overwritten too early": ([log.OWN_SUPERBLOCKS, log.OLDEST_REPORTED], "recovery refuses", 17),
    "no gate": ([gate.TOKEN_CHECKED], "a write of an older epoch", 4),
    "a gate that forgets": ([gate.GATE_DURABLE], "a write of an older epoch", 5),
    "a gate that does not wait": ([gate.OLDER_ENDED], "a write of an older epoch", 4),
    "a connection made again": ([gate.RECONNECT_RAISES_TOKEN], "content 1 of token (1, 0) overwrites content 2", 10),
}
"""The rules left out, how the violation begins, and the length of the shortest trace."""

NEEDLESS = {"the standby trusts the owner": [log.OWN_SUPERBLOCKS]}
"""Rules that nothing breaks without, as long as all others are kept."""


def broken(without):
    """The small model that has these rules, without them."""
    if set(without) <= set(gate.RULES):
        return gate.Gate(without=without)
    return log.StandbyLog(places=2, segments=4, crashes=1, without=without)
