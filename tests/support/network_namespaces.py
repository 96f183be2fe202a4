# SPDX-License-Identifier: BSD-3-Clause
"""Hosts for tests: network namespaces of this machine on one bridge, whose links nftables cuts, also in one direction.

Programs run in one with the words of command() before their own. What has a path, Unix sockets included, is shared.
"""

import contextlib
import itertools
import os
import subprocess

from tests.support import clients

_MARK = "wbc-test"
_RULES = "table inet links { chain input { type filter hook input priority 0; }; }"

_serial = itertools.count()


class Network:
    """Hosts are numbered from 0."""

    def __init__(self, names):
        self._names = names

    def command(self, host):
        """Words that start a program there. It has the process ID of the program that they started."""
        return ["ip", "netns", "exec", self._names[host]]

    def address(self, host):
        return f"10.77.0.{host + 1}"

    def cut(self, source, target):
        """From now on nothing that `source` sends reaches `target`; the other direction is as it was."""
        self._nft(target, f"add rule inet links input ip saddr {self.address(source)} drop")

    def heal(self):
        """Everything reaches its target again."""
        for host in range(len(self._names)):
            self._nft(host, "flush chain inet links input")

    def add_rules(self):
        """Where cut() puts its own, none so far."""
        for host in range(len(self._names)):
            self._nft(host, _RULES)

    def _nft(self, host, words):
        clients.run(*self.command(host), "nft", words)


@contextlib.contextmanager
def network(count):
    """A Network of so many hosts; gone on exit."""
    _remove_those_of_dead_runs()
    stem = f"{_MARK}-{os.getpid()}-{next(_serial)}"
    switch, names = f"{stem}-switch", [f"{stem}-{host}" for host in range(count)]
    made = Network(names)
    with contextlib.ExitStack() as stack:
        for name in (switch, *names):
            clients.run("ip", "netns", "add", name)
            stack.callback(_remove, name)
        clients.run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        clients.run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host, name in enumerate(names):
            port = f"port{host}"
            clients.run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            clients.run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            clients.run("ip", "-n", name, "address", "add", f"{made.address(host)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                clients.run("ip", "-n", name, "link", "set", device, "up")
        made.add_rules()
        yield made


def _remove(name):
    subprocess.run(["ip", "netns", "delete", name], env=clients.environment(), check=False)


def _remove_those_of_dead_runs():
    """Of test processes that were killed."""
    for line in clients.run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        pid = name.removeprefix(f"{_MARK}-").partition("-")[0]
        if name.startswith(f"{_MARK}-") and not os.path.exists(f"/proc/{pid}"):
            _remove(name)
