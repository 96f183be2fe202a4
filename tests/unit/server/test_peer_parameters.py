# SPDX-License-Identifier: BSD-3-Clause
"""Parameters of owners with peers, and of standbys."""

import pytest

from wbcache_core.errors import ConfigError
from wbcache_core.memory.policy import PEER, PEER_RAM
from wbcache_core.server.config import Config

OWNER = [("origin", "/o"), ("log", "/l")]


def test_peers_are_named_once_each_and_their_export_is_log():
    config = Config.from_pairs([*OWNER, ("peer", "nbd://b:10810"), ("peer", "nbd+unix:///?socket=/s"), ("fua", "peer")])
    assert config.peer == ("nbd://b:10810/log", "nbd+unix:///log?socket=/s")
    assert config.fua == PEER
    assert config.peer_rules.names == config.peer and not config.policy(1000).may_go_on


def test_levels_of_peers():
    config = Config.from_pairs([*OWNER, ("peer", "nbd://b"), ("ack", "peer-ram"), ("flush", "peer")])
    assert (config.ack, config.flush) == (PEER_RAM, PEER)
    assert config.policy(1000).fua == PEER_RAM


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("peer", "nbd://b"), ("peer", "nbd://b/log")], "named before"),
        ([("peer", "nbd://b/other")], "names the export 'other'.*leave it out"),
        ([("peer", "/dev/sdb")], "not an NBD URI of a standby"),
        ([("peer", "https://b")], "not an NBD URI of a standby"),
        ([("flush", "peer")], "flush=peer needs a peer: add peer=URI"),
        ([("ack", "peer-ram")], "ack=peer-ram needs a peer"),
        ([("fua", "peer")], "fua=peer needs a peer"),
        ([("flush", "ram"), ("peer", "nbd://b")], "not one of log, peer-ram, peer, origin"),
        ([("peer-lost", "stop")], "not one of wait, continue"),
        ([("peer-timeout", "0")], "peer-timeout has to be longer than 0"),
        ([("origins", "mine")], "not one of shared, own"),
        ([("plain-tcp", "yes")], "not one of refuse, allow"),
        ([("plain-tcp", "allow")], "plain-tcp is for a standby"),
        ([("role", "master")], "not one of owner, standby"),
    ],
    ids=str,
)
def test_what_is_refused(pairs, words):
    with pytest.raises(ConfigError, match=words):
        Config.from_pairs([*OWNER, *pairs])


def test_origins_of_their_own():
    assert not Config.from_pairs(OWNER).has_own_origins
    config = Config.from_pairs([*OWNER, ("origins", "own"), ("peer", "nbd://b")])
    assert config.has_own_origins and config.peer_rules.own_origins
    assert Config.from_pairs([*OWNER, ("role", "standby"), ("origins", "own")]).has_own_origins
    with pytest.raises(ConfigError, match="with origins=own a standby has an origin, too"):
        Config.from_pairs([("role", "standby"), ("log", "/l"), ("origins", "own")])


def test_a_standby():
    assert Config.from_pairs([("role", "standby"), ("log", "/l")]).log == "/l"
    for_later = Config.from_pairs([("role", "standby"), *OWNER, ("peer", "nbd://b"), ("flush", "peer")])
    assert for_later.origin == "/o" and for_later.flush == PEER
    with pytest.raises(ConfigError, match="a standby needs log=PATH"):
        Config.from_pairs([("role", "standby")])
    with pytest.raises(ConfigError, match=r"a standby has no peers.*add origin="):
        Config.from_pairs([("role", "standby"), ("log", "/l"), ("peer", "nbd://b")])
