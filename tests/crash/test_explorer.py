# SPDX-License-Identifier: BSD-3-Clause
"""The explorer itself: a seed is enough to repeat a run, and broken promises are noticed."""

import pytest

from tests.crash.broken_promise import BrokenPromiseError
from tests.crash.explorer import Chain
from tests.crash.given_up import GivenUp
from tests.crash.oracle import Oracle, content
from tests.crash.workload import LOG_DISK, ORIGIN_DISK
from tests.support.remote_disk import SETTLE_S, RemoteDisk
from tests.support.simulated_disk import STYLES, Journal, SimulatedDisk
from tests.support.simulated_threads import DeadlockError, Simulation
from wbcache_core.errors import DeviceError, DeviceLostError

PAGES = 4


def test_a_run_follows_from_its_seed():
    first, second = (
        [session.journal.events for session in Chain("concurrent clients", "same").sessions(2)] for _ in range(2)
    )
    assert first == second
    other = next(Chain("concurrent clients", "other").sessions(1)).journal.events
    assert other != first[0]


@pytest.mark.parametrize("disk", [LOG_DISK, ORIGIN_DISK])
def test_syncs_that_do_nothing_are_noticed(disk):
    class Liar(Chain):
        def sessions(self, count):
            for session in super().sessions(count):
                events = session.journal.events
                events[:] = [event for event in events if event.piece or event.disk != disk]
                yield session

    with pytest.raises(BrokenPromiseError, match="--position"):
        Liar("flush reaches the origin", "lie").explore(400, sessions=1)


@pytest.mark.parametrize(
    "name", ["connections are lost", "connections are lost, and flushes reach the origin"]
)
def test_late_writes_that_are_not_waited_for_are_noticed(name, monkeypatch):
    """A cache that goes on at once when its origin's connection is lost, and when it was killed."""
    assert sum(session.origin.late for session in Chain(name, "late").sessions()) > 0
    monkeypatch.setattr(RemoteDisk, "settles_at", 0.0)
    monkeypatch.setattr(RemoteDisk, "_check_settled", lambda _: None)
    monkeypatch.setattr(RemoteDisk, "suspect_requests", lambda *_: None)
    with pytest.raises(BrokenPromiseError, match="--position"):
        for number in range(5):
            Chain(name, f"late {number}").explore(900)


def test_what_is_given_up_is_lost_and_nothing_else_may_be(monkeypatch):
    """The scenario comes to lose something, and the oracle lets it only because it was given up."""
    name = "bad sectors are given up"
    assert sum(session.given_up for session in Chain(name, "lost").sessions()) > 0
    monkeypatch.setattr(GivenUp, "add", lambda *_: None)
    with pytest.raises(BrokenPromiseError, match="--position"):
        Chain(name, "lost").explore(900)


