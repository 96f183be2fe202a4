# SPDX-License-Identifier: BSD-3-Clause
"""Opens an origin as a user names it: a path or an NBD URI; and a second time, for another process."""

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice, OpenFile
from wbcache_core.device.name import is_uri
from wbcache_core.device.nbd_export import NbdExport
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


def hand_over(origin: Device) -> OpenFile | NbdExport | None:
    """What another process needs for open_beside(); None for a device that it cannot use."""
    if isinstance(origin, FileDevice):
        return origin.open_file()
    # Without libnbd its module cannot be imported.
    export = getattr(origin, "export", None)
    return export if isinstance(export, NbdExport) else None


def open_beside(opened: OpenFile | NbdExport) -> Device:
    """In the other process: the same origin, beside the one that uses it. An NBD export is not connected to yet."""
    if isinstance(opened, OpenFile):
        return FileDevice.from_open(opened)
    from wbcache_core.device.nbd_device import NbdDevice

    return NbdDevice.beside_another(opened)
