# SPDX-License-Identifier: BSD-3-Clause
"""An origin with bad sectors, inside the test's own process."""

from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError
from wbcache_core.units import PAGE_BYTES


class BadSectors(FileDevice):
    """Refuses to write any byte of the blocks in `bad`; the bytes before them in a request are written."""

    def __init__(self, path, bad=()):
        super().__init__(str(path), "origin")
        self.bad = set(bad)
        self.refusals = []

    def write(self, views, offset):
        data = b"".join(views)
        for block in range(offset // PAGE_BYTES, -(-(offset + len(data)) // PAGE_BYTES)):
            if block in self.bad:
                self.refusals.append(block)
                super().write([memoryview(data)[: max(block * PAGE_BYTES - offset, 0)]], offset)
                raise DeviceError("cannot write to origin: bad sector")
        super().write(views, offset)

    def zero(self, offset, length, may_trim):
        if any(offset <= block * PAGE_BYTES < offset + length for block in self.bad):
            raise DeviceError("cannot zero origin: bad sector")
        super().zero(offset, length, may_trim)

    def write_bulk(self, writes):
        failed = []
        for offset, views in writes:
            try:
                self.write(views, offset)
            except DeviceError as error:
                failed.append(((offset, views), error))
        return failed
