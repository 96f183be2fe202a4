# SPDX-License-Identifier: BSD-3-Clause
"""Owner and standby with a disk each: a blank one is filled while the volume is in use, then each destages to its own,
and whoever has the volume has all of it.

WBCACHE_TEST_ROUNDS sets the number of takeovers.
"""

import os
import random
import time

import pytest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.matching import same
from tests.support.modelled_load import ModelledVolume
from tests.support.own_origins import MIB, PEER, garbage, own_origins, volume_at, written_all_the_time
from tests.support.peer_pair import ORIGIN_BYTES, PAGES
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences
from tests.support.stamped_load import load_until

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", "3"))
DELAYS = ("0", "1s", "1h")


def with_holes(size):
    """Data, zeros, and data to the end."""
    third = size // 3
    return garbage(third, 2) + bytes(third) + garbage(size - 2 * third, 3)


def test_a_volume_in_use_is_copied(folder, seed):
    """Its origin, what only the log has, and what clients write meanwhile; the last page is not whole."""
    model = ModelledVolume(with_holes(8 * MIB + 512), seed)
    with own_origins(folder, bytes(model.content), garbage(len(model.content))) as hosts:
        single = hosts.single(0, destage_delay="1h")
        model.run(single.uri, MIB)
        single.stop()
        with hosts.slow_disk(1, "30ms"):
            owner = hosts.owner(0, destage_delay="1s", **PEER)
            standby = hosts.standby(1)
            with written_all_the_time(model, owner.uri) as has_written:
                status = hosts.wait_for_status(1, lambda status: status["filled_blocks"])
                assert not status["consistent"] and status["blocks"] == 2049
                assert hosts.peer_facts(0)["inconsistent"]
                has_written.clear()
                assert has_written.wait(30)
                assert not hosts.status(1)["consistent"]
                hosts.wait_until_filled(1)
                assert hosts.status(1)["filled_blocks"] is None
                hosts.wait_until(0, lambda facts: not facts["inconsistent"])
            model.compare(owner.uri)
            hosts.drain_both(0)
            owner.stop()
            standby.stop()
        hosts.check_disks(model.content)


def test_holes_stay_holes(folder):
    """Where the volume is zero a disk that had something else is zero, and needs no room."""
    content = garbage(64 << 10, 2)
    with own_origins(folder, 16 * MIB, garbage(16 * MIB)) as hosts:
        owner, standby = hosts.owner(0, **PEER), hosts.standby(1)
        with clients.connection(owner.uri) as handle:
            handle.pwrite(content, 8 * MIB)
            handle.flush()
        hosts.wait_until_filled(1)
        hosts.drain_both(0)
        owner.stop()
        standby.stop()
        hosts.check_disks(bytes(8 * MIB) + content + bytes(8 * MIB - len(content)))
        assert hosts.disks[1].stat().st_blocks * 512 < 2 * MIB


def promote(hosts, number, *words):
    return wbcache("promote", hosts.controls[number], *words)


def test_it_cannot_take_over_before_it_is_filled(folder):
    content = garbage(8 * MIB, 5)
    with own_origins(folder, content, garbage(len(content))) as hosts, hosts.slow_disk(1, "200ms") as disk:
        standby, owner = hosts.standby(1), hosts.owner(0, **PEER)
        hosts.wait_for_status(1, lambda status: status["filled_blocks"])
        disk.hold()
        for words in (), ("--force=owner-alive",), ("--force=owner-alive,incomplete",):
            status, said, errors = promote(hosts, 1, *words)
            assert (status, said) == (2, ""), words
            assert "is being filled" in errors and "until wbcache status says that it is consistent" in errors, words
        owner.kill()
        status, said, errors = promote(hosts, 1, "--force=incomplete")
        assert (status, said) == (2, "") and "is being filled" in errors
        assert not hosts.status(1)["consistent"]
        disk.go_on()
        owner = hosts.owner(0, **PEER)
        hosts.wait_until_filled(1)
        hosts.wait_until_told(1, "")
        owner.kill()
        status, said, errors = promote(hosts, 1)
        assert (status, errors) == (0, "") and "took over in epoch 1000" in said
        same(volume_at(standby.uri), content)


def test_an_owner_without_clients_is_alive(folder):
    """Its standby goes on hearing from it, and is not promoted without a word."""
    with own_origins(folder) as hosts:
        hosts.standby(1)
        hosts.owner(0, **PEER | {"peer_timeout": "1s"})
        hosts.wait_until_filled(1)
        hosts.wait_until_told(1, "")
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert hosts.status(1)["owner_silent_seconds"] < 2
            time.sleep(0.1)
        status, said, errors = promote(hosts, 1)
        assert (status, said) == (2, "") and "the owner is connected" in errors


