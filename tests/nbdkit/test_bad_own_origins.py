# SPDX-License-Identifier: BSD-3-Clause
"""Hosts with a disk each that do not fit together, or whose disks are not what they were: each is said, and refused
before anything is lost."""

import os

import pytest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.faulty_devices import faulty_device
from tests.support.own_origins import LOG_BYTES, MIB, PEER, garbage, own_origins, volume_at
from tests.support.peer_pair import ORIGIN_BYTES
from tests.support.refusal import assert_refused

CONTENT = garbage(2 * MIB, 6)


def refused(hosts):
    """What the owner says why it does not go on with its standby."""
    return hosts.wait_until(0, lambda facts: facts["state"] == "refused")["problem"]


def words(hosts, number, **parameters):
    """For a standby of that host, started by hand."""
    settings = {"role": "standby", "origins": "own", "origin": hosts.disks[number], "log": hosts.logs[number]}
    return [f"{name}={value}" for name, value in (settings | parameters).items() if value]


def standby_that_was_filled(hosts, **parameters):
    """Leaves the disk and the log of one that was stopped; its owner runs on, and is returned."""
    standby, owner = hosts.standby(1, **parameters), hosts.owner(0, **PEER, **parameters)
    with clients.connection(owner.uri) as handle:
        handle.pwrite(b"x" * 8192, 4096)
        handle.flush()
    if not parameters:
        hosts.wait_until_filled(1)
        hosts.drain_both(0)
    hosts.wait_until_up_to_date(0)
    standby.stop()
    return owner


@pytest.mark.parametrize("here", ["own", "shared"])
@pytest.mark.parametrize("is_blank", [True, False])
def test_only_one_has_an_origin_of_its_own(folder, here, is_blank):
    there = {"own": "shared", "shared": "own"}[here]
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        if not is_blank:
            standby_that_was_filled(hosts, **({"origins": there} if there == "shared" else {})).stop()
        before = hosts.disks[1].read_bytes()
        standby = hosts.standby(1, origins=there)
        owner = hosts.owner(0, origins=here, **PEER | {"flush": "log", "fua": "log"})
        assert f"this server has origins={here}, and peer " in (said := refused(hosts)), said
        assert said.endswith(f"origins={there}: give both the same")
        with clients.connection(owner.uri) as handle:
            assert handle.pread(4096, 65536) == CONTENT[65536 : 65536 + 4096]
        standby.stop()
        assert hosts.disks[1].read_bytes() == before


@pytest.mark.parametrize("size", [len(CONTENT) - 512, len(CONTENT) + 512, len(CONTENT) + 65536])
def test_a_disk_of_another_size(folder, size):
    other = garbage(size)
    with own_origins(folder, CONTENT, other) as hosts:
        standby = hosts.standby(1)
        hosts.owner(0, **PEER)
        facts = hosts.wait_until(0, lambda facts: facts["state"] == "refused")
        said = f"has {size} bytes, and the one here {len(CONTENT)}: they have to be of the same size"
        assert said in facts["problem"]
        assert not hosts.status(1)["consistent"]
        standby.stop()
        assert hosts.disks[1].read_bytes() == other


def test_a_standby_needs_an_origin(folder):
    with own_origins(folder) as hosts:
        assert_refused(folder, words(hosts, 1, origin=""), ["with origins=own a standby has an origin, too"])
        assert_refused(folder, words(hosts, 1, origin=hosts.folder / "none"), ["none"])
        hosts.disks[1].write_bytes(b"")
        assert_refused(folder, words(hosts, 1), ["has a size of 0 bytes; there is nothing to fill"])
        assert_refused(folder, words(hosts, 1, origins="both"), ["'both' is not one of shared, own"])


def test_the_log_of_a_standby_with_a_disk(folder):
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        standby_that_was_filled(hosts).stop()
        says = ["is of a standby with an origin of its own", "origins=own: add that, and origin="]
        assert_refused(folder, words(hosts, 1, origins="shared"), says)
        assert_refused(folder, words(hosts, 1, origins="shared", origin=""), says)


def test_the_log_of_a_standby_on_a_shared_origin(folder):
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        standby_that_was_filled(hosts, origins="shared").stop()
        says = ["is of a standby on a shared origin", "start it with origins=shared", "add force=discard-log"]
        assert_refused(folder, words(hosts, 1), says)
        # As it says:
        hosts.standby(1, force="discard-log")
        owner = hosts.owner(0, **PEER)
        hosts.wait_until_filled(1)
        content = volume_at(owner.uri)
        assert content == CONTENT[:4096] + b"x" * 8192 + CONTENT[12288:]
        hosts.drain_both(0)
        hosts.check_disks(content)


