# SPDX-License-Identifier: BSD-3-Clause
"""Reading ahead for a peer: what comes in which order, errors, and memory that is used again only when it is free."""

import threading

import pytest

from wbcache_core.errors import DeviceError
from wbcache_core.shipping.parcels import Parcel
from wbcache_core.shipping.read_ahead import ReadAhead
from wbcache_core.threads import StartTogether

STEP, COMMITTED = 10, 60
PATIENCE_S = 20


class Log:
    """Reads STEP LSNs at once; `images` are those it was given, by LSN."""

    def __init__(self):
        self.images, self.asked, self.error = {}, [], None
        self.may_read = threading.Event()
        self.may_read.set()

    def after(self, lsn, image):
        self.asked.append(lsn)
        assert self.may_read.wait(PATIENCE_S)
        if self.error:
            raise self.error
        self.images[lsn] = image.obj
        return [Parcel(lsn, lsn + STEP, lsn, lsn + STEP, image[:STEP], True)]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def started(log):
    """With its thread; `rung` is set whenever something has been read."""
    rung, together = threading.Event(), StartTogether()
    ahead = ReadAhead(log, rung.set)
    ahead.start(together)
    together.run()
    ahead.rung = rung
    yield ahead
    log.may_read.set()
    ahead.join()
    ahead.join()


def read(ahead, lsn, received=0):
    """What follows lsn, when it has been read."""
    while not (found := ahead.after(lsn, COMMITTED, received)):
        assert ahead.rung.wait(PATIENCE_S)
        ahead.rung.clear()
    return found


def test_without_a_thread_it_reads_at_once(log):
    ahead = ReadAhead(log, lambda: None)
    for lsn in range(0, COMMITTED, STEP):
        (parcel,) = ahead.after(lsn, COMMITTED, 0)
        assert parcel.end_lsn == lsn + STEP
    assert log.asked == list(range(0, COMMITTED, STEP))


def test_the_next_is_read_while_one_is_sent(started, log):
    assert read(started, 0)[0].first_lsn == 0
    while log.asked[-1] != STEP:
        assert started.rung.wait(PATIENCE_S)
    log.may_read.clear()
    # It is there already.
    assert read(started, STEP)[0].first_lsn == STEP
    assert started.after(2 * STEP, COMMITTED, 0) == []
    log.may_read.set()
    assert read(started, 2 * STEP)[0].first_lsn == 2 * STEP


def test_nothing_is_read_beyond_what_is_committed(started, log):
    for lsn in range(0, COMMITTED, STEP):
        read(started, lsn)
    assert log.asked == list(range(0, COMMITTED, STEP))


def test_memory_is_used_again_when_it_has_arrived(log):
    ahead = ReadAhead(log, lambda: None)
    kept = [ahead.after(lsn, COMMITTED, received)[0].content for lsn, received in ((0, 0), (10, 9), (20, 9), (30, 10))]
    images = [log.images[lsn] for lsn in (0, 10, 20, 30)]
    assert len({id(image) for image in images[:3]}) == 3 and images[3] is images[0]
    assert kept


def test_memory_that_may_be_under_way_is_not_used_again_after_a_lost_connection(log):
    ahead = ReadAhead(log, lambda: None)
    kept = ahead.after(0, COMMITTED, 0)
    ahead.forget()
    more = ahead.after(STEP, COMMITTED, STEP)
    assert log.images[0] is not log.images[STEP] and kept and more


def test_an_error_reaches_the_caller_and_is_no_answer_to_the_next(started, log):
    log.error = DeviceError("gone")
    with pytest.raises(DeviceError, match="gone"):
        read(started, 0)
    log.error = None
    assert read(started, 0)[0].first_lsn == 0


def test_it_goes_elsewhere_if_asked(started):
    read(started, 0)
    assert read(started, 40)[0].first_lsn == 40
