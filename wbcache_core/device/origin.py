# SPDX-License-Identifier: BSD-3-Clause
"""Opens an origin as a user names it: a path or an NBD URI."""

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.name import is_uri
from wbcache_core.device.nbd_times import NbdTimes
from wbcache_core.errors import ConfigError


def open_origin(
    text: str, depth: int, times: NbdTimes, read_only: bool = False, beside_writers: bool = False
) -> Device:
    """With up to depth writes in progress at a time. Raises ConfigError, DeviceError."""
    if not is_uri(text):
        return FileDevice(text, "origin", read_only=read_only, beside_writers=beside_writers)
    try:
        # Imported only here: a cache of a local disk does not need libnbd.
        from wbcache_core.device.nbd_device import NbdDevice
    except ImportError:
        raise ConfigError(f"origin '{text}' needs libnbd's Python module; install python3-libnbd") from None
    return NbdDevice(text, depth, times)
