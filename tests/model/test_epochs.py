# SPDX-License-Identifier: BSD-3-Clause
"""Epochs of a log that is opened again and again, and what its segments say about answers."""

import threading

import pytest

from tests.model.test_pins import page_of, superblock_of, write_page
from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.local_pair import QUIET
from wbcache_core.errors import LogRefusedError
from wbcache_core.format import segment as segment_format
from wbcache_core.format.answers import LOG, RAM, Answers
from wbcache_core.format.epoch import HISTORY_LENGTH, LAST_NUMBER, Epoch, Switch
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, decode, encode
from wbcache_core.server.cache import Cache
from wbcache_core.units import PAGE_BYTES

SIZE = 1 << 20
KEPT = QUIET | {"history": "1h"}


def segments_of(log):
    """All descriptors in the log, in order of LSN."""
    image = memoryview(log.read_bytes())
    pages = [image[at : at + PAGE_BYTES] for at in range(DATA_START, len(image), PAGE_BYTES)]
    found = [segment_format.decode(page) for page in pages if segment_format.has_magic(page)]
    return sorted(found, key=lambda one: one.first_lsn)


def slots_of(log):
    image = memoryview(log.read_bytes())
    return [decode(image[at : at + PAGE_BYTES]) for at in SLOT_OFFSETS]


def put_superblocks(log, **changes):
    """Change both superblocks."""
    image = bytearray(log.read_bytes())
    for at in SLOT_OFFSETS:
        image[at : at + PAGE_BYTES] = encode(decode(memoryview(image)[at : at + PAGE_BYTES]).with_changes(**changes))
    log.write_bytes(image)


def write_in_epochs(pair, count, **settings):
    """One segment in each epoch."""
    for number in range(count):
        cache = pair.start(**KEPT | settings)
        write_page(cache, b"%c" % (65 + number), number)
        abandon(cache)


def test_each_opening_for_writing_begins_an_epoch(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 3)
    segments, superblock = segments_of(pair.log), superblock_of(pair.log)
    assert [one.epoch.number for one in segments] == [1, 2, 3]
    assert [one.version for one in segments] == [segment_format.VERSION] * 3
    assert superblock.epoch == segments[-1].epoch
    assert superblock.history == tuple(Switch(one.epoch, one.first_lsn, one.previous) for one in segments)
    check_pair(pair.log, pair.origin)


def test_an_opening_only_to_read_begins_none(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 1)
    before = pair.log.read_bytes()
    cache = Cache(pair.config(**KEPT))
    assert cache.status()["epoch"]["number"] == 1
    cache.stop()
    assert pair.log.read_bytes() == before


def test_the_epoch_is_in_both_superblocks_before_its_first_segment(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 2)
    cache = pair.start(**KEPT)
    assert [slot.epoch.number for slot in slots_of(pair.log)] == [3, 3]
    assert len({slot.epoch for slot in slots_of(pair.log)}) == 1
    assert [one.epoch.number for one in segments_of(pair.log)] == [1, 2]
    assert cache.status()["epoch"] == {"number": 3, "id": f"{slots_of(pair.log)[0].epoch.id:016x}"}
    abandon(cache)


def test_more_epochs_than_the_history_holds(pair):
    pair.make_origin(SIZE)
    count = HISTORY_LENGTH + 4
    write_in_epochs(pair, count)
    segments, superblock = segments_of(pair.log), superblock_of(pair.log)
    assert [one.epoch.number for one in segments] == list(range(1, count + 1))
    assert [switch.epoch for switch in superblock.history] == [one.epoch for one in segments[-HISTORY_LENGTH:]]
    check_pair(pair.log, pair.origin)
    cache = pair.start(**KEPT)
    assert [page_of(cache.volume, number) for number in range(count)] == [b"%c" % (65 + n) for n in range(count)]
    cache.stop()


def test_either_superblock_alone_knows_every_epoch(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 3)
    sound = pair.log.read_bytes()
    for at in SLOT_OFFSETS:
        image = bytearray(sound)
        image[at + 300] ^= 1
        pair.log.write_bytes(image)
        cache = Cache(pair.config(**KEPT))
        assert [page_of(cache.volume, number) for number in range(3)] == [b"A", b"B", b"C"]
        cache.stop()


