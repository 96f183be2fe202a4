# SPDX-License-Identifier: BSD-3-Clause
"""What a filler copies, and what the peer may do meanwhile."""

import dataclasses
from itertools import pairwise

import pytest
from xxhash import xxh3_64_intdigest

from tests.support.shipped_log import superblock
from wbcache_core.errors import DamagedPageError, DeviceLostError, StoppedError
from wbcache_core.format.changed_regions import ChangedRegions
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.fill_piece import MAX_BLOCKS, decode
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Fill
from wbcache_core.memory.cursors import NO_MARK, NumberLine
from wbcache_core.server.config import Config
from wbcache_core.shipping import filling
from wbcache_core.shipping.filling import Filler
from wbcache_core.shipping.peer import Peer
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT

FIRST, SECOND = Epoch(1, 11), Epoch(2, 22)
UUID = bytes(range(16))
SIZE = (700 << PAGE_SHIFT) + 1000
POLICY = Config(origin="/o", log="/l").policy(1000, 256)


class Source:
    """A volume with data, a hole, and an end within a page; it is written to while it is read."""

    def __init__(self, line):
        self._line = line
        self.content = bytearray(b"\x11" * (300 << PAGE_SHIFT)) + bytes(400 << PAGE_SHIFT) + b"\x22" * 1000
        self.size = len(self.content)
        self.damaged = False

    def read_into(self, buffer, offset):
        if self.damaged:
            raise DamagedPageError("the page fails its checksum", 5)
        buffer[:] = self.content[offset : offset + len(buffer)]
        self._line.head += 3

    def extents(self, count, offset, only_one=False):
        hole = range(300 << PAGE_SHIFT, 700 << PAGE_SHIFT)
        if offset in hole:
            return [(offset, hole.stop - offset, True, True)]
        return [(offset, (hole.start if offset < hole.start else self.size) - offset, False, False)]


class Store:
    """Of the owner's superblocks, with its map of changed regions."""

    def __init__(self):
        self.current, self.map = sent(), None

    def regions(self):
        return self.map


class Link:
    """It answers what it has when it is waited for."""

    def __init__(self, stop_after=10**9):
        self.written, self.under_way, self._stop_after = [], 0, stop_after

    def write(self, data, offset, durably):
        assert offset == 0 and not durably
        self.written.append((decode(memoryview(data)[:PAGE_BYTES]), bytes(data[PAGE_BYTES:])))
        self.under_way += 1

    def wait(self, seconds):
        if len(self.written) > self._stop_after:
            raise DeviceLostError("the connection was lost", 5)

    def answered(self):
        count, self.under_way = self.under_way, 0
        return count

    def close(self):
        pass


def sent(epoch=FIRST):
    """What the peer got when it was connected."""
    return superblock(origin_bytes=SIZE, has_own_origins=True, epoch=epoch)


@pytest.fixture
def line():
    line = NumberLine(1000, 1000, POLICY)
    line.head = line.committed = 100
    return line


@pytest.fixture
def filler(line):
    filler = Filler(Peer("peer"), line, 10.0, lambda *_: None, Store())
    filler.source = Source(line)
    return filler


def state(**changes):
    one = StandbyState(UUID, 1 << 22, origin_bytes=SIZE, epoch=FIRST, is_inconsistent=True)
    return dataclasses.replace(one, **changes)


def run(filler, link):
    filler._connect = lambda *_: link
    filler._serve(filler._wanted)


def image_of(link, size):
    """What the pieces make of a disk that has something else."""
    image = bytearray(b"\xee" * (len(link.written) and 701 << PAGE_SHIFT))
    for piece, data in link.written:
        if piece.is_unchanged:
            assert not data and not piece.is_zero
            continue
        assert piece.is_zero or (piece.data_sum == xxh3_64_intdigest(data) and piece.block_count <= MAX_BLOCKS)
        content = data or bytes(piece.block_count << PAGE_SHIFT)
        image[piece.block << PAGE_SHIFT : piece.block + piece.block_count << PAGE_SHIFT] = content
    return image[:size]


def test_all_of_the_volume_is_copied(filler):
    """Holes are sent as such."""
    assert filler.begin(sent(), state(), is_anew=True)
    link = Link()
    run(filler, link)
    assert image_of(link, filler.source.size) == filler.source.content
    assert sum(piece.is_zero for piece, _ in link.written) == 1 and filler.done_to == 701
    assert filler.floor() == NO_MARK