def test_the_disk_was_changed_while_its_standby_was_down(folder):
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        owner = standby_that_was_filled(hosts)
        hosts.disks[1].write_bytes(garbage(len(CONTENT), 7))
        owner.stop()
        says = ["has changed since this standby last wrote to it", "to have it filled again, add force=discard-log"]
        assert_refused(folder, words(hosts, 1), says)
        owner = hosts.owner(0, **PEER)
        hosts.standby(1, force="discard-log")
        hosts.wait_until_filled(1)
        assert hosts.rules(0) == ["fill"]
        hosts.drain_both(0)
        hosts.check_disks(volume_at(owner.uri))


def test_what_is_not_filled_is_no_volume(folder):
    """Nobody can start an owner with the log of a standby that was being filled."""
    with own_origins(folder, CONTENT * 4, garbage(4 * len(CONTENT))) as hosts, hosts.slow_disk(1, "250ms"):
        standby, owner = hosts.standby(1), hosts.owner(0, **PEER)
        hosts.wait_for_status(1, lambda status: status["filled_blocks"])
        owner.kill()
        standby.kill()
        for origins, force in ("own", ""), ("own", "take-over"), ("shared", "take-over,origin-changed,other-log"):
            started = words(hosts, 1, role="owner", origins=origins, force=force)
            assert_refused(folder, started, ["standby whose origin was being filled", "not the volume yet"])
        owner, standby = hosts.owner(0, **PEER), hosts.standby(1)
        hosts.wait_until_filled(1)
        hosts.drain_both(0)
        hosts.check_disks(CONTENT * 4)


def test_the_standbys_disk_fails(folder):
    """Its log takes everything all the same, and is destaged when the disk is well."""
    with own_origins(folder) as hosts, faulty_device(folder, "disk", ORIGIN_BYTES, garbage(ORIGIN_BYTES)) as disk:
        hosts.origins[1], hosts.disks[1] = disk.uri, disk.backing
        standby, owner = hosts.standby(1), hosts.owner(0, **PEER, destage_delay="0", low_watermark="0")
        hosts.wait_until_filled(1)
        disk.fail("write")
        with clients.connection(owner.uri) as handle:
            for number in range(100):
                handle.pwrite(number.to_bytes(4, "big") * 1024, number * 4096)
                handle.flush()
            status = hosts.wait_for_status(1, lambda status: status["errors"]["origin"])
            assert status["errors"]["origin"].startswith(f"cannot write to origin '{disk.uri}': Input/output error")
            handle.pwrite(b"y" * 4096, 200 * 4096)
            handle.flush()
            facts = hosts.wait_until(0, lambda facts: not facts["behind"])
            assert facts["counts"] and facts["problem"] is None and facts["state"] == "up-to-date"
        status = hosts.status(1)
        assert status["consistent"] and status["cursors"]["destaged"] < status["cursors"]["committed"]
        disk.heal()
        hosts.drain_both(0)
        assert hosts.status(1)["errors"]["origin"] is None
        hosts.check_disks(volume_at(owner.uri))
        assert "destaging of this standby is stalled" in standby.stderr_text()