def test_the_last_number_there_is(pair):
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT)
    cache.stop()
    put_superblocks(pair.log, epoch=Epoch(LAST_NUMBER - 1, 5), history=())
    cache = pair.start(**KEPT)
    write_page(cache, b"Z", 7)
    abandon(cache)
    assert superblock_of(pair.log).epoch.number == LAST_NUMBER
    before = pair.log.read_bytes()
    cache = Cache(pair.config(**KEPT))
    pair.own(cache)
    with pytest.raises(LogRefusedError, match=f"epoch {LAST_NUMBER} is the last one"):
        cache.activate()
    assert page_of(cache.volume, 7) == b"Z"
    cache.stop()
    assert pair.log.read_bytes() == before


def last_changed(pair, **changes):
    """The last segment with other fields and a right checksum: nothing follows it, so nothing contradicts it."""
    image = bytearray(pair.log.read_bytes())
    last = segments_of(pair.log)[-1]
    at = next(
        at for at in range(DATA_START, len(image), PAGE_BYTES)
        if segment_format.has_magic(memoryview(image)[at : at + PAGE_BYTES])
        and segment_format.decode(memoryview(image)[at : at + PAGE_BYTES]).first_lsn == last.first_lsn
    )  # fmt: skip
    for name, value in changes.items():
        setattr(last, name, value)
    segment_format.encode(last, memoryview(image)[at : at + PAGE_BYTES])
    pair.log.write_bytes(image)


@pytest.mark.parametrize(
    "epoch",
    [Epoch(1, 1), Epoch(3, 1), Epoch(4, 1), "one before"],
    ids=["older", "same number, other owner", "not begun", "dead"],
)
def test_a_segment_of_another_epoch_is_the_end_of_the_log(pair, epoch):
    """Its place, LSN, chain and checksum are right. It is left out as a torn one would be: nothing is refused."""
    pair.make_origin(SIZE)
    write_in_epochs(pair, 3)
    segments = segments_of(pair.log)
    last_changed(pair, epoch=segments[1].epoch if epoch == "one before" else epoch)
    cache = pair.start(**KEPT)
    assert page_of(cache.volume, 1) == b"B"
    assert page_of(cache.volume, 2) == b"\0"
    write_page(cache, b"N", 2)
    abandon(cache)
    cache = pair.start(**KEPT)
    assert page_of(cache.volume, 2) == b"N"
    cache.stop()
    check_pair(pair.log, pair.origin)


def test_a_history_with_another_checksum_ends_the_log_there(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 3)
    *kept, last = superblock_of(pair.log).history
    put_superblocks(pair.log, history=(*kept, last._replace(previous=last.previous ^ 1)))
    cache = Cache(pair.config(**KEPT))
    assert (page_of(cache.volume, 1), page_of(cache.volume, 2)) == (b"B", b"\0")
    cache.stop()


def test_what_was_known_to_be_durable_is_not_left_out_in_silence(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 3)
    put_superblocks(pair.log, committed=segments_of(pair.log)[-1].end_lsn)
    last_changed(pair, epoch=Epoch(4, 1))
    with pytest.raises(LogRefusedError, match="is damaged at LSN"):
        Cache(pair.config(**KEPT))


def test_a_version_before_epochs_does_not_follow_one_with_them(pair):
    pair.make_origin(SIZE)
    write_in_epochs(pair, 2)
    from_before = {"version": 2, "epoch": Epoch(0, 0), "answers": Answers(0, 0)}
    last_changed(pair, **from_before)
    cache = Cache(pair.config(**KEPT))
    assert (page_of(cache.volume, 0), page_of(cache.volume, 1)) == (b"A", b"\0")
    cache.stop()


def answers_of(pair):
    return [one.answers.ack for one in segments_of(pair.log)]


@pytest.mark.parametrize(("ack", "level"), [("ram", RAM), ("log", LOG), ("origin", LOG)])
def test_a_segment_says_how_early_writes_may_be_answered(pair, ack, level):
    pair.make_origin(SIZE)
    cache = pair.start(**QUIET | {"history": "off", "ack": ack})
    write_page(cache, b"a")
    cache.volume.trim(PAGE_BYTES, 8 * PAGE_BYTES)
    cache.volume.flush()
    abandon(cache)
    assert {one.answers for one in segments_of(pair.log)} == {Answers(level, LOG)}


