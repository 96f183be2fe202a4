# SPDX-License-Identifier: BSD-3-Clause
"""A promotion that fails in its last step leaves a standby that can be promoted."""

import pytest

from tests.support.shipped_log import ShippedLog, superblock
from wbcache_core.errors import ControlError, NoThreadError
from wbcache_core.format import peer_standing
from wbcache_core.format.peer_standing import Standing
from wbcache_core.server.config import Config
from wbcache_core.server.movers import Movers
from wbcache_core.server.node import Node
from wbcache_core.units import MIB, PAGE_BYTES

LOG_SIZE = 64 * MIB


@pytest.fixture
def node(tmp_path):
    origin = tmp_path / "origin"
    origin.write_bytes(bytes(MIB))
    pairs = {"role": "standby", "log": tmp_path / "log", "origin": origin, "log-size": LOG_SIZE}
    pairs["ring-memory"] = "private"
    node = Node(Config.from_pairs([(name, str(value)) for name, value in pairs.items()]))
    yield node
    node.stop()


def told_complete(node, origin_name):
    """The standby has a commit and has been told that this is everything; the owner has gone."""
    owner = ShippedLog(superblock(log_bytes=LOG_SIZE, origin_name=origin_name))
    export = node.open_log("log", lambda: False)
    export.read_into(bytearray(PAGE_BYTES), 0)
    export.write(owner.page(), 0, True)
    for offset, content in owner.commit(3):
        export.write(content, offset, True)
    first = owner.superblock
    standing = Standing(first.uuid, first.epoch, owner.head, is_complete=True, may_be_left_out=False, sign_ms=1000)
    export.write(memoryview(peer_standing.encode(standing)), 0, True)
    export.close()
    return owner


def test_it_says_that_the_epoch_has_passed_and_can_be_repeated(node, tmp_path, monkeypatch):
    owner = told_complete(node, str(tmp_path / "origin"))

    def no_thread(_):
        raise NoThreadError("no more threads")

    with monkeypatch.context() as context:
        context.setattr(Movers, "start", no_thread)
        with pytest.raises(ControlError, match=r"no more threads.*the new epoch already.*repeat wbcache promote"):
            node.promote(["origin-changed"])
    assert node.served is None
    facts = node.promote(["origin-changed"])
    assert facts["lsn"] == owner.head and facts["epoch"]["number"] == 2000


def test_one_that_fails_earlier_changes_nothing(node, tmp_path):
    owner = told_complete(node, str(tmp_path / "origin"))
    (tmp_path / "origin").rename(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="origin") as caught:
        node.promote([])
    assert "epoch already" not in str(caught.value)
    (tmp_path / "elsewhere").rename(tmp_path / "origin")
    assert node.now.epoch == owner.superblock.epoch
