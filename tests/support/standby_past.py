# SPDX-License-Identifier: BSD-3-Clause
"""Steps of a StandbyPair whose past is looked at."""

from tests.support.standby_pair import BLOCKS, POLICY, StandbyPair
from wbcache_core.errors import DeviceError
from wbcache_core.format.superblock import encode
from wbcache_core.units import PAGE_BYTES


def filled(policy=POLICY):
    """A pair whose standby has an origin that is the volume: zeros."""
    pair = StandbyPair(policy)
    pair.tell()
    pair.piece(0, BLOCKS, 1, is_zero=True)
    pair.destager._note_filled()
    assert not pair.superblock.is_inconsistent
    return pair


def ship(pair, block, count=1):
    """A commit of so many pages; returns its end."""
    for offset, content in pair.owner.commit(count, block=block):
        pair.log.take_segment(pair.sender, memoryview(content), offset, True)
    return pair.owner.head


def commit(pair, block, count=1):
    """The same, and it is in all logs."""
    end = ship(pair, block, count)
    pair.say_safe(end, end)
    return end


def number_of(pair, end_lsn):
    """The generation that ends there."""
    return next(one.number for one in pair.log.copy.hot.covered.generations if one.end_lsn == end_lsn)


def opened(pair, end_lsn):
    return pair.past.open_export(str(number_of(pair, end_lsn)))


def page(export, block):
    content = bytearray(PAGE_BYTES)
    export.read_into(content, block * PAGE_BYTES)
    return bytes(content)


def written(lsn):
    return lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)


def begin_anew(pair):
    """The log begins anew where the owner's ends now, and the origin is to be filled."""
    head, place = pair.owner.head, pair.owner.writer.end.place
    one = pair.owner.superblock.with_changes(
        oldest=head, destaged=head, committed=head, batch_end=head, is_inconsistent=True, is_copy=True,
        oldest_place=place, destaged_place=place,
    )  # fmt: skip
    pair.log.take_superblock(pair.sender, memoryview(encode(one)))


def no_disk(*_, **__):
    raise DeviceError("no disk")