def test_a_weaker_export_counts_for_its_segment_only(pair):
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT | {"ack": "log"})
    write_page(cache, b"a")
    for change in (
        lambda: cache.volume.write(b"b" * PAGE_BYTES, 0, ack=0),
        lambda: cache.volume.write(b"c" * 100, 5000, ack=0),
        lambda: cache.volume.write(b"d" * 3 * PAGE_BYTES, 9 * PAGE_BYTES, ack=0),
        lambda: cache.volume.trim(PAGE_BYTES, 0, ack=0),
        lambda: cache.volume.zero(PAGE_BYTES, 0, may_trim=False, ack=0),
    ):
        change()
        cache.volume.flush()
        write_page(cache, b"a", 3)
    abandon(cache)
    assert answers_of(pair) == [LOG, *[RAM, LOG] * 5]


def test_a_stronger_export_claims_nothing_for_its_neighbours(pair):
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT | {"ack": "ram"})
    cache.volume.write(b"a" * PAGE_BYTES, 0)
    cache.volume.write(b"b" * PAGE_BYTES, PAGE_BYTES, ack=1)
    abandon(cache)
    assert answers_of(pair) == [RAM]


def test_a_weaker_ack_counts_for_the_segment_that_is_open(pair):
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT | {"ack": "log"})
    with cache._line.lock:
        cache._ring.open_segment(cache._line)
    cache.settings.change({"ack": "ram"})
    cache.settings.change({"ack": "log"})
    write_page(cache, b"a")
    write_page(cache, b"b")
    cache.settings.change({"ack": "ram"})
    write_page(cache, b"c")
    abandon(cache)
    assert answers_of(pair) == [RAM, LOG, RAM]


def test_a_request_is_answered_as_its_segment_says_although_ack_is_changed(pair):
    """The level is that of the moment at which the page was put into the segment."""
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT | {"ack": "log"})
    volume, may_go_on, is_there = cache.volume, threading.Event(), threading.Event()
    acknowledge, levels = volume._acknowledge, []

    def held_up(end, policy, fua, ack):
        levels.append(policy.ack)
        is_there.set()
        assert may_go_on.wait(60)
        acknowledge(end, policy, fua, ack)

    volume._acknowledge = held_up
    writers = [
        threading.Thread(target=volume.write, args=(data, offset))
        for data, offset in ((b"a" * PAGE_BYTES, 0), (b"b" * 10000, 100), (b"c" * 10, 90000))
    ]
    for writer in writers:
        is_there.clear()
        writer.start()
        assert is_there.wait(60)
    cache.settings.change({"ack": "ram"})
    may_go_on.set()
    for writer in writers:
        writer.join(60)
    assert levels == [1, 1, 1]
    assert cache._line.committed == cache._line.head
    abandon(cache)


def test_the_policy_of_a_request_is_the_strongest_of_its_pieces(pair):
    """A piece may already be in a segment that says so."""
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT | {"ack": "ram"})
    volume, levels = cache.volume, iter((1, 0, 0))
    append, acknowledge, found = volume._append, volume._acknowledge, []

    def appending(*arguments):
        append(*arguments)
        line = cache._line
        line.policy = cache.config_with(next(levels))

    line = cache._line
    policies = [cache._config.policy(line.data_pages), pair.config(**KEPT, ack="log").policy(line.data_pages)]
    cache.config_with = policies.__getitem__
    volume._append = appending
    volume._acknowledge = lambda end, policy, fua, ack: found.append(policy.ack) or acknowledge(end, policy, fua, ack)
    volume.write(b"x" * (2 * PAGE_BYTES + 200), 100)
    assert found == [1]
    abandon(cache)


def test_what_a_killed_server_had_answered_counts_as_answered_early(pair):
    pair.make_origin(SIZE)
    cache = pair.start(**KEPT | {"ack": "ram", "ring_memory": "shared"})
    cache.volume.write(b"k" * PAGE_BYTES, 0)
    abandon(cache, memory_stays=True)
    cache = pair.start(**KEPT | {"ack": "log", "ring_memory": "shared"})
    assert page_of(cache.volume, 0) == b"k"
    write_page(cache, b"l", 1)
    abandon(cache)
    assert [(one.epoch.number, one.answers.ack) for one in segments_of(pair.log)][:1] == [(2, RAM)]
