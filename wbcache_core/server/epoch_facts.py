# SPDX-License-Identifier: BSD-3-Clause
"""The epochs of a log as status and `wbcache info` show them, ready for JSON."""

from wbcache_core.format.epoch import Epoch
from wbcache_core.format.superblock import Superblock
from wbcache_core.server.history import Facts


def describe(superblock: Superblock) -> Facts:
    """`epoch` is null before the first one."""
    switches = [
        {**_epoch(switch.epoch), "first_lsn": switch.first_lsn, "previous": f"{switch.previous:016x}"}
        for switch in superblock.history
    ]
    return {"epoch": _epoch(superblock.epoch) if superblock.epoch.number else None, "epochs": switches}


def _epoch(epoch: Epoch) -> Facts:
    return {"number": epoch.number, "id": f"{epoch.id:016x}"}
