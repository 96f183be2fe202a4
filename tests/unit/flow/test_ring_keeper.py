# SPDX-License-Identifier: BSD-3-Clause
"""The memory of a ring with `ring-size=auto`: what is kept is intact, what is not kept takes no memory."""

import ctypes
import os
import random
import threading
from array import array

import pytest

from tests.support.gated_origin import wait_until
from tests.support.invariants import check_line
from tests.support.policies import policy_with
from wbcache_core.device import shared_memory
from wbcache_core.device.shared_memory import SharedFile
from wbcache_core.errors import LogFailedError
from wbcache_core.flow import ring_keeper
from wbcache_core.flow.ring_keeper import RingKeeper
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.ring_size import LEAST_BYTES, SHARE
from wbcache_core.threads import StartTogether
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

SLOTS, VOLATILE, AHEAD, DATA = 256, 32, 16, 100_000


def page_of(lsn):
    return lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)


def resident_bytes(ring):
    """What the kernel has allocated for the ring."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(ring.memory)) >> PAGE_SHIFT
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = array("Q", os.pread(pagemap.fileno(), 8 * ring.pages, 8 * start))
    return sum(entry >> 63 for entry in entries) << PAGE_SHIFT


class Machine:
    """A line, its ring and its keeper, as small as a test wants them, on a machine with so much memory left."""

    def __init__(self, slots=SLOTS, volatile=VOLATILE, ahead=AHEAD, lsn=1):
        self.ring = RingBuffer(slots * PAGE_BYTES)
        self.line = NumberLine(slots, DATA, policy_with(DATA, commit_pages=8), volatile_pages=volatile)
        self.line.head = self.line.committed = self.line.ring_start = lsn
        self.line.writable = True
        self.line.refresh_limits()
        self.may_take = slots
        self.keeper = RingKeeper(self.line, self.ring, self._unused, ahead)

    def _unused(self):
        """As much as lets the ring have `may_take` pages."""
        return self.may_take * SHARE * PAGE_BYTES - self.keeper.held_bytes

    def write(self, count):
        """So many pages, as far as the line lets writers go; committed to the log when it does not."""
        for _ in range(count):
            with self.line.lock:
                if self.line.head == self.line.limit:
                    self.line.note_committed(self.line.head, 0)
                self.ring.put(self.line.head, 0, page_of(self.line.head))
                self.line.head += 1

    def commit(self):
        with self.line.lock:
            self.line.note_committed(self.line.head, 0)

    def check(self):
        """Everything that the line says is in the ring is there."""
        with self.line.lock:
            check_line(self.line)
            for lsn in range(self.line.ring_floor, self.line.head):
                assert self.ring.page(lsn) == page_of(lsn), f"LSN {lsn}"


@pytest.fixture
def without_least(monkeypatch):
    """Rings of a test are smaller than any real one."""
    monkeypatch.setattr(ring_keeper, "share", lambda unused: max(unused, 0) // SHARE)


def test_as_much_as_it_may(without_least):
    machine = Machine()
    for _ in range(60):
        machine.write(20)
        machine.keeper.look()
        machine.check()
    assert machine.line.head - machine.line.ring_floor == SLOTS
    assert machine.keeper.held_bytes == SLOTS * PAGE_BYTES


def test_nothing_before_the_first_write(without_least):
    machine = Machine()
    assert machine.keeper.held_bytes == resident_bytes(machine.ring) == 0


@pytest.mark.parametrize("may_take", [0, 1, VOLATILE + AHEAD, 100, SLOTS - 1])
def test_less_when_memory_is_short(without_least, may_take):
    machine = Machine()
    machine.write(3 * SLOTS)
    machine.may_take = may_take
    for _ in range(40):
        machine.keeper.look()
        machine.check()
        assert machine.line.ring_pages == max(may_take - AHEAD, VOLATILE)
        assert machine.keeper.held_bytes <= max(may_take, VOLATILE + AHEAD) * PAGE_BYTES
        machine.write(random.Random(may_take).randrange(2 * SLOTS))


def test_what_was_given_up_does_not_come_back(without_least):
    machine = Machine()
    machine.write(2 * SLOTS)
    machine.may_take = 50
    machine.keeper.look()
    floor = machine.line.ring_floor
    machine.may_take = SLOTS
    machine.keeper.look()
    assert machine.line.ring_floor == floor
    machine.write(10)
    machine.check()
    machine.write(SLOTS)
    machine.keeper.look()
    machine.check()
    assert machine.line.head - machine.line.ring_floor == SLOTS


def test_volatile_pages_are_never_given_up(without_least):
    machine = Machine()
    machine.write(SLOTS)
    machine.commit()
    machine.write(VOLATILE)
    machine.may_take = 0
    machine.keeper.look()
    machine.check()
    assert machine.line.head - machine.line.ring_floor == VOLATILE == machine.line.head - machine.line.committed


@pytest.mark.parametrize("seed", range(20))
def test_any_order(without_least, seed):
    """Writers between any two steps of the keeper, who lets them in between two pieces of work."""
    chance = random.Random(seed)
    machine = Machine(lsn=chance.randrange(1, 5 * SLOTS))

    def others():
        machine.write(chance.choice((0, 0, 1, 7, 64, SLOTS, 3 * SLOTS)))
        machine.check()

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(ring_keeper, "_PIECE_PAGES", chance.choice((1, 16, 100)))
        context.setattr(ring_keeper, "let_requests_run", others)
        for _ in range(60):
            machine.may_take = chance.randrange(SLOTS + 50)
            machine.keeper.look()
            others()


def test_memory_goes_back_to_the_kernel():
    """With the real sizes: two thirds of a ring of 192 MiB."""
    machine = Machine(192 * MIB >> PAGE_SHIFT, LEAST_BYTES >> PAGE_SHIFT, ring_keeper.AHEAD_PAGES)
    machine.ring.populate()
    machine.write(machine.ring.pages + 1000)
    machine.keeper.look()
    assert machine.keeper.held_bytes == 192 * MIB
    assert resident_bytes(machine.ring) > 180 * MIB
    machine.may_take = 0
    machine.keeper.look()
    machine.check()
    assert machine.keeper.held_bytes == LEAST_BYTES + ring_keeper.AHEAD_PAGES * PAGE_BYTES
    # Huge pages are given back only as a whole.
    assert resident_bytes(machine.ring) <= machine.keeper.held_bytes + 4 * MIB


def test_shared_memory_goes_back_too():
    machine = Machine(96 * MIB >> PAGE_SHIFT, 8 * MIB >> PAGE_SHIFT, 4 * MIB >> PAGE_SHIFT)
    layout = machine.ring.layout
    file = SharedFile.create(shared_memory.path_of(bytes(16)), layout.file_bytes, room=MIB)
    shared = RingBuffer.over(layout, file.map(0, layout.journal_bytes), file.map(layout.journal_bytes, 96 * MIB))
    machine.ring.share(shared.journal, shared.mapping)
    machine.write(machine.ring.pages + 1000)
    machine.keeper.look()
    assert os.stat(file.path).st_blocks * 512 > 95 * MIB
    machine.may_take = 0
    machine.keeper.look()
    machine.check()
    assert os.stat(file.path).st_blocks * 512 <= LEAST_BYTES + layout.journal_bytes
    assert os.stat(file.path).st_blocks * 512 <= machine.keeper.held_bytes + layout.journal_bytes
    file.remove()


def test_the_slots_of_a_dead_server_are_given_back(without_least):
    machine = Machine(lsn=5 * SLOTS + 7)
    machine.ring.populate()
    machine.keeper = RingKeeper(machine.line, machine.ring, machine._unused, AHEAD, is_new=False)
    assert machine.keeper.held_bytes == SLOTS * PAGE_BYTES
    machine.write(5)
    machine.keeper.look()
    machine.check()
    assert resident_bytes(machine.ring) <= machine.keeper.held_bytes == (5 + AHEAD) * PAGE_BYTES


def test_memory_is_there_before_the_writers():
    machine = Machine(64 * MIB >> PAGE_SHIFT, 8 * MIB >> PAGE_SHIFT, 16 * MIB >> PAGE_SHIFT)
    for mib, ahead in ((1, 4), (1, 8), (4, 16), (10, 16), (10, 16)):
        machine.write(mib * MIB >> PAGE_SHIFT)
        machine.keeper.look()
        written = machine.line.head - 1 << PAGE_SHIFT
        assert machine.keeper.held_bytes == written + ahead * MIB <= resident_bytes(machine.ring)


def test_the_thread_looks_when_writers_come_near_the_end(without_least, monkeypatch):
    machine = Machine()
    looks = []
    monkeypatch.setattr(machine.keeper, "_unused", lambda: looks.append(machine.line.head) or 2**40)
    together = StartTogether()
    machine.keeper.start(together)
    together.run()
    try:
        # Nothing to do before the first commit.
        threading.Event().wait(0.05)
        assert not looks
        machine.write(AHEAD)
        machine.commit()
        wait_until(lambda: machine.keeper.high == machine.line.head + AHEAD)
        machine.write(AHEAD // 2)
        machine.commit()
        threading.Event().wait(0.05)
        assert len(looks) == 1
        machine.write(2)
        machine.commit()
        wait_until(lambda: len(looks) == 2 and machine.keeper.high == machine.line.head + AHEAD)
    finally:
        machine.line.stop(drain=False)
        machine.keeper.join()


def test_a_large_ring_looks_without_being_asked(without_least, monkeypatch):
    monkeypatch.setattr(ring_keeper, "LOOK_SECONDS", 0.02)
    machine = Machine()
    machine.write(SLOTS)
    machine.keeper.look()
    together = StartTogether()
    machine.keeper.start(together)
    together.run()
    try:
        machine.may_take = 0
        wait_until(lambda: machine.keeper.held_bytes == (VOLATILE + AHEAD) * PAGE_BYTES)
        machine.check()
    finally:
        machine.line.stop(drain=False)
        machine.keeper.join()


def test_rings_of_many_servers_fit_one_machine(without_least):
    """Thirty-two that all write, and then one that has the machine to itself: as documented."""
    machines = [Machine() for _ in range(32)]
    memory = 40 * SLOTS * PAGE_BYTES

    def unused():
        return memory - sum(machine.keeper.held_bytes for machine in machines)

    for machine in machines:
        machine.keeper._unused = unused
    for _ in range(40):
        for machine in machines:
            machine.write(37)
            machine.keeper.look()
            machine.check()
    assert unused() >= memory * 15 // (15 + len(machines)) - len(machines) * (AHEAD + VOLATILE) * PAGE_BYTES
    assert min(machine.keeper.held_bytes for machine in machines) > 1.5 * (VOLATILE + AHEAD) * PAGE_BYTES

    del machines[1:]
    for _ in range(40):
        machines[0].write(37)
        machines[0].keeper.look()
    machines[0].check()
    assert machines[0].keeper.held_bytes == SLOTS * PAGE_BYTES


def test_nothing_is_given_back_when_the_log_has_failed(without_least):
    """Perhaps the log cannot be read any more."""
    machine = Machine()
    machine.write(SLOTS)
    machine.keeper.look()
    floor = machine.line.ring_floor
    machine.may_take = VOLATILE
    machine.line.log_error = LogFailedError("as the test wants it")
    machine.keeper.look()
    assert machine.line.ring_floor == floor
    machine.check()
    machine.line.log_error = None
    machine.keeper.look()
    assert machine.line.ring_floor > floor