class TestOracle:
    """Two clients that own the even and the odd pages."""

    def history(self):
        oracle = Oracle([0] * 8 * PAGES, 2)
        one, two = oracle.clients
        for client, page, value in ((one, 0, 3), (two, 1, 4), (one, 2, 5), (one, 0, 6)):
            oracle.answer(client, oracle.submit(client, 8 * page, 8, value, 0))
        return oracle

    def image(self, *values):
        return b"".join(content(8 * page, [value] * 8) for page, value in enumerate(values))

    @pytest.mark.parametrize("values", [(0, 0, 0, 0), (3, 0, 0, 0), (3, 4, 0, 0), (3, 4, 5, 0), (6, 4, 5, 0)])
    def test_prefixes_are_accepted(self, values):
        assert self.history().check_volume(self.image(*values), 0)

    @pytest.mark.parametrize("values", [(6, 0, 5, 0), (0, 4, 0, 0), (0, 0, 5, 0), (6, 4, 0, 0), (3, 0, 5, 0)])
    def test_gaps_are_noticed(self, values):
        with pytest.raises(BrokenPromiseError):
            self.history().check_volume(self.image(*values), 0)

    def test_what_was_acknowledged_has_to_be_there(self):
        oracle = self.history()
        oracle.claim(7, (2, 1), 1, False)
        oracle.check_volume(self.image(3, 4, 0, 0), 6)
        with pytest.raises(BrokenPromiseError):
            oracle.check_volume(self.image(3, 4, 0, 0), 7)
        assert oracle.check_volume(self.image(3, 4, 5, 0), 7) == [(2, 2), (1, 1)]

    def test_steps_that_nobody_sees_may_be_in_the_last_commit(self):
        """Zeros over zeros, after commit 1: a session that begins with it may count them as there."""
        oracle = Oracle([0] * 8 * PAGES, 1)
        (client,) = oracle.clients
        oracle.answer(client, oracle.submit(client, 0, 8, 0, 1))
        prefixes = oracle.check_volume(self.image(0, 0, 0, 0), 0)
        assert prefixes == [(0, 1)]
        oracle = oracle.after_cut(0, prefixes, 1, ())
        oracle.claim(0, oracle.answered(), 1, False)
        oracle.check_past(self.image(0, 0, 0, 0), 1)
        with pytest.raises(BrokenPromiseError, match="generation 1"):
            oracle.check_past(self.image(3, 0, 0, 0), 1)

    def test_what_was_given_up_may_be_older(self):
        """Page 0, of which write 6 is the newest: 3 or nothing may be there instead, and nowhere else."""
        oracle = self.history()
        oracle.give_up([0], 7)
        for values in ((6, 4, 5, 0), (3, 4, 5, 0), (0, 4, 5, 0)):
            assert oracle.check_volume(self.image(*values), 8)[0][1] == 3
        for values in ((0, 4, 0, 0), (6, 4, 0, 0), (0, 0, 5, 0), (5, 4, 5, 0)):
            with pytest.raises(BrokenPromiseError):
                oracle.check_volume(self.image(*values), 8)
        with pytest.raises(BrokenPromiseError):
            oracle.check_volume(self.image(0, 4, 5, 0), 7)

    def test_what_was_written_after_it_was_given_up_has_to_be_there(self):
        oracle = self.history()
        oracle.give_up([0], 7)
        one = oracle.clients[0]
        oracle.answer(one, oracle.submit(one, 0, 8, 7, 0))
        oracle.claim(9, oracle.answered(), 1, False)
        oracle.check_volume(self.image(0, 4, 5, 0), 8)
        oracle.check_volume(self.image(7, 4, 5, 0), 9)
        for value in (0, 3, 6):
            with pytest.raises(BrokenPromiseError):
                oracle.check_volume(self.image(value, 4, 5, 0), 9)

    @pytest.mark.parametrize("found", [0, 6])
    def test_the_next_session_begins_with_what_is_left_of_what_was_given_up(self, found):
        oracle = self.history()
        oracle.give_up([0], 7)
        volume = self.image(found, 4, 5, 0)
        oracle = oracle.after_cut(8, oracle.check_volume(volume, 8), 1, (), volume=volume)
        oracle.check_volume(volume, 0)
        for value in {0, 3, 6} - {found}:
            with pytest.raises(BrokenPromiseError):
                oracle.check_volume(self.image(value, 4, 5, 0), 0)

    @pytest.mark.parametrize(
        "page", [content(8, [3] * 8), content(0, [3] * 7) + bytes(511) + b"x", content(0, [9] * 8)]
    )
    def test_foreign_sectors_are_noticed(self, page):
        with pytest.raises(BrokenPromiseError):
            self.history().check_volume(page + self.image(0, 0, 0, 0)[4096:], 0)


