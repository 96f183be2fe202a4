# SPDX-License-Identifier: BSD-3-Clause
"""A standby with a disk of its own that was away for so long that no log reaches back to it: it is given what may have
changed, and nothing else, also by a host that was itself a standby then."""

import random

import pytest

from tests.support import clients
from tests.support.control import wbcache
from tests.support.own_origins import MIB, PEER, garbage, own_origins
from wbcache_core.units import KIB

SIZE = 64 * MIB
SMALL_LOG = {"log_size": "4M", "ring_size": "1M"}
AT_ONCE = {"destage_delay": "0", "low_watermark": "0"}
SETTINGS = SMALL_LOG | PEER | AT_ONCE | {"peer_timeout": "1s", "peer_lost": "continue"}


class Volume:
    """What clients have written; writes() goes on until it is more than a log holds."""

    def __init__(self, content, seed):
        self.content = bytearray(content)
        self._rng = random.Random(seed)

    def writes(self, uri, places, total=12 * MIB):
        """So many bytes, each write within one of these ranges, which are all written to."""
        with clients.connection(uri) as handle:
            for number in range(total // (128 * KIB)):
                place = places[number % len(places)]
                length = self._rng.randrange(1, 256) * 512
                offset = self._rng.randrange(place.start, place.stop - length)
                data = self._rng.randbytes(length)
                handle.pwrite(data, offset)
                self.content[offset : offset + length] = data
                if number % 8 == 0:
                    handle.flush()
            handle.flush()

    def trims(self, uri, offset, length):
        with clients.connection(uri) as handle:
            handle.trim(length, offset)
            handle.flush()
        self.content[offset : offset + length] = bytes(length)


def mib(first, end):
    return range(first * MIB, end * MIB)


def check_what_was_copied(disk, allowed, least):
    """All writes were in regions that had changed, and at least so many bytes."""
    written = disk.written()
    outside = [(at, length) for at, length in written if not any(one.start <= at < one.stop for one in allowed)]
    assert not outside, f"written where nothing had changed: {outside[:5]}"
    assert sum(length for _, length in written) >= least


def wait_until_filled(hosts, owner, *numbers):
    """And until they count."""
    for peer, number in enumerate(numbers):
        hosts.wait_until_filled(number)
        hosts.wait_until(owner, lambda facts: facts["state"] == "up-to-date" and facts["counts"], peer=peer)


def wait_until_destaged(hosts, owner, *numbers):
    """And until the owner knows."""
    assert wbcache("drain", "--wait", hosts.controls[owner])[0] == 0
    head = hosts.status(owner)["cursors"]["head"]
    for peer in range(len(numbers)):
        hosts.wait_until(owner, lambda facts: facts["destaged"] == head, peer=peer)


def wait_until_left_out(hosts, number, peer=0):
    hosts.wait_until(number, lambda facts: not facts["counts"], peer=peer)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["same owner", "the owner was restarted"])
def test_only_what_has_changed_is_copied(folder, seed, is_restarted):
    volume, places = Volume(garbage(SIZE), seed), [mib(8, 10), mib(40, 41)]
    with own_origins(folder, bytes(volume.content), garbage(SIZE, 2)) as hosts, hosts.slow_disk(1, "0") as disk:
        standby, owner = hosts.standby(1, **SMALL_LOG), hosts.owner(0, **SETTINGS)
        wait_until_filled(hosts, 0, 1)
        volume.writes(owner.uri, [mib(20, 30)])
        wait_until_destaged(hosts, 0, 1)
        # What was before need not be noted any more.
        volume.writes(owner.uri, places, total=MIB)
        hosts.drain_both(0)
        standby.stop()
        wait_until_left_out(hosts, 0)
        volume.writes(owner.uri, places)
        volume.trims(owner.uri, 50 * MIB, MIB)
        if is_restarted:
            owner.kill()
            owner = hosts.owner(0, **SETTINGS)
            volume.writes(owner.uri, places, total=MIB)
        disk.forget()
        standby = hosts.standby(1, **SMALL_LOG)
        wait_until_filled(hosts, 0, 1)
        assert hosts.rules(0)[-1] == "fill"
        hosts.drain_both(0)
        check_what_was_copied(disk, [*places, mib(50, 51)], least=2 * MIB)
        owner.stop()
        standby.stop()
        hosts.check_disks(volume.content)


def test_a_host_that_takes_over_knows_it_too(folder, seed):
    """Host 2 is away, host 0 dies, and host 1, which has noted what its own batches wrote, has it filled."""
    volume, places = Volume(garbage(SIZE), seed), [mib(3, 5)]
    disks = [bytes(volume.content), garbage(SIZE, 2), garbage(SIZE, 3)]
    with own_origins(folder, *disks) as hosts, hosts.slow_disk(2, "0") as disk:
        standbys = [hosts.standby(number, **SMALL_LOG) for number in (1, 2)]
        owner = hosts.owner(0, **SETTINGS)
        wait_until_filled(hosts, 0, 1, 2)
        volume.writes(owner.uri, places, total=2 * MIB)
        wait_until_destaged(hosts, 0, 1, 2)
        volume.writes(owner.uri, places, total=MIB)
        standbys[1].stop()
        wait_until_left_out(hosts, 0, peer=1)
        volume.writes(owner.uri, places)
        hosts.wait_until(0, lambda facts: facts["state"] == "up-to-date" and not facts["behind"], peer=0)
        owner.kill()
        standbys[0].stop()
        peers = [hosts.uri_of(0), hosts.uri_of(2)]
        standbys[0] = hosts.standby(1, peer=peers, **SETTINGS)
        status, _, errors = wbcache("promote", hosts.controls[1], "--force=incomplete")
        assert status == 0, errors
        volume.writes(standbys[0].uri, places, total=6 * MIB)
        disk.forget()
        standbys[1] = hosts.standby(2, **SMALL_LOG)
        hosts.wait_until(1, lambda facts: facts["state"] == "up-to-date" and facts["counts"], peer=1)
        assert hosts.rules(1)[-1] == "fill"
        head = hosts.status(1)["cursors"]["head"]
        assert wbcache("drain", "--wait", hosts.controls[1])[0] == 0
        hosts.wait_for_status(2, lambda status: status["cursors"]["destaged"] == head)
        check_what_was_copied(disk, [*places], least=MIB)
        for server in standbys:
            server.stop()
        for one in hosts.disks[1:]:
            assert one.read_bytes() == volume.content


def test_without_the_map_all_is_copied(folder, seed):
    """It is damaged in the owner's log."""
    volume, places = Volume(garbage(8 * MIB), seed), [mib(1, 2)]
    with own_origins(folder, bytes(volume.content), garbage(8 * MIB, 2)) as hosts, hosts.slow_disk(1, "0") as disk:
        standby, owner = hosts.standby(1, **SMALL_LOG), hosts.owner(0, **SETTINGS)
        wait_until_filled(hosts, 0, 1)
        standby.stop()
        wait_until_left_out(hosts, 0)
        volume.writes(owner.uri, places)
        owner.kill()
        with open(hosts.logs[0], "r+b") as log:
            for offset in (4096, 36864):
                log.seek(offset + 4096)
                log.write(b"\x55")
        disk.forget()
        owner, standby = hosts.owner(0, **SETTINGS), hosts.standby(1, **SMALL_LOG)
        wait_until_filled(hosts, 0, 1)
        hosts.drain_both(0)
        assert sum(length for _, length in disk.written()) >= 8 * MIB
        owner.stop()
        standby.stop()
        hosts.check_disks(volume.content)
