# SPDX-License-Identifier: BSD-3-Clause
"""Rounds of load and trouble on an owner and its standbys: each ends with the owner's death, and is checked by whoever
has the volume next, a standby that may take over or the same owner again."""

import os
import signal

from tests.support import clients
from tests.support.control import wbcache
from tests.support.peer_pair import PAGES, PeerPair
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences
from tests.support.stamped_load import load_until


class Eligibility:
    """Whether a peer may take over from its owner: it was up to date, and has not been left out since. What was
    answered as durable at `peer` is then there."""

    def __init__(self, hosts, number, owner, peer):
        self._hosts, self._number, self._owner, self._peer = hosts, number, owner, peer
        self._said = self._left_out = None
        """How much the owner had said when the peer was last known to be up to date, and what it says when it
        leaves it out."""

    def look(self):
        """The owner can answer."""
        said = len(self._owner.stderr_text())
        facts = self._hosts.peer_facts(self._number, self._peer)
        if facts["state"] == "up-to-date" and facts["counts"]:
            self._said, self._left_out = said, f"peer '{facts['peer']}' is left out"

    @property
    def is_certain(self):
        return self._said is not None and self._left_out not in self._owner.stderr_text()[self._said :]


class Round:
    """What runs in a round: `owner` and, by number of their hosts, `standbys`."""

    def __init__(self, hosts: PeerPair, number, owner, standbys):
        self.hosts, self.number, self.owner, self.standbys = hosts, number, owner, standbys
        self.eligibilities = [Eligibility(hosts, number, owner, peer) for peer in range(len(hosts.others(number)))]

    def look(self):
        for eligibility in self.eligibilities:
            eligibility.look()

    def eligible(self):
        """Hosts whose standbys may take over. For after the owner's death."""
        others = self.hosts.others(self.number)
        return [other for other, one in zip(others, self.eligibilities, strict=True) if one.is_certain]

    def restart(self, other, **words):
        """kill -9 of a standby, and a new one with its log."""
        end_standby(self.standbys[other], by_signal=True)
        self.standbys[other] = self.hosts.standby(other, **words)

    def wait_until_in_order(self, **words):
        """Return when the owner says so of its only peer."""
        (other,) = self.standbys
        if not self.standbys[other].running:
            self.restart(other, **words)
        self.hosts.wait_until(self.number, lambda facts: facts["state"] == "up-to-date" and facts["counts"])


def end_standby(standby, by_signal):
    """kill -9 or SIGTERM. An nbdkit that has aborted itself at a hang-up has ended already."""
    if not standby.running:
        assert standby.aborted_at_hang_up() or standby.was_killed, standby.describe()
        return
    os.kill(standby.pid, signal.SIGCONT)
    if by_signal:
        standby.kill()
    else:
        standby.stop()


class TakeoverRounds:
    """`disturb(round)`, called while clients write, is what a round is about; it leaves the owner able to die."""

    def __init__(self, hosts, choose, seed, disturb, **words):
        """`words`: parameters of standbys."""
        self._words = words
        self._hosts, self._choose, self._seed, self._disturb = hosts, choose, seed, disturb
        self._blocks = blocks_of(PAGES)
        self._state, self._writes = [0] * len(self._blocks), []
        self.number, self._is_new = 0, True
        """The owner's host; of the next round when one has ended."""
        self._former = None
        """Whose place the owner has taken."""
        self._count = self._takeovers = 0

    def run(self, **settings):
        """One round: check what the one before left, write, disturb, kill the owner, and choose who is the next."""
        hosts, choose = self._hosts, self._choose
        standbys = {other: hosts.standby(other, **self._words_of(other)) for other in hosts.others(self.number)}
        settings |= {"ring_size": choose.choice(("1M", "8M")), "destage_delay": choose.choice(("0", "1s", "1h"))}
        print(f"round {self._count}: host {self.number} is the owner, {settings}")
        owner = self._owner(**settings)
        now = Round(hosts, self.number, owner, standbys)
        self._replace_refused(now)
        seed = f"{self._seed}/{self._count}"
        self._count += 1

        def end():
            self._disturb(now)
            owner.kill()

        self._writes = load_until(owner, end, seed, self._count << 40, PAGES)
        print(f"  {len(self._writes)} writes, {sum(write.durable for write in self._writes)} of them durable")
        self._choose_next(now)

    def _words_of(self, other):
        """For the start of a standby. What a former owner has more than its successor is given up; another standby of
        its may have no more, and go on with its log."""
        may_follow = not self._is_new or (other != self._former and self._choose.random() < 0.5)
        return self._words if may_follow else self._words | {"force": "discard-log"}

    def _replace_refused(self, now):
        """A standby that has more than the new owner gives that up, or starts again without its log."""
        for peer, other in enumerate(self._hosts.others(self.number)):
            facts = self._hosts.wait_until(now.number, lambda facts: facts["state"] != "connecting", peer=peer)
            if facts["state"] == "refused":
                assert self._is_new, facts
                print(f"  host {other} has more than its new owner")
                self._give_up(now, other, facts["problem"])

    def _give_up(self, now, other, problem):
        if "wbcache rejoin" in problem and self._choose.random() < 0.5:
            target = self._hosts.folder / f"tail{self._count}"
            status, _, errors = wbcache("rejoin", self._hosts.controls[other], "--discard-tail", "--save", target)
            assert status == 0, errors
        else:
            assert "wbcache rejoin" in problem or "force=discard-log" in problem, problem
            now.standbys[other].stop()
            now.standbys[other] = self._hosts.standby(other, force="discard-log", **self._words)

    def _owner(self, **settings):
        """With what the one before left checked."""
        owner = self._hosts.owner(self.number, force="take-over", **settings)
        with clients.connection(owner.uri) as handle:
            found = read_sequences(handle, self._blocks)
        check_after_crash(self._state, self._writes, found)
        self._state, self._writes = found, []
        return owner

    def _choose_next(self, ended):
        for standby in ended.standbys.values():
            end_standby(standby, by_signal=self._choose.random() < 0.5)
        eligible = ended.eligible()
        self._is_new = bool(eligible) and self._choose.random() < 0.7
        if self._is_new:
            self._former, self.number = self.number, self._choose.choice(eligible)
            self._takeovers += 1
            print(f"  host {self.number} takes over")

    def finish(self, **settings):
        """Check what the last round left; the last owner ends cleanly, and its log is sound."""
        owner = self._owner(**settings)
        owner.stop()
        assert "Traceback" not in owner.stderr_text(), owner.describe()
        self._hosts.pair.log = self._hosts.logs[self.number]
        self._hosts.pair.check()
        print(f"{self._count} rounds, {self._takeovers} takeovers")
