# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of an NBD origin and of a batch when the worker abandons requests, is lost, or gets no connection."""

import logging
import time

import pytest

from tests.support.gated_origin import wait_until
from wbcache_core.errors import DeviceLostError, NoConnectionError, StoppedError, WorkerLostError
from wbcache_core.flow.batch_executor import Loaded, Written
from wbcache_core.worker import worker_executor
from wbcache_core.worker.worker_executor import WorkerExecutor

GOOD = Loaded(1, 2, 1, 2, 0, 1, 0, None, [])
BAD = GOOD._replace(bad_pages=[(1, 7)])
WRITTEN = Written(1, 1, {}, {}, [], {})
SETTLE_S = 30.0


class Direct:
    """The server's own executor. `asked` is shared with the workers: all that happens, in its order."""

    origin_bytes = 4096

    def __init__(self, asked):
        self._asked = asked
        self.settles_at = 0.0
        self.check_seconds = 15.0
        self.failure = None
        self.found = GOOD

    def suspect_requests(self, ended_at):
        self._asked.append("suspect")
        self.settle_until(ended_at + SETTLE_S)

    def settle_until(self, when):
        self.settles_at = max(self.settles_at, when)

    def prepare(self, depth):
        self._asked.append("settled")
        if self.settles_at > time.monotonic():
            raise StoppedError("it would have to wait")

    def load(self, segments, end):
        self._asked.append("load here")
        return self.found

    def write(self, postponed, watched, depth):
        self._asked.append("write here")
        if self.failure:
            raise self.failure
        return WRITTEN

    def check_idle(self):
        self._asked.append("check here")


class FakeWorker:
    """What it says to each request is an exception or an answer; a lost one has ended."""

    def __init__(self, asked, answers):
        self._asked, self._answers = asked, answers
        self.has_ended = False
        self.settles_at = 0.0

    def ask(self, name, *_):
        self._asked.append(name)
        answer = self._answers.get(name)
        if isinstance(answer, Exception):
            self.has_ended = isinstance(answer, WorkerLostError)
            raise answer
        return answer

    def end(self):
        self._asked.append("end")


class Rig:
    def __init__(self):
        self.asked = []
        self.answers = {"load": GOOD, "write": WRITTEN}
        self.why_not = ""
        self.worker = None
        self.direct = Direct(self.asked)
        self.executor = WorkerExecutor(self._start, self.direct, lambda: self.why_not)

    def _start(self, is_patient):
        self.asked.append("start")
        self.is_patient = is_patient
        self.worker = FakeWorker(self.asked, self.answers)
        return self.worker

    def batch(self):
        self.executor.load([], 2)
        return self.executor.write([], [], 8)


@pytest.fixture
def rig():
    return Rig()


def test_it_is_asked_to_write_when_the_origin_has_settled(rig):
    assert rig.batch() == WRITTEN
    assert rig.asked == ["start", "load", "settled", "write"]
    rig.direct.settles_at = time.monotonic() + 30
    with pytest.raises(StoppedError):
        rig.batch()
    assert rig.asked[4:] == ["load", "settled"]


def test_one_that_is_lost_while_it_writes_leaves_requests(rig):
    rig.answers["write"] = WorkerLostError("lost")
    with pytest.raises(WorkerLostError):
        rig.batch()
    assert rig.asked[-1] == "suspect"
    assert rig.executor.settles_at > time.monotonic() + SETTLE_S - 10


@pytest.mark.parametrize("name", ["load", "release", "check_idle"])
def test_one_that_is_lost_while_nothing_is_under_way_leaves_none(rig, name):
    rig.answers[name] = WorkerLostError("lost")
    if name == "load":
        with pytest.raises(WorkerLostError):
            rig.executor.load([], 2)
    else:
        rig.batch()
        rig.executor._tell(name)
    assert "suspect" not in rig.asked
    assert rig.executor.settles_at == 0.0


def test_what_it_abandoned_is_known_here(rig):
    rig.batch()
    rig.answers["write"] = DeviceLostError("a connection was lost")
    rig.worker.settles_at = settled_at = time.monotonic() - 1
    with pytest.raises(DeviceLostError):
        rig.batch()
    assert rig.executor.settles_at == settled_at
    assert "suspect" not in rig.asked


def test_without_a_connection_for_it_the_server_does_the_batch(rig, caplog, monkeypatch):
    rig.answers["write"] = NoConnectionError("cannot connect")
    assert rig.batch() == WRITTEN
    assert rig.asked[-4:] == ["write", "load here", "write here", "end"]
    assert "cannot connect; for 300 s the server does that itself" in caplog.text
    assert rig.executor.why_here == "cannot connect"
    rig.batch()
    assert rig.asked[-3:] == ["end", "load here", "write here"]
    # The next rest is longer, and a batch of the worker ends that.
    for rest in (600, 1200, 2400, 3600, 3600):
        monkeypatch.setattr(rig.executor, "_rests_until", 0.0)
        rig.batch()
        assert f"for {rest} s" in caplog.text
        caplog.clear()
    rig.answers["write"] = WRITTEN
    monkeypatch.setattr(rig.executor, "_rests_until", 0.0)
    rig.batch()
    assert rig.executor.why_here == ""
    rig.answers["write"] = NoConnectionError("cannot connect")
    rig.batch()
    assert "for 300 s" in caplog.text


def test_an_origin_that_is_away_for_both_is_no_reason_to_rest(rig, caplog):
    rig.answers["write"] = NoConnectionError("cannot connect")
    rig.direct.failure = NoConnectionError("cannot connect either")
    with pytest.raises(NoConnectionError, match="either"):
        rig.batch()
    assert rig.executor.why_here == ""
    assert not caplog.text
    assert not rig.worker.has_ended


def test_what_was_damaged_since_the_worker_read_it_is_not_written(rig):
    rig.answers["write"] = NoConnectionError("cannot connect")
    rig.direct.found = BAD
    with pytest.raises(NoConnectionError):
        rig.batch()
    assert "write here" not in rig.asked


def test_what_forbids_a_worker_is_said_once(rig, caplog):
    caplog.set_level(logging.INFO)
    rig.why_not = "no reason"
    rig.batch()
    rig.batch()
    assert "start" not in rig.asked
    assert caplog.text.count("the server itself writes to the origin: no reason") == 1
    assert rig.executor.why_here == "no reason"


def test_idle_connections_of_both_are_checked(rig, monkeypatch):
    monkeypatch.setattr(worker_executor, "_IDLE_SECONDS", 0.5)
    rig.direct.check_seconds = 0.2
    rig.batch()
    rig.executor.check_idle()
    assert rig.asked[-2:] == ["check_idle", "check here"]
    wait_until(lambda: rig.executor.check_idle() or "end" in rig.asked)
    assert rig.asked[-2:] == ["end", "check here"]


def test_patience_reaches_a_worker_that_comes_later(rig):
    rig.direct.be_patient = lambda: None
    rig.batch()
    assert not rig.is_patient()
    rig.executor.be_patient()
    assert rig.is_patient()
