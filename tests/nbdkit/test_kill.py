# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 under load, many times on one surviving pair: what was flushed is there, whole, and in order."""

import contextlib
import os
import random
import signal
import time

import pytest

from tests.support import clients
from tests.support.nbdkit_server import HANG_UP_ERRORS
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences, sequence_in
from tests.support.stamped_load import load_until
from tests.support.worker_processes import workers_of

MIB = 1 << 20
ROUNDS = 50
PAGES = 600
LONGEST_LOAD_S = 0.4
FLUSH_SHARES = (0.001, 0.02, 0.2)

# Log size is fixed when the log is made; the rest may differ from one start to the next.
LOG_SIZE = "16M"
SETTINGS = (
    {},
    {"ring_size": "1M"},
    {"ring_size": "1M", "compress": "zstd"},
    {"ring_size": "1M", "destage_delay": "0", "low_watermark": "0"},
    {"ring_size": "2M", "commit_interval": "5ms"},
    {"ring_size": "1M", "commit_interval": "1h", "destage_delay": "1h"},
    {"ring_size": "4M", "ack": "log"},
    {"ring_size": "1M", "ack": "origin"},
    {"ring_size": "2M", "flush": "origin", "fua": "origin", "compress": "zstd:3"},
)


@pytest.fixture
def harmed():
    """Descriptors of processes, which are ended after the test."""
    descriptors = []
    yield descriptors
    for descriptor in descriptors:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)


def harm_workers(server, choose, harmed):
    """Often kill or stop what writes to the origin, a little before the server is killed or together with it.

    One that is stopped so early that it is not yet bound to the server's life, and has none of its files, stays.
    """
    for worker in workers_of(server):
        if choose.random() < 0.6:
            with contextlib.suppress(ProcessLookupError):
                harmed.append(os.pidfd_open(worker))
                signal.pidfd_send_signal(harmed[-1], choose.choice((signal.SIGKILL, signal.SIGSTOP)))
            time.sleep(choose.choice((0.0, 0.0, 0.2)))


def _found(uri, blocks):
    with clients.connection(uri) as handle:
        return read_sequences(handle, blocks)


def test_killed_again_and_again(pair, seed, harmed):
    """Each round: restart with other settings, verify, load, kill; some starts are killed before they serve."""
    choose = random.Random(seed)
    blocks = blocks_of(PAGES)
    pair.make_origin(PAGES * 4096 + 512)
    state, writes, was_acknowledged = [0] * len(blocks), [], False
    for round_number in range(ROUNDS):
        settings = choose.choice(SETTINGS)
        print(f"round {round_number}: {settings}")
        if choose.random() < 0.1:
            server = pair.start(wait=False, log_size=LOG_SIZE, **settings)
            time.sleep(choose.uniform(0, 0.3))
            server.kill()
        with pair.serve(log_size=LOG_SIZE, check=False, tolerate=["was killed by signal 9"], **settings) as server:
            found = _found(server.uri, blocks)
            check_after_crash(state, writes, found, was_acknowledged)
            load_s = choose.uniform(0.01, LONGEST_LOAD_S)
            first_sequence = (round_number + 1) << 40

            def end(server=server, load_s=load_s):
                time.sleep(load_s)
                harm_workers(server, choose, harmed)
                server.kill()

            flush_share = choose.choice(FLUSH_SHARES)
            writes = load_until(server, end, f"{seed}/{round_number}", first_sequence, PAGES, flush_share)
            state = found
            was_acknowledged = settings.get("ack", "ram") != "ram"
            durable = sum(write.durable for write in writes)
            print(f"  {len(writes)} writes, {durable} of them durable, killed after {load_s:.3f} s")
        if round_number % 5 == 0:
            pair.check()
    with pair.serve(log_size=LOG_SIZE, on_exit="destage") as server:
        found = _found(server.uri, blocks)
        check_after_crash(state, writes, found, was_acknowledged)
    content = pair.origin.read_bytes()
    assert [sequence_in(block, content[block.offset : block.offset + block.size]) for block in blocks] == found


@pytest.mark.parametrize(
    "settings", [{}, {"ring_size": "1M"}, {"ring_size": "1M", "compress": "zstd", "commit_interval": "1h"}], ids=str
)
def test_sigterm_keeps_everything_accepted(pair, seed, settings):
    """No flush, no FUA wait: on-exit=commit brings every answered write into the log."""
    blocks = blocks_of(PAGES)
    pair.make_origin(PAGES * 4096 + 512)
    state = [0] * len(blocks)
    for round_number in range(3):
        with pair.serve(log_size=LOG_SIZE, on_exit="commit", tolerate=HANG_UP_ERRORS, **settings) as server:

            def end(server=server):
                time.sleep(0.3)
                server.stop()

            writes = load_until(server, end, f"{seed}/{round_number}", (round_number + 1) << 40, PAGES)
        with pair.serve(log_size=LOG_SIZE, **settings) as server:
            found = _found(server.uri, blocks)
        check_after_crash(state, writes, found, acknowledged_is_durable=True)
        state = found