def test_a_piece_says_what_it_has(filler, line):
    filler.begin(sent(), state(), is_anew=True)
    link = Link()
    run(filler, link)
    first, _ = link.written[0]
    assert (first.first_lsn, first.end_lsn, first.epoch, first.uuid) == (100, 103, FIRST, UUID)
    assert all(earlier.end_lsn <= later.first_lsn for (earlier, _), (later, _) in pairwise(link.written))


def test_nothing_is_safe_beyond_a_piece_that_is_under_way(filler, line):
    filler.begin(sent(), state(), is_anew=True)
    link = Link()
    filler._send(link, 0, filler._wanted)
    line.head = line.committed = 200
    filler._send(link, 256, filler._wanted)
    assert filler.floor() == 100
    filler._under_way.popleft()
    assert filler.floor() == 200


def test_a_piece_that_cannot_be_read_holds_nothing_up(filler):
    filler.begin(sent(), state(), is_anew=True)
    filler.source.damaged = True
    with pytest.raises(DamagedPageError):
        run(filler, Link())
    assert filler.floor() == NO_MARK and filler.done_to == 0


def test_it_goes_on_where_it_was(filler):
    filler.begin(sent(), state(), is_anew=True)
    filler.most_blocks = 16
    link = Link(stop_after=7)
    with pytest.raises(DeviceLostError):
        run(filler, link)
    done = filler.done_to
    assert 0 < done < 300
    again = Link()
    run(filler, again)
    assert again.written[0][0].block == done
    link.written = link.written[:done // 16] + again.written
    assert image_of(link, filler.source.size) == filler.source.content


@pytest.mark.parametrize(
    ("epoch", "is_anew", "begins_at"), [(FIRST, False, 90), (SECOND, False, 40), (FIRST, True, 0), (SECOND, True, 0)]
)
def test_where_it_begins(filler, epoch, is_anew, begins_at):
    """What was copied in an earlier epoch and does not count is copied again."""
    assert filler.begin(sent(epoch), state(fill=Fill(90, 40, 77)), is_anew)
    link = Link()
    run(filler, link)
    assert link.written[0][0].block == begins_at and link.written[0][0].epoch == epoch


def test_a_consistent_origin_is_left_alone(filler):
    assert not filler.begin(sent(), state(is_inconsistent=False), is_anew=False)
    assert filler._wanted is None


@pytest.mark.parametrize(("size", "begins_at"), [(5 << PAGE_SHIFT, 5), ((5 << PAGE_SHIFT) + 512, 5)])
def test_what_is_new_of_an_origin_that_has_grown_is_copied(filler, size, begins_at):
    """With the block that was not whole."""
    assert filler.begin(sent(SECOND), state(is_inconsistent=False, origin_bytes=size), is_anew=False)
    link = Link()
    run(filler, link)
    assert link.written[0][0].block == begins_at


def test_it_stops_when_the_peer_is_away(filler):
    filler.begin(sent(), state(), is_anew=True)
    wanted = filler._wanted
    filler.rest()
    link = Link()
    filler._copy(link, wanted)
    assert not link.written


def test_another_filling_of_the_same_epoch_is_another_one(filler):
    """It begins where the one before did, and what is answered to that has nothing to do with it."""
    filler.begin(sent(), state(), is_anew=True)
    former, link = filler._wanted, Link()

    def answered():
        if filler._wanted == former:
            filler.rest()
            filler.begin(sent(), state(), is_anew=True)
        return Link.answered(link)

    link.answered = answered
    filler._copy(link, former)
    assert filler.done_to == 0 and filler._wanted not in (None, former)
    again = Link()
    run(filler, again)
    assert image_of(again, filler.source.size) == filler.source.content


def test_zeros_are_sent_in_parts(filler, monkeypatch):
    """A disk that cannot deallocate them may take long to write them."""
    monkeypatch.setattr(filling, "_MOST_ZEROS", 100 << PAGE_SHIFT)
    filler.begin(sent(), state(), is_anew=True)
    link = Link()
    run(filler, link)
    assert max(piece.block_count for piece, _ in link.written if piece.is_zero) == 100
    assert image_of(link, filler.source.size) == filler.source.content


def test_a_stop_ends_it(filler):
    def stopped(*_):
        raise StoppedError("the server is shutting down")

    filler._connect = stopped
    begun_anew(filler, Fill())
    filler._run()
    filler.join()


def changed(since, until, *regions):
    return ChangedRegions(UUID, 4, since, until).with_batch(until, regions)


def unchanged_in(link):
    return {
        block
        for piece, _ in link.written if piece.is_unchanged
        for block in range(piece.block, piece.block + piece.block_count)
    }  # fmt: skip


def blocks_of(*regions):
    return {block for region in regions for block in range(region << 4, region + 1 << 4) if block < 701}


def begun_anew(filler, fill):
    filler.begin(sent(), state(), is_anew=True)
    filler.hear(state(fill=fill))


ALL = range(44)
CHANGED = 0, 3, 4, 18, 30, 43


@pytest.mark.parametrize(
    "changed_regions", [(), CHANGED, ALL[:-1], ALL[1:]], ids=["none", "some", "not the last", "not the first"]
)
def test_only_what_has_changed_is_copied(filler, changed_regions):
    filler._store.map = changed(40, 90, *changed_regions)
    begun_anew(filler, Fill(base=50, begin=80))
    link = Link()
    run(filler, link)
    rest = blocks_of(*(region for region in ALL if region not in changed_regions))
    assert unchanged_in(link) == rest and filler.done_to == 701
    assert all((one.first_lsn, one.end_lsn) == (40, 90) for one, _ in link.written if one.is_unchanged)
    image = image_of(link, filler.source.size)
    for block in range(701):
        at = slice(block << PAGE_SHIFT, min(block + 1 << PAGE_SHIFT, len(image)))
        expected = b"\xee" * (at.stop - at.start) if block in rest else filler.source.content[at]
        assert image[at] == expected, block


@pytest.mark.parametrize(
    ("regions", "fill"),
    [
        (None, Fill(base=50, begin=80)),
        (changed(40, 90), Fill()),
        (changed(51, 90), Fill(base=50, begin=80)),
        (changed(40, 79), Fill(base=50, begin=80)),
        (changed(40, 90), Fill(base=50, begin=80, reach=701)),
    ],
    ids=["no map", "no base", "begun after the base", "ends before the log", "all copied before"],
)
def test_all_is_copied_unless_the_map_has_all_that_is_lacking(filler, regions, fill):
    filler._store.map = regions
    begun_anew(filler, fill)
    link = Link()
    run(filler, link)
    assert not unchanged_in(link)
    assert image_of(link, filler.source.size) == filler.source.content


def test_what_was_copied_before_is_copied_again(filler):
    """An owner of before may have had something there that it has lost."""
    filler._store.map = changed(40, 90, 18)
    filler.begin(sent(SECOND), state(fill=Fill(300, 100, 70, 50, 80, 200)), is_anew=False)
    link = Link()
    run(filler, link)
    assert link.written[0][0].block == 100
    assert unchanged_in(link) == set(range(200, 701)) - blocks_of(18)


def test_nothing_is_copied_before_the_peer_has_said_how_its_origin_was(filler):
    filler.begin(sent(), state(), is_anew=True)
    waits = []

    def wait(_):
        waits.append(1)
        filler._ending.set()

    filler._bell.wait = wait
    filler._connect = None
    filler._run()
    assert waits
    filler.join()


def test_a_refused_piece_is_tried_with_what_the_peer_says_now(filler):
    filler._store.map = changed(40, 90)
    begun_anew(filler, Fill(base=50, begin=80))
    filler.hear(state(fill=Fill(base=50, begin=80, reach=100)))
    attempts = []

    def connect(*_):
        attempts.append(filler._wanted.fill.reach)
        if len(attempts) == 2:
            raise StoppedError("enough")
        return Link(stop_after=0)

    filler._connect, filler._ending.wait = connect, lambda _: None
    filler._run()
    assert attempts == [0, 100]
    filler.join()


def test_one_that_is_filled_needs_no_more(filler):
    begun_anew(filler, Fill())
    filler.hear(state(is_inconsistent=False))
    assert filler._wanted is None
