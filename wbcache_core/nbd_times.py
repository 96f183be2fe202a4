# SPDX-License-Identifier: BSD-3-Clause
"""How long each part of talking to an NBD origin may take."""

from typing import NamedTuple


class NbdTimes(NamedTuple):
    """Seconds. docs/nbdkit-wbcache-plugin.1 describes each for users, as a parameter."""

    settle: float = 30.0
    """A server carries nothing out any more so long after the connection has ended on which it was asked."""