def test_a_standby_whose_disk_fails_does_not_hold_up_the_owner_for_good(folder):
    """With peer-lost=continue. When the disk is well, it counts again."""
    settings = PEER | {"peer_timeout": "1s", "peer_lost": "continue", "destage_delay": "0", "low_watermark": "0"}
    with own_origins(folder) as hosts, faulty_device(folder, "disk", ORIGIN_BYTES, garbage(ORIGIN_BYTES)) as disk:
        hosts.origins[1], hosts.disks[1] = disk.uri, disk.backing
        hosts.standby(1)
        owner = hosts.owner(0, **settings)
        hosts.wait_until_filled(1)
        disk.fail("write")
        with clients.connection(owner.uri) as handle:
            for number in range(3 * LOG_BYTES // ORIGIN_BYTES + 1):
                handle.pwrite((number.to_bytes(4, "big") * ORIGIN_BYTES)[:ORIGIN_BYTES], 0)
                handle.flush()
            assert not hosts.wait_until(0, lambda facts: not facts["counts"])["counts"]
            disk.heal()
            hosts.wait_until(0, lambda facts: facts["counts"] and facts["state"] == "up-to-date")
        assert "its log is full, and its origin has been failing for 1 s" in owner.stderr_text()
        hosts.drain_both(0)
        hosts.check_disks(volume_at(owner.uri))


def test_the_standbys_disk_fails_while_it_is_filled(folder):
    with own_origins(folder, CONTENT, 512) as hosts:
        with faulty_device(folder, "disk", len(CONTENT), garbage(len(CONTENT))) as disk:
            hosts.origins[1], hosts.disks[1] = disk.uri, disk.backing
            disk.fail("write")
            hosts.standby(1)
            owner = hosts.owner(0, **PEER)
            with clients.connection(owner.uri) as handle:
                handle.pwrite(b"y" * 4096, 4096)
                handle.flush()
            hosts.wait_until(0, lambda _: "filling the origin of peer" in owner.stderr_text())
            assert "pauses" in owner.stderr_text() and not hosts.status(1)["consistent"]
            disk.heal()
            hosts.wait_until_filled(1)
            hosts.drain_both(0)
            hosts.check_disks(CONTENT[:4096] + b"y" * 4096 + CONTENT[8192:])


@pytest.mark.parametrize("place", [0, len(CONTENT) + MIB])
def test_both_disks_have_grown(folder, place):
    """What is new of either is what happens to be there: that of the owner is the volume."""
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        standby_that_was_filled(hosts).stop()
        new = garbage(MIB, 8) + bytes(MIB)
        for disk, more in zip(hosts.disks, (new, garbage(2 * MIB, 9)), strict=True):
            with open(disk, "ab") as file:
                file.write(more)
        hosts.standby(1)
        owner = hosts.owner(0, **PEER | {"flush": "log", "fua": "log"})
        with clients.connection(owner.uri) as handle:
            handle.pwrite(b"y" * 4096, place)
            handle.flush()
        hosts.wait_until_in_order(0)
        content = volume_at(owner.uri)
        assert len(content) == len(CONTENT) + len(new)
        hosts.drain_both(0)
        hosts.check_disks(content)


def test_a_disk_of_the_owner_that_was_written_from_outside(folder):
    """The other disks have not changed: the owner does not go on with it unless that is said."""
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        owner = standby_that_was_filled(hosts)
        owner.stop()
        with open(hosts.disks[0], "r+b") as disk:
            disk.write(b"\x5a" * MIB)
        before = [hosts.disks[0].read_bytes(), hosts.logs[0].read_bytes()]
        own = ["origins=own", f"origin={hosts.disks[0]}", f"log={hosts.logs[0]}"]
        assert_refused(folder, own, "and the origins of the other hosts have not")
        assert [hosts.disks[0].read_bytes(), hosts.logs[0].read_bytes()] == before
        standby = hosts.standby(1, force="discard-log")
        owner = hosts.owner(0, force="origin-changed", **PEER)
        hosts.wait_until_in_order(0)
        hosts.drain_both(0)
        owner.stop()
        standby.stop()
        hosts.check_disks(before[0])


def test_a_volume_with_a_disk_at_each_host_does_not_become_smaller(folder):
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        standby_that_was_filled(hosts).stop()
        before = hosts.logs[0].read_bytes()
        os.truncate(hosts.disks[0], MIB)
        status, said, errors = wbcache("resize", "--yes", hosts.logs[0], hosts.disks[0])
        assert (status, said) == (1, "") and "each host of this volume has one of its own" in errors
        assert hosts.logs[0].read_bytes() == before


def test_a_disk_that_was_written_from_outside_is_not_accepted_by_making_it_larger(folder):
    """What it has from then on would be taken for what the cache left."""
    with own_origins(folder, CONTENT, garbage(len(CONTENT))) as hosts:
        standby_that_was_filled(hosts).stop()
        before = hosts.logs[0].read_bytes()
        with open(hosts.disks[0], "r+b") as disk:
            disk.write(b"\x5a" * MIB)
            disk.truncate(4 * MIB)
        status, said, errors = wbcache("resize", "--yes", hosts.logs[0], hosts.disks[0])
        assert (status, said) == (1, "") and "and the origins of the other hosts have not" in errors
        assert hosts.logs[0].read_bytes() == before
