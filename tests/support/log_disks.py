# SPDX-License-Identifier: BSD-3-Clause
"""Disks for the logs of owner and standby, which get full or fail when a test wants it, and are well again."""

import contextlib

from tests.support import faulty_devices
from tests.support.clients import REPOSITORY
from tests.support.nbdkit_server import NbdkitServer

LOG_BYTES = 224 << 20
"""So large that no test writes it to its end: a place that was written before needs no room."""
_ROOM_BYTES = LOG_BYTES + (8 << 20)
_LIFETIME_S = 3600
_FAILING_SYNC = REPOSITORY / "tests" / "support" / "failing_sync_plugin.py"


class LogDisk:
    """`log` is the path; between fail() and heal() writes or syncs of it fail, for which owners say `words`."""

    def __init__(self, log, fail, heal, words, stays_failed=False):
        self.log, self.fail, self.heal, self.words = log, fail, heal, words
        self.stays_failed = stays_failed
        """A server that has met the failure goes on only after a restart."""


@contextlib.contextmanager
def full_disk(folder):
    """A file system without room for a log that grows."""
    with faulty_devices.small_file_system(folder, _ROOM_BYTES) as small:
        yield LogDisk(small.path / "log", small.fill_up, small.make_room, "No space left on device")


@contextlib.contextmanager
def failing_writes(folder):
    with faulty_devices.faulty_device(folder, "log", LOG_BYTES, lifetime_s=_LIFETIME_S) as device:
        yield LogDisk(device.path, lambda: device.fail("write"), device.heal, "Input/output error")


@contextlib.contextmanager
def failing_syncs(folder):
    backing, trigger = folder / "backing", folder / "fail-sync"
    with open(backing, "wb") as file:
        file.truncate(LOG_BYTES)
    server = NbdkitServer(
        folder, ["python", _FAILING_SYNC, f"file={backing}", f"trigger={trigger}"], lifetime_s=_LIFETIME_S
    )
    try:
        with faulty_devices.fragile_fuse_file(server.uri, folder / "log.fuse", "log") as path:
            yield LogDisk(
                path, trigger.touch, lambda: trigger.unlink(missing_ok=True), "Input/output error", stays_failed=True
            )
    finally:
        server.destroy()


KINDS = {"full": full_disk, "writes": failing_writes, "syncs": failing_syncs}
