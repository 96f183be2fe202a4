# SPDX-License-Identifier: BSD-3-Clause
"""The search itself, on models of which the answer is known."""

from tests.peers.search import BrokenError, search


class Tokens:
    """Two places; each takes one or two at a time, up to a limit."""

    initial = (0, 0)

    def __init__(self, limit=4, wrong=None, exchange=False, raises=None):
        self.limit, self.wrong, self.exchange, self.raises = limit, wrong, exchange, raises

    def steps(self, state):
        for place in range(2):
            for more in (1, 2):
                after = tuple(value + more if index == place else value for index, value in enumerate(state))
                if after == self.raises:
                    raise BrokenError("that step is wrong")
                if after[place] <= self.limit:
                    yield f"{'ab'[place]} takes {more}", after

    def images(self, state):
        return (state, state[::-1]) if self.exchange else (state,)

    def broken(self, state):
        return "wrong" if state == self.wrong or (self.exchange and state[::-1] == self.wrong) else None

    def serves(self, state):
        return sum(state) == 2 * self.limit


def test_every_state_is_seen():
    result = search(Tokens())
    assert (result.states, result.violation, result.complete) == (25, None, True)


def test_exchangeable_states_are_seen_once():
    assert search(Tokens(exchange=True)).states == 15


def test_the_trace_is_the_shortest():
    result = search(Tokens(wrong=(4, 1)))
    assert result.violation == "wrong"
    assert sorted(result.trace) == ["a takes 2", "a takes 2", "b takes 1"]


def test_a_trace_has_one_set_of_names():
    trace = search(Tokens(wrong=(3, 0), exchange=True)).trace
    assert len(trace) == 2
    assert len({step[0] for step in trace}) == 1


def test_a_wrong_step_ends_the_trace():
    result = search(Tokens(raises=(4, 0)))
    assert result.violation == "that step is wrong"
    assert result.trace == ["a takes 2", "then: that step is wrong"]


def test_a_state_without_a_way_on_is_found():
    class Trap(Tokens):
        def steps(self, state):
            return () if state == (3, 1) else super().steps(state)

    assert search(Trap()).violation is None
    result = search(Trap(), progress=True)
    assert result.violation.startswith("no progress")
    assert len(result.trace) == 3


def test_progress_where_all_is_well():
    assert search(Tokens(), progress=True).violation is None


def test_a_limit_is_not_a_proof():
    result = search(Tokens(), limit=10)
    assert not result.complete
    assert "bounded" in str(result)
