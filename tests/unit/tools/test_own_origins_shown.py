# SPDX-License-Identifier: BSD-3-Clause
"""What is said of origins of their own: by `wbcache status`, `nodes` and `info`, and by metrics."""

import dataclasses
import time

import pytest

from tests.support.shipped_log import disk
from tests.support.shipped_log import superblock as shipped_superblock
from wbcache_core.format import fill_piece, superblock
from wbcache_core.format.epoch import NO_EPOCH, Epoch, Switch
from wbcache_core.format.fill_piece import FillPiece
from wbcache_core.format.standby_state import blank
from wbcache_core.format.superblock import SAMPLE_COUNT, Superblock
from wbcache_core.log.recovery import line_of
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.events import Events
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.server.config import Config
from wbcache_core.server.metrics import standby_exposition
from wbcache_core.server.standby import Standby
from wbcache_core.shipping.peer import PeerRules
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.threads import StartTogether
from wbcache_core.tools.info import run_info
from wbcache_core.tools.nodes import _rows
from wbcache_core.tools.status import _lines
from wbcache_core.units import MIB, PAGE_BYTES, format_share

VOLUME, EPOCH = bytes(range(16)), Epoch(1, 0x77)
LOG_BYTES, ORIGIN_BYTES = 16 * MIB, MIB
BLOCKS = ORIGIN_BYTES // PAGE_BYTES
PATIENCE_S = 30


@pytest.fixture
def standby(tmp_path):
    """A blank one, with an origin of its own."""
    origin = tmp_path / "origin"
    origin.write_bytes(bytes([7]) * ORIGIN_BYTES)
    one = Standby(
        Config.from_pairs([
            ("role", "standby"), ("origins", "own"), ("origin", str(origin)), ("log", str(tmp_path / "log")),
            ("log-size", str(LOG_BYTES)),
        ])
    )  # fmt: skip
    yield one
    one.stop()


def begin(standby):
    """An owner connects, and sends its first superblock; returns the connection."""
    export = standby.open_export("log", is_exposed=False)
    export.read_into(bytearray(PAGE_BYTES), 0)
    first = Superblock(
        VOLUME, 1, LOG_BYTES, ORIGIN_BYTES, "/a", (0,) * SAMPLE_COUNT, 1, 0, 1, 0, 0, 0, 0, 1, 1, time.time_ns(),
        epoch=EPOCH, history=(Switch(EPOCH, 1, 0),), has_own_origins=True,
    )  # fmt: skip
    export.write(superblock.encode(first), 0, fua=True)
    return export


def copy(export, block, count):
    export.write(fill_piece.encode(FillPiece(VOLUME, EPOCH, block, count, 1, 1, 0, True)), 0)


def said(facts):
    """The lines of `wbcache status`."""
    return dict(_lines(facts))


def row(facts):
    (found,) = _rows("b.control", facts)
    return found


def values(text):
    return {
        line.split("{")[0].removeprefix("wbcache_standby_"): float(line.split()[-1])
        for line in text.decode().splitlines()
        if line.startswith("wbcache_standby_")
    }


def wait_until(is_so):
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_blank_standby_is_to_be_filled(standby):
    facts = standby.status()
    assert said(facts)["origin"] == f"'{standby.status()['origin']}', to be filled"
    assert (facts["filled_blocks"], facts["blocks"], facts["consistent"]) == (None, BLOCKS, False)
    assert values(standby_exposition(facts))["inconsistent"] == 1


