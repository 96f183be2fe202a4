# SPDX-License-Identifier: BSD-3-Clause
"""Whether a block device can deallocate blocks so that they read as zeros from then on."""

import os
from pathlib import Path

_SYSFS = "/sys/dev/block"
_LIMITS = ("discard_max_bytes", "write_zeroes_max_bytes")
"""Both have to be there: blocks that a device only discards may read as anything afterwards.

Documentation/ABI/stable/sysfs-block of Linux. A limit of 0 is what the device cannot do.
"""


def can_discard(device_number: int) -> bool:
    """Of the block device with that number; True also where nobody says."""
    try:
        return _has_limits(device_number)
    except OSError:
        return True


def _has_limits(device_number: int) -> bool:
    """Raises OSError where sysfs may not be read."""
    folder = Path(_SYSFS, f"{os.major(device_number)}:{os.minor(device_number)}").resolve()
    # A partition has the limits of its disk, in whose folder it is.
    queue = next((queue for queue in (folder / "queue", folder.parent / "queue") if queue.is_dir()), None)
    return queue is None or all((queue / name).read_text().strip() != "0" for name in _LIMITS)
