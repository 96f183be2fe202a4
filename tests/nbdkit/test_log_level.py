# SPDX-License-Identifier: BSD-3-Clause
"""What a server says to its log: log-level at the start, changed while it runs, and nbdkit's -v."""

import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from tests.support.refusal import assert_refused

MIB = 1 << 20
PAGE = 4096
OFTEN = {"destage_delay": "0", "commit_interval": "50ms"}

OWN_LINES = "wbcache: "
TAG_GIVEN = "wbcache: info: tag 'first' given to generation"
BATCH = "wbcache: debug: destaged batch:"
TAG_GONE = "wbcache: the tag 'first' (generation 1) is removed"


def give_a_tag_and_have_it_removed(server, control):
    """Something to say at each level but the highest."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"a" * PAGE, 0)
        handle.flush()
        assert ask(control, "tag", name="first")["ok"]
        assert wbcache("set", control, "flush=origin")[0] == 0
        handle.pwrite(b"b" * PAGE, 0)
        handle.flush()


def said(server):
    """Lines that go to stderr or syslog, without -v."""
    return "\n".join(line for line in server.stderr_text().splitlines() if "error: wbcache: " in line)


@pytest.mark.parametrize("is_set_later", [False, True])
@pytest.mark.parametrize(
    ("level", "found", "missing"),
    [
        ("errors", [], [TAG_GONE, TAG_GIVEN, BATCH]),
        ("warnings", [TAG_GONE], [TAG_GIVEN, BATCH]),
        ("info", [TAG_GONE, TAG_GIVEN], [BATCH]),
        ("debug", [TAG_GONE, TAG_GIVEN, BATCH], []),
    ],
)
def test_what_is_at_least_so_important_is_said(pair, folder, level, found, missing, is_set_later):
    pair.make_origin(4 * MIB)
    control = folder / "c"
    parameters = {"control": control, **OFTEN} | ({} if is_set_later else {"log_level": level})
    with pair.serve(tolerate=[OWN_LINES], **parameters) as server:
        if is_set_later:
            assert wbcache("set", control, f"log-level={level}") == (
                0, f"log-level       {level}   (it was warnings)\n", ""
            )  # fmt: skip
        give_a_tag_and_have_it_removed(server, control)
        wait_until(lambda: all(words in said(server) for words in found))
    text = said(server)
    assert not [words for words in missing if words in text]
    if not found:
        assert not text


def test_verbose_shows_everything(pair, folder):
    pair.make_origin(4 * MIB)
    control = folder / "c"
    with pair.serve(options=["-v"], control=control, log_level="errors", **OFTEN) as server:
        give_a_tag_and_have_it_removed(server, control)
        expected = (TAG_GONE, TAG_GIVEN.replace("info: ", ""), BATCH.replace("debug: ", ""))
        wait_until(lambda: all(words in server.stderr_text() for words in expected))
    assert not said(server)


def test_errors_are_always_said(folder, pair):
    assert_refused(
        folder, [f"origin={folder}/none", "log-level=errors"], ["cannot open origin", "none", "No such file"]
    )  # fmt: skip