def test_a_standby_while_it_is_filled(standby, tmp_path, capsys):
    copy(begin(standby), 0, BLOCKS // 4 + 1)
    facts = standby.status()
    assert said(facts)["origin"] == f"'{facts['origin']}', being filled, 25% copied"
    assert said(facts)["takeover"] == "not before its origin has been filled"
    assert (row(facts)["state"], row(facts)["takeover"]) == ("standby, being filled", "no")
    numbers = values(standby.metrics())
    assert (numbers["inconsistent"], numbers["copied_bytes"]) == (1, (BLOCKS // 4 + 1) * PAGE_BYTES)
    # What was copied is durable a second later.
    wait_until(lambda: standby._log.superblock.fill.filled)
    standby.stop()
    assert run_info(str(tmp_path / "log"), as_json=False) == 0
    output = capsys.readouterr().out
    assert "each node has an origin of its own" in output
    assert "it and the origin are not the volume: the origin is being filled, 25% copied" in output
    assert "is not the volume of any moment" in output and "as it was before the cache" not in output


def test_a_standby_that_has_been_filled(standby, tmp_path, capsys):
    copy(begin(standby), 0, BLOCKS)
    wait_until(lambda: standby.status()["consistent"])
    facts = standby.status()
    assert said(facts)["origin"] == f"'{facts['origin']}', consistent"
    assert "the owner has not told this standby" in said(facts)["takeover"]
    assert row(facts)["state"] == "standby"
    numbers = values(standby.metrics())
    assert (numbers["inconsistent"], numbers["copied_bytes"], numbers["origin_failing"]) == (0, 0, 0)
    assert numbers["destaged_lsn"] == facts["cursors"]["destaged"] == 1
    standby.stop()
    assert run_info(str(tmp_path / "log"), as_json=False) == 0
    output = capsys.readouterr().out
    assert "each node has an origin of its own" in output and "copied" not in output


def test_why_a_standby_does_not_destage(standby):
    begin(standby)
    facts = standby.status()
    facts["errors"]["origin"] = "broken"
    assert said(facts)["origin fails"] == "broken"
    assert values(standby_exposition(facts))["origin_failing"] == 1


def test_a_standby_on_a_shared_origin_says_nothing_of_it(tmp_path):
    standby = Standby(Config.from_pairs([("role", "standby"), ("log", str(tmp_path / "l")), ("log-size", "16M")]))
    try:
        assert "origin" not in said(standby.status()) and "inconsistent" not in values(standby.metrics())
    finally:
        standby.stop()


PEER = {
    "peer": "nbd://b/log", "state": "catching-up", "counts": True, "received": 3, "committed": 3, "destaged": 3,
    "behind": 0, "silent_seconds": 0.0, "complete": True, "inconsistent": True, "problem": None, "copied_blocks": 2,
    "blocks": 3,
}  # fmt: skip


def owner_says(**changes):
    facts = {
        "version": "1", "pid": 1, "state": "writable", "origin": "/a", "log": "/l", "volume": "v",
        "cursors": {"committed": 3}, "epoch": {"number": 1}, "drain": {"state": "off"}, "window": None,
        "bytes": dict.fromkeys(("dirty", "volatile", "log", "ring", "ring_memory"), 0),
        "rates": {"written_bytes_per_second": 0, "destaged_bytes_per_second": 0, "seconds": 2},
        "throttling": {"active": False, "waiting_for_log_space": 0}, "snapshots": [], "tags": [],
        "origin_settles": 0, "bad_blocks": {"bytes": 0, "ranges": []}, "errors": {"log": None, "origin": None},
        "peers": [PEER | changes],
    }  # fmt: skip
    return said(facts)["peer"], list(_rows("a.control", facts))[1]


def test_a_peer_as_its_owner_sees_it():
    line, node = owner_says()
    assert line.endswith("counts, committed 3 (LSN), its origin INCONSISTENT, 66% copied")
    assert (node["state"], node["epoch"], node["takeover"]) == ("catching-up, being filled", None, "no")
    line, node = owner_says(inconsistent=False, copied_blocks=None)
    assert line.endswith("(LSN)") and (node["state"], node["takeover"]) == ("catching-up", "yes")
    _, node = owner_says(counts=False)
    assert node["state"] == "catching-up, left out, being filled"


class Zeros:
    """A volume."""

    size = ORIGIN_BYTES

    def extents(self, count, offset, only_one=False):
        return [(offset, count, True, True)]


class Taker:
    """A connection to a peer that takes everything."""

    def __init__(self):
        self.under_way = 0

    def write(self, data, offset, durably):
        self.under_way += 1

    def wait(self, seconds):
        pass

    def answered(self):
        count, self.under_way = self.under_way, 0
        return count

    def close(self):
        pass


@pytest.mark.parametrize("own_origins", [True, False])
def test_how_much_an_owner_has_copied(own_origins):
    device, first = disk(), dataclasses.replace(shipped_superblock(), has_own_origins=own_origins)
    store = SuperblockStore(device, None, first)
    store.format(first)
    line = line_of(first, None, 256, Config(origin="/o", log="/l").policy(1000, 256))
    shipping = Shipping(
        PeerRules(("peer",), own_origins=own_origins), line, SegmentTable(), device, store, lambda: 1, NO_EPOCH, print,
        Events(), lambda *_: Taker(),
    )  # fmt: skip
    shipping.fill_from(Zeros())

    def progress():
        (facts,) = shipping.facts()["peers"]
        return facts["inconsistent"], facts["copied_blocks"], facts["blocks"]

    (peer,), (shipper,) = shipping.peers.all, shipping.shippers
    assert progress() == (False, None, BLOCKS if own_origins else None)
    if own_origins:
        shipping.peers.note(peer, is_inconsistent=True)
        assert progress() == (True, 0, BLOCKS)
        together = StartTogether()
        shipper.filler.start(together)
        together.run()
        shipper.filler.begin(first, blank(device.size, own_bytes=first.origin_bytes), is_anew=True)
        shipper.filler.hear(dataclasses.replace(blank(device.size), is_inconsistent=True))
        wait_until(lambda: progress() == (True, BLOCKS, BLOCKS))
        shipping.peers.note(peer, is_inconsistent=False)
        assert progress() == (False, None, BLOCKS)
    shipping.finish(0.0)


@pytest.mark.parametrize(("part", "percent"), [(0, "0%"), (1, "0%"), (299, "99%"), (300, "100%")])
def test_shares_are_rounded_down(part, percent):
    assert format_share(part, 300) == percent
