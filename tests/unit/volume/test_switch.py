# SPDX-License-Identifier: BSD-3-Clause
"""Connections change to another volume all at the same moment."""

import pytest

from tests.support.gated_origin import PATIENCE_S, in_background
from wbcache_core.errors import VolumeReplacedError
from wbcache_core.volume.export import AckExport
from wbcache_core.volume.switch import Switch


class Volume:
    """Enough of one to be held."""

    size = 5

    def _nothing(self, *_):
        """Is never called."""

    read_into = flush = prefetch = _nothing


class Holder:
    """Calls `look` whenever it gets something."""

    look = staticmethod(lambda: None)
    _target = None

    @property
    def target(self):
        return self._target

    @target.setter
    def target(self, value):
        self._target = value
        self.look()


def volume_of(holder):
    target = holder.target
    return target._volume if isinstance(target, AckExport) else target


def test_no_two_volumes_are_in_use_at_once():
    old, new = Volume(), Volume()
    switch, holders = Switch(old), [Holder() for _ in range(4)]
    for number, holder in enumerate(holders):
        switch.add(holder, 2 if number % 2 else None)
    assert [volume_of(holder) for holder in holders] == [old] * 4
    seen = []

    def look():
        held = {volume_of(holder) for holder in holders}
        seen.append(held)
        assert not {old, new} <= held

    Holder.look = staticmethod(look)
    switch.change(new)
    assert len(seen) == 8
    assert [volume_of(holder) for holder in holders] == [new] * 4
    late = Holder()
    Holder.look = staticmethod(lambda: None)
    switch.add(late)
    assert late.target is new
    switch.remove(late)
    switch.change(old)
    assert late.target is new and volume_of(holders[1]) is old


@pytest.mark.parametrize("name", ["read_into", "write", "trim", "zero", "flush", "extents", "prefetch"])
def test_requests_wait_in_between(name):
    """They start over when it is done."""
    switch, holder, calls = Switch(Volume()), Holder(), []
    switch.add(holder)

    def call():
        if not calls:
            gate = holder.target
            assert gate.size == 5
            calls.append(in_background(getattr(gate, name)))

    Holder.look = staticmethod(call)
    try:
        switch.change(Volume())
    finally:
        Holder.look = staticmethod(lambda: None)
    with pytest.raises(VolumeReplacedError):
        calls[0].result(PATIENCE_S)
