# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache picture` of the log of a running server."""

import re

from tests.nbdkit.test_incremental_backup import MIB, PAGE, SIZE, Loads
from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from wbcache_core.tools.log_content import content_of_log, content_of_server


def shown(content):
    """What is drawn, with times as they are shown, to the microsecond."""
    segments = [
        (one.first_lsn, one.end_lsn, one.generation, one.time_ns // 1000, list(one.page_blocks),
         [(entry.block, entry.blocks) for entry in one.entries() if entry.blocks > 1])
        for one in content.descriptors
    ]  # fmt: skip
    ends = [(one.number, one.end_lsn, one.time_ns // 1000) for one in (content.oldest, content.newest)]
    tags = [(name, time_ns // 1000) for name, time_ns in content.tags]
    return content.volume_bytes, segments, ends, content.batch_end, tags


def test_it_is_that_of_the_log_itself(pair, control):
    pair.make_origin(SIZE)
    parameters = {"control": control, "commit_interval": "1h", "destage_delay": "1h", "log_size": "16M"}
    with pair.serve(**parameters, history="1h") as server, clients.connection(server.uri) as handle:
        for number in range(30):
            handle.pwrite(bytes([number]) * 4 * PAGE, number * 9 * PAGE)
            handle.flush()
        handle.trim(MIB, 3 * MIB)
        handle.zero(2 * PAGE, 5 * MIB)
        wbcache("tag", control, "here")
        live = content_of_server(str(control))
    assert len(live.descriptors) == 31 and live.tags[0][0] == "here"
    assert shown(live) == shown(content_of_log(str(pair.log)))


def test_it_is_drawn_under_load(pair, folder, control):
    """With a log that is overwritten again and again."""
    pair.make_origin(SIZE)
    with pair.serve(control=control, log_size="8M", commit_interval="20ms") as server:
        with Loads(server, 5) as loads:
            loads.go_on()
            status, text, errors = wbcache("picture", control, folder / "p.png")
            assert (status, errors) == (0, "")
            assert re.fullmatch(rf"'.*p.png' shows \d+ segments of the server behind '{control}'\n", text)
            loads.go_on(5)
        assert (folder / "p.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        status, text, errors = wbcache("picture", control, folder / "p.png")
        assert (status, text) == (2, "") and "exists already" in errors


def test_without_a_log_there_is_nothing_to_draw_or_to_compare(pair, folder, control):
    """After a detach; a list that somebody was reading does not go on with what a log said that is gone."""
    pair.make_origin(SIZE)
    options = {"history": "1h", "log_size": "64M", "check": False, "tolerate": ["the snapshot of .* has ended"]}
    with pair.serve(control=control, **options) as server:
        with clients.connection(server.uri) as handle:
            for block in range(0, 6000, 2):
                handle.pwrite(b"x" * PAGE, block * PAGE)
        following = ask(control, "diff", start="0", end="last-flush")["next"]
        assert following is not None
        wait_until(lambda: ask(control, "detach", force=True).get("detach", {}).get("state") == "detached")
        assert ask(control, "diff", start="0", end="1", offset=following)["ok"] is False
        for words in (("picture", control, folder / "p.png"), ("diff", control, "0", "1")):
            status, text, errors = wbcache(*words)
            assert (status, text) == (2, "") and "there are no" in errors
    assert not (folder / "p.png").exists()
