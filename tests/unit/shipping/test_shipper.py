# SPDX-License-Identifier: BSD-3-Clause
"""When a peer is left out, and what is said of it then, with a link in memory."""

import dataclasses
import time
from types import SimpleNamespace

import pytest

from tests.support.shipped_log import ShippedLog, disk, superblock
from tests.support.standby_on_disk import StandbyOnDisk
from wbcache_core.format import segment as segment_format
from wbcache_core.format import superblock as superblock_format
from wbcache_core.format.epoch import NO_EPOCH
from wbcache_core.format.peer_standing import is_standing
from wbcache_core.format.standby_state import blank
from wbcache_core.log.recovery import line_of
from wbcache_core.log.standby_log import Sender
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.events import Events
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.server.config import Config
from wbcache_core.shipping.parcels import Parcel
from wbcache_core.shipping.peer import CATCHING_UP, UP_TO_DATE, PeerRules
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.threads import StartTogether
from wbcache_core.units import MIB, PAGE_BYTES

TIMEOUT_S = 10.0
POLICY = dataclasses.replace(Config(origin="/o", log="/l").policy(1000, 256), may_go_on=True)
BELIEF = "It believes that it has everything"


class Link:
    """To a standby that answers everything when it is waited for, unless the link is cut."""

    identity, silent_for = "", 0.0

    def __init__(self):
        self.log, self.sender = StandbyOnDisk().log, Sender()
        self.sent, self.is_cut, self._answered = [], False, 0

    @property
    def under_way(self):
        return len(self.sent)

    def read_state(self):
        return memoryview(self.log.state(self.sender))

    def write(self, data, offset, durably):
        self.sent.append((data, offset))

    def wait(self, seconds):
        if not self.is_cut:
            self._answered = len(self.sent)

    def answered(self):
        count, self._answered = self._answered, 0
        del self.sent[:count]
        return count

    def close(self):
        pass


class Enough(BaseException):
    pass


@pytest.fixture
def link():
    return Link()


@pytest.fixture
def shipping(link):
    device, first = disk(), superblock()
    store = SuperblockStore(device, None, first)
    store.format(first)
    line = line_of(first, None, 256, POLICY)
    shipping = Shipping(
        PeerRules(("peer",), TIMEOUT_S), line, SegmentTable(), device, store, lambda: 1, NO_EPOCH, print, Events(),
        lambda *_: link,
    )  # fmt: skip
    yield shipping
    shipping.finish(0.0)


def let_go_on(shipping, may_go_on):
    shipping._line.apply(dataclasses.replace(POLICY, may_go_on=may_go_on))


def test_one_that_answers_counts_although_the_first_writer_came_late(shipping, monkeypatch):
    """The server was started long before its threads: nobody has been silent meanwhile."""
    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    peer.silent_since -= 6 * TIMEOUT_S

    def stop_there(*_):
        raise Enough

    monkeypatch.setattr(shipper, "_ship", stop_there)
    with pytest.raises(Enough):
        shipper.serve()
    assert peer.counts


def test_the_silence_of_a_peer_begins_with_the_threads(shipping, monkeypatch):
    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    peer.silent_since -= 6 * TIMEOUT_S
    together = StartTogether()
    shipper.start(together)
    together.give_up()
    assert time.monotonic() - peer.silent_since < TIMEOUT_S


def be_silent(shipper, peer):
    peer.silent_since = time.monotonic() - TIMEOUT_S - 1
    shipper._leave_out_if_due()
    assert not peer.counts


def test_it_is_said_that_a_peer_relies_on_its_owner(shipping, link, caplog):
    """The decision to go on without it comes when the link is cut already: it is not told."""
    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    let_go_on(shipping, False)
    peer.is_complete = True
    shipper._tell_standing(link)
    link.wait(0)
    shipper._note_answers(link.answered())
    link.is_cut = True
    let_go_on(shipping, True)
    shipper._tell_standing(link)
    be_silent(shipper, peer)
    assert BELIEF in caplog.text


