# SPDX-License-Identifier: BSD-3-Clause
"""A simulated or gated device that takes several writes in a call, as a file does."""

from wbcache_core.errors import DeviceError


class BulkWrites:
    """To be put before a device class: does them one after the other by its write(). `in_bulk` counts them."""

    bulk_depth = 4
    in_bulk = 0

    def write_bulk(self, writes):
        failed = []
        for offset, views in writes:
            self.in_bulk += 1
            try:
                self.write(views, offset)
            except DeviceError as error:
                failed.append(((offset, views), error))
        return failed
