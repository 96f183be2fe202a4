# SPDX-License-Identifier: BSD-3-Clause
"""What is read from the log for a peer that is behind."""

from tests.support.shipped_log import UUID, ShippedLog
from wbcache_core.device.device import aligned_buffer
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import line_of, recover
from wbcache_core.server.config import Config
from wbcache_core.shipping.parcels import READ_BYTES, LogParcels


def test_segments_come_as_they_are_in_the_log_and_nothing_beyond_its_end_is_read():
    log = ShippedLog()
    sent = [content for counts in ((2, 3), (1,)) for _, content in log.commit(*counts)]
    device = log.writer._device
    reader = LogReader(device, log.data_pages, UUID)
    found = recover(device, reader, log.superblock)
    line = line_of(log.superblock, found, log.ring.pages, Config(origin="/o", log="/l").policy(1000, 256))
    image = aligned_buffer(READ_BYTES)
    image[:] = b"\xff" * READ_BYTES
    parcels = LogParcels(line, found.table, device, reader).after(1, image)
    assert [bytes(parcel.content) for parcel in parcels] == sent
    assert parcels[-1].end_lsn == line.committed == log.head
    end = sum(map(len, sent))
    assert image[end:] == b"\xff" * (READ_BYTES - end)