def test_nothing_is_said_of_a_peer_that_knows(shipping, link, caplog):
    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    for may_go_on in (False, True):
        let_go_on(shipping, may_go_on)
        peer.is_complete = True
        shipper._tell_standing(link)
        link.wait(0)
        shipper._note_answers(link.answered())
    be_silent(shipper, peer)
    assert BELIEF not in caplog.text


def test_a_peer_is_asked_again_when_nothing_has_to_go_alone_any_more():
    """It may have answered what was waited for, so that there is room."""
    link, asked = Link(), []
    link.read_report = lambda: asked.append(1)
    device, first = disk(), superblock(has_own_origins=True)
    store = SuperblockStore(device, None, first)
    store.format(first)
    line = line_of(first, None, 256, POLICY)
    shipping = Shipping(
        PeerRules(("peer",), TIMEOUT_S, own_origins=True), line, SegmentTable(), device, store, lambda: 1, NO_EPOCH,
        print, Events(), lambda *_: link,
    )  # fmt: skip
    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    shipper.report_seconds, shipper._waits_for_answers, peer.is_inconsistent = 0.0, True, True
    shipper.queue.begin(1)
    shipper._send(link)
    assert not asked
    shipper._send(link)
    assert asked
    shipping.finish(0.0)


def test_one_that_is_left_out_and_still_answers_has_to_catch_up(shipping):
    """Otherwise it would never be complete again on this connection."""
    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    peer.state = UP_TO_DATE
    be_silent(shipper, peer)
    assert peer.state == CATCHING_UP


def what(message):
    """The LSN of a segment, or the epochs of a superblock; None for a standing."""
    data, offset = memoryview(message[0]), message[1]
    if offset:
        return segment_format.decode(data[:PAGE_BYTES]).first_lsn
    if is_standing(data):
        return None
    return [switch.first_lsn for switch in superblock_format.decode(data).history]


def test_a_peer_hears_of_an_epoch_before_its_first_segment(shipping, link):
    """Alone, as of the end of its log: whatever becomes of the connection, it knows the epochs of what it has."""
    (peer,), (shipper,), store = shipping.peers.all, shipping.shippers, shipping._store
    owner, parcels = ShippedLog(store.current), []
    for count in (3, 2):
        first, place = owner.head, owner.writer.end.place
        ((_, content),) = owner.commit(count)
        parcels.append(Parcel(first, owner.head, place, owner.writer.end.place, content, True))
        owner.next_epoch(owner.head, owner.writer.end.previous)
    history = owner.superblock.history
    starts = [switch.first_lsn for switch in history]
    store.write(epoch=owner.superblock.epoch, history=history, committed=owner.head)
    shipper._known_history, shipper._told = history[:1], store.current.sequence
    shipper.queue.begin(owner.head)
    shipper.queue._from_log.extend(parcels)
    sent = []
    while peer.received < owner.head:
        shipper._send(link)
        shipper._send(link)
        sent.append([found for found in map(what, link.sent) if found])
        link.wait(0)
        shipper._note_answers(link.answered())
    assert [together for together in sent if together] == [[starts[0]], [starts[:2]], [starts[1]]]


@pytest.mark.parametrize("is_inconsistent", [False, True])
def test_a_peer_that_says_that_it_is_filled_is_left_alone(shipping, is_inconsistent):
    """The answers to the last pieces may have been lost, and it takes no more. What its origin has counts from then
    on."""
    (shipper,) = shipping.shippers
    heard = []
    shipper.filler = SimpleNamespace(hear=heard.append, join=lambda: None)
    state = dataclasses.replace(blank(MIB, MIB), is_inconsistent=is_inconsistent, destaged=7)
    changes = shipper._what_it_reports(state)
    assert heard == [state] and changes["destaged"] == (0 if is_inconsistent else 7)
