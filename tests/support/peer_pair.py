# SPDX-License-Identifier: BSD-3-Clause
"""Hosts for tests: a shared origin and a log each, served by real nbdkit processes as owner and as standbys."""

import contextlib
import itertools
import threading
import time

from tests.support import clients
from tests.support.control import ask
from tests.support.nbdkit_server import CachePair

LIMIT_S = 30
PAGES = 600
"""Whole ones, of the origin of the hosts."""
ORIGIN_BYTES = PAGES * 4096 + 512
"""The last page is not whole."""


def begin_flush(handle):
    """Write a page of x at 0 and flush, in a thread; returns that and an Event, which is set when it is answered."""
    done = threading.Event()

    def write():
        handle.pwrite(b"x" * 4096, 0)
        handle.flush()
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    return thread, done


def _wait_until(read, condition, limit_s):
    deadline = time.monotonic() + limit_s
    while True:
        found = read()
        if condition(found):
            return found
        assert time.monotonic() < deadline, f"after {limit_s} s: {found}"
        time.sleep(0.01)


class PeerPair:
    """`logs` and `controls` have a path for each host, of which there are two unless told; who is the owner is up to
    the test."""

    def __init__(self, folder, count=2):
        self.pair = CachePair(folder)
        self.folder = self.pair.folder
        self.count = count
        self.logs = [self.folder / f"{number}.log" for number in range(count)]
        self.controls = [self.folder / f"c{number}" for number in range(count)]
        self.sockets = [self.folder / f"s{number}" for number in range(count)]
        """Each node's socket has the same name through all starts: it is a link to that of the present server."""
        self._links = itertools.count()

    def standby(self, number, **parameters):
        """A standby with that log, reached by uri_of(number), or by its own URI if it has a `port`."""
        settings = {"log": self.logs[number], "control": self.controls[number], **parameters}
        server = self.pair.start_bare(role="standby", **settings)
        if "port" not in parameters:
            self.link(number, server)
        return server

    def others(self, number):
        """The other hosts."""
        return [other for other in range(self.count) if other != number]

    def owner(self, number, **parameters):
        """An owner with that log, whose peers are the others."""
        peers = [self.uri_of(other) for other in self.others(number)]
        settings = {"log": self.logs[number], "control": self.controls[number], "peer": peers}
        return self.pair.start(**(settings | parameters))

    def check_that_a_flush_is_on_both(self, owner, standby):
        """What was flushed at level peer is there when the owner has died and the standby's log takes over."""
        with clients.connection(owner.uri) as handle:
            handle.pwrite(b"x" * 8192, 4096)
            handle.flush()
        owner.kill()
        standby.stop()
        with self.taken_over(1) as handle:
            assert handle.pread(8192, 4096) == b"x" * 8192

    @contextlib.contextmanager
    def taken_over(self, number, **parameters):
        """A connection to a server whose log was the copy of a standby, and its checks at the end."""
        settings = {"log": self.logs[number], "force": "take-over", "tolerate": ["takes over"], **parameters}
        with self.pair.serve(**settings) as server, clients.connection(server.uri) as handle:
            yield handle

    def uri_of(self, number):
        """Of the present and of all later servers of that node."""
        return f"nbd+unix:///?socket={self.sockets[number]}"

    def link(self, number, server):
        """From now on uri_of(number) is that server."""
        link = self.folder / f"link{next(self._links)}"
        link.symlink_to(server.socket)
        link.rename(self.sockets[number])

    def peer_facts(self, number, peer=0):
        """What the owner with that log says about one of its peers, counted from 0: the only one unless told."""
        return ask(self.controls[number], "status")["peers"][peer]

    def wait_until(self, number, condition, limit_s=LIMIT_S, peer=0):
        """Return the facts about the peer when condition(facts) is true."""
        return _wait_until(lambda: self.peer_facts(number, peer), condition, limit_s)

    def wait_until_told(self, number, lacks):
        """Return when the standby of that host has been told that it lacks nothing, which is "", or what."""
        _wait_until(
            lambda: ask(self.controls[number], "status")["takeover"]["lacks"] or "",
            lambda said: bool(said) == bool(lacks) and lacks in said, LIMIT_S,
        )  # fmt: skip

    def wait_until_up_to_date(self, number):
        """Return when the owner with that log says that its peers have everything."""
        for peer in range(self.count - 1):
            self.wait_until(number, lambda facts: facts["state"] == "up-to-date" and not facts["behind"], peer=peer)

    @contextlib.contextmanager
    def both(self, **parameters):
        """A standby with the second log and an owner with the first; stopped at the end, the owner first."""
        standby = self.standby(1)
        owner = self.owner(0, **parameters)
        yield owner, standby
        for server in (owner, standby):
            if server.running:
                server.stop()