class Takeovers:
    """Each round the owner is killed under load, its standby is promoted, and the former owner becomes the standby of
    that, with its own disk and log."""

    def __init__(self, hosts, choose):
        self.hosts, self._choose = hosts, choose
        self.number = 0
        """The owner's host."""
        self._standby = self._start_standby(1)
        self.owner = hosts.owner(0, **self._settings())

    def _settings(self):
        return {"destage_delay": self._choose.choice(DELAYS), "log_size": "8M", "ring_size": "1M", **PEER} | (
            {"compress": "zstd"} if self._choose.random() < 0.3 else {}
        )

    def _start_standby(self, number):
        return self.hosts.standby(number, peer=self.hosts.uri_of(1 - number), **self._settings())

    def end(self):
        """Kill the owner when its standby may take over; before, perhaps, the standby."""
        other = 1 - self.number
        time.sleep(self._choose.uniform(0.1, 0.6))
        if self._choose.random() < 0.4:
            print("  the standby is killed and started again")
            self._standby.kill()
            self._standby = self._start_standby(other)
        self.hosts.wait_until_in_order(self.number)
        self.owner.kill()

    def take_over(self):
        hosts, former = self.hosts, self.number
        status, _, errors = promote(hosts, 1 - former)
        assert (status, errors) == (0, "")
        self.number, self.owner = 1 - former, self._standby
        self._standby = self._start_standby(former)
        facts = hosts.wait_until(self.number, lambda facts: facts["state"] in ("refused", "up-to-date"))
        if facts["state"] == "refused":
            print("  the former owner has more than the new one")
            assert "wbcache rejoin" in facts["problem"], facts
            status, _, errors = wbcache("rejoin", hosts.controls[former], "--discard-tail")
            assert status == 0, errors
        self.hosts.wait_until_in_order(self.number)
        rules = hosts.rules(self.number)
        print(f"  host {self.number} has taken over; its peer goes on by {rules}")
        assert rules and set(rules) <= {"catch-up", "cut", "discard-tail"}


def test_takeover_and_back(folder, seed):
    choose, blocks = random.Random(seed), blocks_of(PAGES)
    state = [0] * len(blocks)
    with own_origins(folder, ORIGIN_BYTES, garbage(ORIGIN_BYTES)) as hosts:
        takeovers = Takeovers(hosts, choose)
        hosts.wait_until_in_order(0)
        for round_number in range(ROUNDS):
            print(f"round {round_number}: host {takeovers.number} is the owner")
            first = (round_number + 1) << 40
            writes = load_until(takeovers.owner, takeovers.end, f"{seed}/{round_number}", first, PAGES)
            takeovers.take_over()
            with clients.connection(takeovers.owner.uri) as handle:
                found = read_sequences(handle, blocks)
            check_after_crash(state, writes, found)
            state = found
        content = volume_at(takeovers.owner.uri)
        hosts.drain_both(takeovers.number)
        hosts.check_disks(content)


def test_away_for_too_long(folder, seed):
    """The owner's log does not reach back to where the standby's ends: it is filled again by itself."""
    model = ModelledVolume(with_holes(8 * MIB + 512), seed)
    settings = {"log_size": "4M", "ring_size": "1M"}
    with own_origins(folder, bytes(model.content), len(model.content)) as hosts:
        standby = hosts.standby(1, **settings)
        owner = hosts.owner(
            0, flush="peer", peer_timeout="1s", peer_lost="continue", destage_delay="0", low_watermark="0", **settings
        )
        model.run(owner.uri, MIB)
        hosts.wait_until_filled(1)
        assert hosts.rules(0) == ["fill"]
        standby.kill()
        model.run(owner.uri, 12 * MIB)
        standby = hosts.standby(1, **settings)
        hosts.wait_until(0, lambda facts: facts["counts"] and facts["state"] == "up-to-date")
        assert hosts.rules(0) == ["fill", "fill"]
        model.run(owner.uri, MIB)
        hosts.wait_until_filled(1)
        hosts.drain_both(0)
        owner.stop()
        standby.stop()
        hosts.check_disks(model.content)


@pytest.mark.parametrize("is_destaged", [False, True])
def test_the_former_owner_has_what_its_successor_lacks(folder, is_destaged):
    """It went on alone. What only its log has can be given up; if its disk has it, that has to be filled again."""
    settings = {"destage_delay": "0" if is_destaged else "1h", "low_watermark": "0", **PEER, "peer_timeout": "1s"}
    with own_origins(folder, ORIGIN_BYTES, garbage(ORIGIN_BYTES)) as hosts:
        standby, owner = hosts.standby(1), hosts.owner(0, peer_lost="continue", **settings)
        with clients.connection(owner.uri) as handle:
            handle.pwrite(b"a" * 65536, 0)
            handle.flush()
            hosts.wait_until_filled(1)
            hosts.wait_until_up_to_date(0)
            standby.kill()
            for number in range(100):
                handle.pwrite(b"lost" * 1024, number * 8192)
            handle.flush()
        if is_destaged:
            hosts.wait_for_status(0, lambda status: status["cursors"]["destaged"] == status["cursors"]["head"])
        owner.kill()
        disk = hosts.disks[0].read_bytes()
        assert (b"lost" in disk) == is_destaged
        promoted = hosts.standby(1, peer=hosts.uri_of(0), **settings)
        assert promote(hosts, 1, "--force=incomplete")[0] == 0
        former = hosts.standby(0, peer=hosts.uri_of(1), **settings)
        facts = hosts.wait_until(1, lambda facts: "cannot connect" not in (facts["problem"] or "cannot connect"))
        assert facts["state"] != "up-to-date" and not hosts.rules(1)
        assert "wbcache rejoin" in facts["problem"]
        status, told, _ = wbcache("rejoin", hosts.controls[0])
        assert status == 1 and ("copy the origin first" in told) == is_destaged, told
        if is_destaged:
            assert hosts.disks[0].read_bytes() == disk
        assert wbcache("rejoin", hosts.controls[0], "--discard-tail")[0] == 0
        hosts.wait_until_in_order(1)
        assert ("has been filled" if is_destaged else "are cut off") in former.stderr_text()
        assert ("are cut off" in former.stderr_text()) != is_destaged
        content = volume_at(promoted.uri)
        same(content, b"a" * 65536 + bytes(ORIGIN_BYTES - 65536))
        hosts.drain_both(1)
        hosts.check_disks(content)
