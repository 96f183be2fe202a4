# SPDX-License-Identifier: BSD-3-Clause
"""Opens a log and an origin for the offline commands, which use what no server holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wbcache_core.device import origin
from wbcache_core.device.device import ConnectedDevice, Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.name import is_uri
from wbcache_core.errors import ConfigError, DeviceError
from wbcache_core.server.config import Config
from wbcache_core.units import PAGE_BYTES, PAGE_MASK


class ForgivingLog(FileDevice):
    """A log that is read as far as possible: pages that the device does not return are zeros.

    No checksum mistakes such zeros for data that was not zeros. `unreadable` has the byte offsets of these pages,
    except those beyond the end, which a log that was cut short lacks. Only for one thread.
    """

    def __init__(self, path: str, read_only: bool) -> None:
        super().__init__(path, "log", direct=True, read_only=read_only)
        self.unreadable: set[int] = set()

    def read_into(self, view: memoryview, offset: int) -> None:
        self._forgive(super().read_into, view, offset)

    def read_uncached_into(self, view: memoryview, offset: int) -> None:
        self._forgive(super().read_uncached_into, view, offset)

    def _forgive(self, read: Callable[[memoryview, int], None], view: memoryview, offset: int) -> None:
        try:
            read(view, offset)
            return
        except DeviceError:
            pass
        done = 0
        while done < len(view):
            count = min(PAGE_BYTES - (offset + done & PAGE_MASK), len(view) - done)
            try:
                read(view[done : done + count], offset + done)
            except DeviceError:
                view[done : done + count] = bytes(count)
                if offset + done < self.size:
                    self.unreadable.add(offset + done & ~PAGE_MASK)
            done += count


def open_origin(text: str, read_only: bool) -> Device:
    """Like origin.open_origin(), but without time limits: a user who waits for a command can end it, and would have to
    start it again if it gave up."""
    device = origin.open_origin(text, Config().destage_depth, Config().nbd_times, read_only)
    if isinstance(device, ConnectedDevice):
        device.be_patient()
    return device


@contextmanager
def opened_origin(text: str, log: FileDevice, read_only: bool) -> Iterator[Device]:
    """An origin beside a log that is open, closed at the end. Raises ConfigError, DeviceError."""
    if not is_uri(text) and log.is_file(text):
        raise ConfigError(f"origin and log are the same: '{text}' and '{log.name}'; name another log")
    device = open_origin(text, read_only)
    try:
        yield device
    finally:
        device.close()
