# SPDX-License-Identifier: BSD-3-Clause
"""Breadth-first search of every state that a model can reach.

A model is an object with `initial`, `steps(state)`, which yields (what happens, next state), and `broken(state)`, which
returns the invariant that the state breaks, in words, or None. A step that is wrong in itself raises BrokenError.
States are hashable values. Nodes that play the same part may be exchanged: `images(state)` returns the state under each
permitted renaming, and the search keeps one of them.

Breadth first, so the trace of a violation is one of the shortest.
"""

import time
from collections import deque


class BrokenError(Exception):
    """A step breaks an invariant; the message says which."""


class Result:
    """What a search found. `trace` is None if nothing is wrong, and `complete` says whether all states were seen."""

    def __init__(self, states, seconds, complete, violation=None, trace=None):
        self.states = states
        self.seconds = seconds
        self.complete = complete
        self.violation = violation
        self.trace = trace

    def __str__(self):
        end = "complete" if self.complete else "bounded"
        lines = [f"{self.violation or 'nothing found'}: {self.states:,} states, {self.seconds:.1f} s, {end}"]
        lines += [f"  {number:2}. {step}" for number, step in enumerate(self.trace or (), 1)]
        return "\n".join(lines)


def canonical(model, state):
    """The one of the images of a state that stands for all: any choice is right as long as it is always the same."""
    images = model.images(state)
    return state if len(images) == 1 else min(images, key=hash)


def search(model, limit=5_000_000, progress=False):
    """Visit every state. With `progress`, also check that a state in which `model.serves(state)` can be reached from
    each of them; the search then keeps all steps in memory. More states than `limit` end it incomplete."""
    began = time.monotonic()
    start = canonical(model, model.initial)
    parents = {start: None}
    before = {}
    queue = deque([start])

    def result(violation=None, trace=None, complete=True):
        return Result(len(parents), time.monotonic() - began, complete, violation, trace)

    while queue:
        state = queue.popleft()
        try:
            for _label, following in model.steps(state):
                following = canonical(model, following)
                if progress:
                    before.setdefault(following, []).append(state)
                if following in parents:
                    continue
                parents[following] = state
                violation = model.broken(following)
                if violation:
                    return result(violation, replay(model, parents, following))
                queue.append(following)
        except BrokenError as broken:
            return result(str(broken), [*replay(model, parents, state), f"then: {broken}"])
        if len(parents) > limit:
            return result(complete=False)
    if progress:
        stuck = first_stuck(model, parents, before)
        if stuck is not None:
            return result("no progress: the volume can never be served again", replay(model, parents, stuck))
    return result()


def first_stuck(model, parents, before):
    """The first state found from which no state that serves can be reached, or None."""
    good = {state for state in parents if model.serves(state)}
    queue = deque(good)
    while queue:
        for state in before.get(queue.popleft(), ()):
            if state not in good:
                good.add(state)
                queue.append(state)
    return next((state for state in parents if state not in good), None)


def replay(model, parents, state):
    """The steps that lead to a state, in words. The path is walked again with real names, because the states on it may
    have been renamed."""
    path = []
    while state is not None:
        path.append(state)
        state = parents[state]
    current, words = model.initial, []
    for wanted in path[-2::-1]:
        steps = model.steps(current)
        label, current = next((label, after) for label, after in steps if canonical(model, after) == wanted)
        words.append(label)
    return words
