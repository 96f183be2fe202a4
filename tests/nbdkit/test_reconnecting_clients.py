# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 with `ack=ram` under clients that connect again: no write that was acknowledged is lost.

WBCACHE_TEST_ROUNDS sets the number of kills; 200 take some minutes.
"""

import os
import random
import subprocess
import time

from tests.support import clients
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import HANG_UP_ERRORS
from tests.support.reconnecting_client import Address, ReconnectingClient
from tests.support.stamped_blocks import blocks_of
from wbcache_core.tools.info import gather_facts
from wbcache_core.tools.offline_devices import ForgivingLog

ROUNDS = int(os.environ.get("WBCACHE_TEST_ROUNDS", 10))
CLIENTS = 3
PAGES = 300
SETTINGS = (
    {},
    {"ring_size": "1M"},
    {"ring_size": "1M", "commit_interval": "1h"},
    {"ring_size": "2M", "compress": "zstd"},
    {"ring_size": "1M", "commit_interval": "5ms", "destage_delay": "0", "low_watermark": "0"},
)


def has_uncommitted(path):
    """Whether the server that was killed had acknowledged more than is in the log."""
    log = ForgivingLog(str(path), read_only=True)
    try:
        return bool(gather_facts(log)["uncommitted"])
    finally:
        log.close()


def killed_again_and_again(pair, address, choose, rounds, kills):
    """Servers that follow each other; yields each while it serves. The last one is left alive. `kills` gets for each
    kill whether it left something to be taken over."""
    for number in range(rounds + 1):
        settings = choose.choice(SETTINGS)
        print(f"round {number}: {settings}")
        if choose.random() < 0.2:
            # Killed perhaps before it serves, or in the middle of taking over.
            early = pair.start(wait=False, log_size="16M", **settings)
            address.lead_to(early)
            time.sleep(choose.uniform(0, 0.4))
            early.kill()
        server = pair.start(log_size="16M", **settings)
        address.lead_to(server)
        yield server
        if number < rounds:
            time.sleep(choose.uniform(0.01, 0.4))
            server.kill()
            kills.append(has_uncommitted(pair.log))


def test_libnbd(pair, folder, seed):
    choose = random.Random(seed)
    pair.make_origin(PAGES * 4096 + 512)
    blocks = blocks_of(PAGES)
    address = Address(folder)
    loads, kills = [], []
    servers = killed_again_and_again(pair, address, choose, ROUNDS, kills)
    next(servers)
    for number in range(CLIENTS):
        loads.append(ReconnectingClient(address.uri, blocks[number::CLIENTS], f"{seed}/{number}"))
    for server in servers:
        last = server
        assert not any(load.error for load in loads), [load.error for load in loads]
    for load in loads:
        load.finish()
    last.stop()
    last.assert_clean(HANG_UP_ERRORS)
    pair.check()
    print(f"{sum(kills)} of {len(kills)} kills left something that was only in memory; "
          f"{[(load.writes, load.reconnects, load.compared) for load in loads]} writes, connections, comparisons")
    assert sum(kills) >= ROUNDS // 3
    assert not list(os.scandir(os.environ["WBCACHE_SHM"])), "a clean stop leaves no ring"


def test_qemu(pair, folder, seed):
    """qemu connects again by itself (`reconnect-delay`)."""
    choose = random.Random(seed)
    pair.make_origin((PAGES + 1) * 4096)
    address = Address(folder)
    commands, patterns = [f"write -q -P 1 {PAGES * 4096} 4096"], {}
    for number in range(2000):
        page, pattern = choose.randrange(PAGES), number % 255 + 1
        patterns[page] = pattern
        commands.append(f"write -q -P {pattern} {page * 4096} 4096")
    commands += [f"read -q -P {pattern} {page * 4096} 4096" for page, pattern in patterns.items()]
    script = folder / "commands"
    script.write_text("\n".join([*commands, "quit", ""]))
    options = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={address.path}"
    servers = killed_again_and_again(pair, address, choose, min(ROUNDS, 8), [])
    next(servers)
    with script.open() as stdin:
        qemu = subprocess.Popen(
            ["qemu-io", "--image-opts", f"{options},file.reconnect-delay=60"], stdin=stdin, env=clients.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        # The first connection is not tried again.
        with clients.connection(address.uri) as handle:
            wait_until(lambda: handle.pread(1, PAGES * 4096) == b"\1")
        *_, server = servers
        said, _ = qemu.communicate(timeout=120)
    finally:
        qemu.kill()
    assert qemu.returncode == 0 and "fail" not in said.lower() and "error" not in said.lower(), said[-2000:]
    server.stop()
    pair.check()
