# SPDX-License-Identifier: BSD-3-Clause
"""What is done now and then goes on after an internal error."""

import pytest

from tests.support.abandon import abandon
from wbcache_core.server.config import Config
from wbcache_core.server.control.commands import ControlCommands
from wbcache_core.server.diff_pages import DiffPages
from wbcache_core.server.series import Series
from wbcache_core.server.served import Served
from wbcache_core.server.status import Rates


@pytest.mark.parametrize("broken", [(Rates, "sample"), (Served, "note_changes"), (DiffPages, "tick"), (Series, "look")])
def test_a_tick_does_the_rest(tmp_path, monkeypatch, caplog, broken):
    """Each step, even if another one fails; the error is logged once, with its traceback."""
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    served = Served(Config.from_pairs([("origin", str(tmp_path / "image")), ("ring-size", "1M")]), may_spawn=False)
    try:
        commands = ControlCommands(served)
        done = []

        def step(name, fails):
            def run(*_):
                done.append(name)
                if fails:
                    raise MemoryError(f"planted {len(done)}")

            return run

        steps = [(Rates, "sample"), (Served, "note_changes"), (DiffPages, "tick"), (Series, "look")]
        for kind, name in steps:
            monkeypatch.setattr(kind, name, step(name, (kind, name) == broken))
        for _ in range(3):
            commands.tick()
        assert done == [name for _, name in steps] * 3
        assert len(caplog.records) == 1
        assert caplog.records[0].exc_info
    finally:
        abandon(served.now)