class TestSimulatedDisk:
    def test_what_was_synced_survives_every_crash(self):
        disk = SimulatedDisk(bytes(8192))
        disk.write([memoryview(b"a" * 4096)], 0)
        disk.sync()
        disk.write([memoryview(b"b" * 4096)], 4096)
        images = {bytes(disk.crash(seed, style)) for seed in range(50) for style in STYLES}
        assert all(image[:4096] == b"a" * 4096 for image in images)
        assert all(
            set(image[start : start + 512]) in ({0}, {ord("b")}) for image in images for start in range(4096, 8192, 512)
        )
        assert len(images) > 10

    def test_a_lost_sync_says_nothing(self):
        disk = SimulatedDisk(bytes(4096))
        disk.faults.lose_syncs = True
        disk.write([memoryview(b"a" * 4096)], 0)
        disk.sync()
        assert disk.crash(0, "none") == bytes(4096)

    def test_a_short_write_leaves_its_first_half(self):
        disk = SimulatedDisk(bytes(4096))
        disk.faults.failing.add("write")
        disk.faults.shorten = True
        with pytest.raises(DeviceError):
            disk.write([memoryview(b"a" * 4096)], 0)
        assert disk.content == b"a" * 2048 + bytes(2048)

    def test_a_full_disk_takes_what_it_has_room_for(self):
        disk = SimulatedDisk(bytes(12288))
        disk.faults.space_bytes = 4096
        disk.write([memoryview(b"a" * 4096)], 4096)
        disk.write([memoryview(b"b" * 512)], 4096)
        with pytest.raises(DeviceError, match="space"):
            disk.write([memoryview(b"c" * 512)], 0)

    def test_flipped_bits_are_read_and_not_stored(self):
        disk = SimulatedDisk(bytes(4096))
        disk.faults.flipped_bits.add(8 * 100 + 3)
        page = bytearray(4096)
        disk.read_into(memoryview(page), 0)
        assert page[100] == 8 and not any(disk.content)


class TestRemoteDisk:
    def run(self, function):
        simulation, journal = Simulation(1), Journal()

        def main():
            pause = lambda kind: simulation.sleep(0.01)  # noqa: E731
            disk = RemoteDisk(bytes(8192), "origin", journal, 1, pause, simulation, 1)
            function(simulation, disk)
            return disk

        return simulation.run(main)

    def test_a_write_that_lost_its_connection_is_refused_and_lands_before_it_has_settled(self):
        def lose(simulation, disk):
            def write():
                with pytest.raises(DeviceLostError):
                    disk.write([memoryview(b"a" * 4096)], 0)

            writer = simulation.spawn(write)
            simulation.sleep(0.005)
            disk.lose_connection()
            writer.join()
            assert disk.settles_at == pytest.approx(simulation.now + SETTLE_S, abs=0.01)
            for request in (disk.sync, lambda: disk.write([memoryview(b"b" * 4096)], 0)):
                with pytest.raises(DeviceLostError):
                    request()
            assert not any(disk.content) and len(disk.under_way_at(len(disk._journal))) == 1
            simulation.sleep(SETTLE_S)
            assert disk.content[:4096] == b"a" * 4096 and disk.late == 1
            assert not disk.under_way_at(len(disk._journal))
            disk.write([memoryview(b"b" * 4096)], 0)
            disk.sync()

        assert self.run(lose).durable[:4096] == b"b" * 4096

    def test_a_sync_after_a_loss_is_refused_once(self):
        def lose(simulation, disk):
            disk.write([memoryview(b"a" * 4096)], 0)
            disk.lose_connection()
            assert disk.settles_at == 0.0
            with pytest.raises(DeviceLostError):
                disk.sync()
            disk.sync()

        self.run(lose)


class TestSimulation:
    def test_hours_take_no_time_and_threads_take_turns(self):
        simulation = Simulation(1)
        seen = []

        def sleep(hours):
            simulation.sleep(3600 * hours)
            seen.append(hours)

        def main():
            for thread in [simulation.spawn(sleep, hours) for hours in (3, 1, 2)]:
                thread.join()

        simulation.run(main)
        assert seen == [1, 2, 3]

    def test_a_deadlock_is_noticed(self):
        simulation = Simulation(1)
        with pytest.raises(DeadlockError, match="waits for another"):
            simulation.run(simulation.block)

    def test_an_exception_in_any_thread_is_raised(self):
        simulation = Simulation(1)
        with pytest.raises(ZeroDivisionError):
            simulation.run(lambda: simulation.spawn(lambda: 1 // 0).join())
