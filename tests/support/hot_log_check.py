# SPDX-License-Identifier: BSD-3-Clause
"""What a standby's log has in memory is what recovery finds on its device."""

from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import recover
from wbcache_core.memory.block_map import LocationMap, entry_lsn


def check_hot_log(log, device, blocks):
    """AssertionError says what differs. Nobody uses the log meanwhile."""
    log = log._copy
    superblock, hot = log.superblock, log._hot
    if superblock is None:
        assert hot is None
        return
    if log.failure:
        # It is going to be read again.
        return
    destaged = superblock.destaged
    found = recover(device, LogReader(device, superblock.data_pages, superblock.uuid), superblock)
    if found.head > log._head:
        # A power cut tore a segment and left one after it, which continues the log now that the first was sent again.
        return
    assert (found.head, found.end.place, found.end.previous) == (log._head, log._end.place, log._end.previous)
    hot._enter()
    replayed = LocationMap()
    if destaged < found.head:
        hot.covered.records.between(destaged, found.head).replay(replayed)
    expected = found.locations.entries(0, blocks)
    assert replayed.entries(0, blocks) == expected
    hot_entries = [entry if entry_lsn(entry) >= destaged else 0 for entry in hot._locations.entries(0, blocks)]
    assert hot_entries == expected.tolist()
    segments = [found.table.locate(lsn) for lsn in found.table.first_lsns_between(destaged, found.head)]
    assert [hot.table.locate(lsn) for lsn in hot.table.first_lsns_between(destaged, log._head)] == segments
    ends = [*(segment.first_lsn for segment in segments[1:]), found.head]
    for segment, end in zip(segments, ends, strict=False):
        count = end - segment.first_lsn - 1
        sums = [table.page_sums(segment.first_lsn + 1, count) for table in (hot.table, found.table)]
        assert sums[0] == sums[1], f"segment at LSN {segment.first_lsn}"
    kept = [(one.number, one.end_lsn) for one in hot.covered.generations if one.end_lsn >= superblock.batch_end]
    expected = [(one.number, one.end_lsn) for one in found.covered.generations]
    assert kept == expected, (kept, expected, superblock)
