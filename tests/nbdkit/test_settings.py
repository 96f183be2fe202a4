# SPDX-License-Identifier: BSD-3-Clause
"""Parameters that are changed while a real server runs, as people and as programs do it."""

import json

import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until

MIB = 1 << 20
PAGE = 4096
QUIET = {"commit_interval": "1h", "destage_delay": "1h", "log_size": "16M"}


@pytest.fixture
def server(pair, control):
    pair.make_origin(4 * MIB)
    with pair.serve(control=control, **QUIET) as server:
        yield server


def cursors(control):
    return ask(control, "status")["cursors"]


def test_write_back_becomes_write_through_and_back(server, control):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
        found = cursors(control)
        assert found["destaged"] == found["committed"] < found["head"]
        assert wbcache("set", control, "ack=origin") == (0, "ack             origin   (it was ram)\n", "")
        handle.pwrite(b"b" * PAGE, PAGE)
        found = cursors(control)
        assert found["destaged"] == found["committed"] == found["head"]
        wbcache("set", control, "ack=ram")
        handle.pwrite(b"c" * PAGE, 0)
        found = cursors(control)
        assert found["destaged"] == found["committed"] < found["head"]


def test_what_waits_for_a_delay_goes_when_it_gets_shorter(server, control, pair):
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
        wbcache("set", control, "commit-interval=10ms", "destage-delay=0")
        wait_until(lambda: cursors(control)["destaged"] == cursors(control)["head"])
    assert pair.origin.read_bytes()[:PAGE] == b"a" * PAGE


def test_history_can_be_asked_for_later(server, control):
    with clients.connection(server.uri) as handle:
        wbcache("set", control, "history=1h", "destage-delay=0")
        for letter in (b"a", b"b"):
            handle.pwrite(letter * PAGE, 0)
            handle.flush()
        with clients.connection(f"nbd+unix:///@1?socket={server.socket}") as past:
            assert past.pread(1, 0) == b"a"
        wbcache("set", control, "history=off")
        wait_until(lambda: cursors(control)["destaged"] == cursors(control)["head"])


def test_a_stop_drains_if_that_is_what_was_set_last(pair, control):
    pair.make_origin(4 * MIB)
    with pair.serve(control=control, **QUIET) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(b"a" * PAGE, 0)
        assert wbcache("set", control, "on-exit=destage")[0] == 0
    assert pair.origin.read_bytes()[:PAGE] == b"a" * PAGE


def test_before_the_first_client(server, control):
    assert wbcache("set", control, "ack=log")[0] == 0
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
    found = cursors(control)
    assert found["committed"] == found["head"] > found["destaged"]


def test_get(server, control):
    status, text, errors = wbcache("get", control)
    assert (status, errors) == (0, "")
    assert "ack             ram\n" in text and "commit-interval 1h\n" in text
    wbcache("set", control, "ack=log", "history=2h")
    assert "ack             log   (ram at the start)\n" in wbcache("get", control)[1]
    assert wbcache("get", control, "history") == (0, "history         2h   (off at the start)\n", "")
    found = json.loads(wbcache("get", control, "ack", "flush", "--json")[1])
    assert found == {
        "settings": [
            {"name": "ack", "value": "log", "at_start": "ram"},
            {"name": "flush", "value": "log", "at_start": "log"},
        ]
    }


def test_set_as_json(server, control):
    status, text, _ = wbcache("set", control, "ack=log", "fua=origin", "--json")
    assert status == 0
    assert json.loads(text) == {
        "changed": [{"name": "ack", "was": "ram", "is": "log"}, {"name": "fua", "was": "log", "is": "origin"}]
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["ack=log", "low-watermark=90"], "low-watermark=90 has to be below high-watermark=75"),
        (["ack=log", "ring-size=1G"], "'ring-size' cannot be changed while the server runs; what can: ack,"),
        (["ack=log", "flush=ram"], "flush=ram: 'ram' is not one of log, peer-ram, peer, origin"),
        (["ack=log", "history="], "parameter 'history' needs a value"),
        (["ack=log", "ack=ram"], "a parameter is named twice"),
        (["ack=log", "flush"], "'flush' is not NAME=VALUE"),
    ],
)
def test_one_bad_value_changes_nothing(server, control, values, words):
    before = ask(control, "get")
    status, text, errors = wbcache("set", control, *values)
    assert status == 2 and not text and words in errors
    assert ask(control, "get") == before


def test_names_and_sockets_that_do_not_exist(server, control, pair):
    status, _, errors = wbcache("get", control, "colour")
    assert status == 2 and "there is no parameter 'colour' that may change; there are ack," in errors
    for words in (["get", pair.origin], ["set", pair.origin, "ack=log"]):
        status, _, errors = wbcache(*words)
        assert status == 2 and f"is not a socket; {words[0]} asks a running server" in errors


@pytest.mark.parametrize("values", [{}, {"ack": 1}, {"ack": None}, {"ack": "log", "flush": ["origin"]}])
def test_requests_that_are_not_text(server, control, values):
    before = ask(control, "get")
    answer = ask(control, "set", values=values)
    assert not answer["ok"] and "'values' has to have parameters with their new values" in answer["error"]
    assert ask(control, "get") == before
