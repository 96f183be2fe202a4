# SPDX-License-Identifier: BSD-3-Clause
"""When what is open of the past of a standby ends: with its log, with a takeover, or with what fails."""

import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.standby_pair import POLICY
from tests.support.standby_past import begin_anew, commit, filled, no_disk, number_of, opened, page, ship, written
from wbcache_core.errors import DeviceError, OutsideWindowError, SnapshotEndedError, StoppedError
from wbcache_core.format.superblock import SLOT_OFFSETS
from wbcache_core.log.standby_log import Sender
from wbcache_core.server.history import Query
from wbcache_core.units import MIB, PAGE_BYTES
from wbcache_core.volume.standby_snapshots import StandbySnapshots

LIMIT_S = 30


@pytest.fixture
def pair():
    return filled()


@pytest.fixture(autouse=True)
def warnings_seen(caplog):
    caplog.set_level(logging.WARNING, "wbcache")


def test_what_is_open_has_ended_when_its_log_is_cut_off(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    end = pair.owner.writer.end
    commit(pair, 1)
    changed = pair.owner.next_epoch(first, end.previous, committed=first)
    pair.log.take_superblock(pair.sender, changed)
    assert pair.log.copy.head == first
    with pytest.raises(SnapshotEndedError, match="cut off"):
        page(export, 0)
    export.close()
    pair.owner.head, pair.owner.writer.end = first, end._replace(epoch=pair.owner.superblock.epoch)
    ship(pair, 1)
    ship(pair, 2)
    assert pair.past.window_ends()[1].end_lsn == first
    assert page(opened(pair, first), 0) == written(first - 1)


def test_it_is_said_that_a_moment_ended_with_its_log(pair, caplog):
    export = opened(pair, commit(pair, 0))
    begin_anew(pair)
    pair.past.facts()
    with pair.log.lock:
        pair.destager._end_of_next_batch()
    assert caplog.text.count("open at this standby has ended") == 1
    export.close()


def lose_both_superblocks(pair):
    """As a device does, before they are read again."""
    pair.log.copy.failure = DeviceError("no disk")
    for offset in SLOT_OFFSETS:
        pair.device.write([bytes(PAGE_BYTES)], offset)
    pair.log.state(Sender())
    assert pair.superblock is None


def test_a_log_that_is_blank_since_it_was_read_again_waits_for_nothing():
    pair = filled(dataclasses.replace(POLICY, history_ns=10**9))
    commit(pair, 0)
    with pair.log.lock:
        pair.destager._end_of_next_batch()
    lose_both_superblocks(pair)
    with pair.log.lock:
        assert pair.destager._end_of_next_batch() == (0, False) and pair.destager._idle_seconds() is None


@pytest.mark.parametrize("change", [begin_anew, lose_both_superblocks])
def test_a_log_that_changes_while_a_moment_is_opened(pair, monkeypatch, change):
    first, second = commit(pair, 0), commit(pair, 1)
    export, number = opened(pair, first), number_of(pair, second)
    open_export = StandbySnapshots.open_export

    def change_first(snapshots, name):
        change(pair)
        return open_export(snapshots, name)

    monkeypatch.setattr(StandbySnapshots, "open_export", change_first)
    with pytest.raises(SnapshotEndedError):
        pair.past.open_export(str(number))
    with pytest.raises(SnapshotEndedError):
        page(export, 0)
    export.close()
    assert pair.past.window_ends() == (None, None, ())


def test_nothing_is_shown_while_the_origin_is_filled(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    begin_anew(pair)
    assert pair.superblock.is_inconsistent
    with pytest.raises(SnapshotEndedError, match="has begun anew"):
        page(export, 0)
    with pytest.raises(OutsideWindowError, match="is being filled"):
        pair.past.open_export("1")
    with pytest.raises(OutsideWindowError, match="is being filled"):
        pair.past.compare("1", "1")
    assert pair.past.window_ends() == (None, None, ())
    assert pair.past.facts() == {"window": None, "snapshots": [], "tags": []}
    assert pair.past.history(Query())["window"] is None


def test_while_the_log_begins_anew_nothing_is_read_from_elsewhere(pair):
    """The superblock counts already, and its cursors are beyond what the origin has."""
    first = commit(pair, 3)
    export, sync, found = opened(pair, first), pair.device.sync, []
    commit(pair, 5)

    def sync_and_read():
        sync()
        if pair.superblock.is_inconsistent:
            found.append((page(export, 3), export.extents(4 * PAGE_BYTES, 0)))

    kinds = export.extents(4 * PAGE_BYTES, 0)
    pair.origin.extents = lambda offset, length, most: [(offset, length, True, True)]
    pair.device.sync = sync_and_read
    begin_anew(pair)
    assert found and all(one == (written(first - 1), kinds) for one in found)


def test_after_a_new_beginning_that_failed_nothing_is_read(pair):
    first = commit(pair, 3)
    export, sync = opened(pair, first), pair.device.sync
    commit(pair, 5)

    def fail():
        if pair.superblock.is_inconsistent:
            raise DeviceError("no disk")
        sync()

    pair.device.sync = fail
    with pytest.raises(DeviceError):
        begin_anew(pair)
    for use in (lambda: page(export, 3), lambda: export.extents(MIB, 0)):
        with pytest.raises(SnapshotEndedError):
            use()
    with pytest.raises(OutsideWindowError):
        opened(pair, first)


def test_after_a_cut_that_failed_nothing_is_read(pair):
    first = commit(pair, 0)
    end = pair.owner.writer.end
    export = opened(pair, commit(pair, 1))
    sync, changed = pair.device.sync, pair.owner.next_epoch(first, end.previous, committed=first)

    def fail():
        if pair.superblock.epoch == pair.owner.superblock.epoch:
            raise DeviceError("no disk")
        sync()

    pair.device.sync = fail
    with pytest.raises(DeviceError):
        pair.log.take_superblock(pair.sender, changed)
    with pytest.raises(SnapshotEndedError):
        page(export, 0)
    with pytest.raises(OutsideWindowError, match="read again"):
        opened(pair, first)
    assert pair.past.window_ends() == (None, None, ())


def test_a_comparison_ends_with_its_log_whether_or_not_it_is_read_to_its_end(pair):
    """A page of wbcache diff is a part of it."""
    first = commit(pair, 0)
    for block in range(10, 20, 2):
        last = commit(pair, block)
    compared = pair.past.compare(str(number_of(pair, first)), str(number_of(pair, last)))
    changes = compared.changes()
    assert next(changes).block == 10
    begin_anew(pair)
    for page_of_them in (changes, compared.changes(14 * PAGE_BYTES)):
        with pytest.raises(SnapshotEndedError):
            next(page_of_them)
    compared.close()


def test_a_log_that_has_been_taken_is_asked_for_nothing(pair):
    """The server that has it changes it under another lock."""
    number = number_of(pair, commit(pair, 0))
    pair.past.close()
    pair.log.take()
    for use in (pair.past.resolve, pair.past.open_export, lambda name: pair.past.compare(name, name)):
        with pytest.raises(SnapshotEndedError, match="has taken over"):
            use(str(number))
    assert pair.past.window_ends() == (None, None, ())
    assert pair.past.facts() == {"window": None, "snapshots": [], "tags": []}
    assert pair.past.history(Query())["window"] is None


def test_closing_waits_for_what_is_being_opened(pair, monkeypatch):
    number = number_of(pair, commit(pair, 0))
    open_export, closed = StandbySnapshots.open_export, threading.Event()

    def close_first(snapshots, name):
        pool.submit(pair.past.close).add_done_callback(lambda _: closed.set())
        assert not closed.wait(0.1)
        return open_export(snapshots, name)

    monkeypatch.setattr(StandbySnapshots, "open_export", close_first)
    with ThreadPoolExecutor(1) as pool:
        export = pair.past.open_export(str(number))
        assert closed.wait(LIMIT_S)
    with pytest.raises(SnapshotEndedError):
        page(export, 0)


def test_closing_waits_for_what_is_being_read(pair):
    first = commit(pair, 0)
    export = opened(pair, first)
    is_reading, may_go_on, closed = threading.Event(), threading.Event(), threading.Event()
    read_into = pair.origin.read_into

    def slow(*arguments):
        is_reading.set()
        assert may_go_on.wait(LIMIT_S)
        read_into(*arguments)

    pair.origin.read_into = slow
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(page, export, 100)
        assert is_reading.wait(LIMIT_S)
        closing = pool.submit(pair.past.close)
        closing.add_done_callback(lambda _: closed.set())
        assert not closed.wait(0.1)
        may_go_on.set()
        closing.result(LIMIT_S)
        assert reading.result(LIMIT_S) == bytes(PAGE_BYTES)
    for use in (lambda: page(export, 0), lambda: export.extents(1, 0), lambda: export.prefetch(1, 0)):
        with pytest.raises(SnapshotEndedError, match="has taken over"):
            use()
    with pytest.raises(SnapshotEndedError):
        opened(pair, first)
    export.close()


def test_a_read_that_is_interrupted_says_why(pair):
    """By the stop of the server, whose clients get no answer before its end; or by a takeover, after which it goes
    on."""
    export = opened(pair, commit(pair, 0))

    def interrupted(*_):
        raise StoppedError("the server is shutting down")

    pair.origin.read_into = interrupted
    with pytest.raises(StoppedError):
        page(export, 100)

    def interrupted_by_a_takeover(*_):
        pair.past.end()
        interrupted()

    pair.origin.read_into = interrupted_by_a_takeover
    with pytest.raises(SnapshotEndedError, match="has taken over"):
        page(export, 100)


def test_an_origin_that_cannot_be_read_is_said(pair):
    export = opened(pair, commit(pair, 0))
    pair.origin.read_into = no_disk
    with pytest.raises(DeviceError, match="no disk"):
        page(export, 100)


def test_the_status_does_not_wait_for_the_log(pair):
    commit(pair, 0)
    before = pair.past.facts()
    with ThreadPoolExecutor(1) as pool, pair.log.lock:
        assert pool.submit(pair.past.facts).result(LIMIT_S) == before
    assert before["window"]["generations"] == 1
