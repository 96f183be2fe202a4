# SPDX-License-Identifier: BSD-3-Clause
"""The command with a server of a version that knows less: a clear error, or what there is."""

import json
import socket
import threading

import pytest

from tests.support.control import wbcache
from tests.support.local_pair import LocalPair
from wbcache_core.server.status import Rates

NEW_FACTS = ("counters", "quiesce", "dirty_seconds")
REFUSAL = {"ok": False, "error": "there is no command 'that'; there are status, history"}


@pytest.fixture(params=[NEW_FACTS])
def older(tmp_path, request):
    """Answers `status` as version 0.1 did, or without other facts, and refuses everything else."""
    pair = LocalPair(tmp_path)
    pair.make_origin(1 << 20)
    cache = pair.start()
    facts = {"ok": True, "version": "0.1", "pid": 1, **cache.status(), "rates": Rates(cache.counters).facts()}
    pair.abandon()
    for name in request.param:
        del facts[name]
    path = tmp_path / "c"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                request = json.loads(connection.makefile("rb").readline())
                answer = facts if request["command"] == "status" else REFUSAL
                connection.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def test_status(older):
    status, said, errors = wbcache("status", older)
    assert (status, errors) == (0, "") and "wbcache 0.1" in said


@pytest.mark.parametrize("words", [("top", "--once", "SOCKET"), ("metrics", "SOCKET"), ("report", "SOCKET", "x.html")])
def test_it_does_not_count(older, words):
    status, said, errors = wbcache(*(older if word == "SOCKET" else word for word in words))
    assert (status, said) == (2, "")
    assert errors == (
        f"wbcache: the server behind '{older}' is wbcache 0.1, which does not count what it does; start it again with "
        "this version\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("quiesce",), ("resume",), ("events",), ("diff", "--json", "1", "2"), ("picture", "x.png"), ("detach",),
        ("attach", "--json", "/new"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_it_does_not_know_the_command(older, words):
    command, *options = words
    # A path comes after the socket.
    paths = [options.pop()] if command == "attach" else []
    status, said, errors = wbcache(command, older, *paths, *options)
    assert (status, said, errors) == (2, "", f"wbcache: {REFUSAL['error']}\n")


@pytest.mark.parametrize("older", [("peers",)], indirect=True)
def test_metrics_of_one_that_knows_no_peers(older):
    status, said, errors = wbcache("metrics", older)
    assert (status, errors) == (0, "") and "wbcache_dirty_data_bytes{" in said and "wbcache_peer_counts{" not in said
