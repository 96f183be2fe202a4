# SPDX-License-Identifier: BSD-3-Clause
"""The power fails under SQLite on ext4 on the cache: what was committed is there, the file system is sound.

Client, cache and disks are killed together, and of what the disks had not been told to flush a part is lost.
WBCACHE_TEST_SEED repeats a run, as far as processes let it; WBCACHE_POWER_CUTS sets the number of cuts.
"""

import os
import random
import subprocess
import time

import pytest

from tests.support import clients, ledger
from tests.support.machine import Machine

MIB = 1 << 20
CUTS = int(os.environ.get("WBCACHE_POWER_CUTS", "3"))
"""In each journal mode."""
ORIGIN_BYTES, LOG_BYTES = 40 * MIB, 16 * MIB
MOST_TRANSACTIONS = 40

# In mode DELETE a commit is the removal of a file, and only EXTRA has SQLite sync that, too. The others need FULL.
MODES = [("delete", "EXTRA"), ("truncate", "FULL"), ("wal", "FULL")]

# Slow disks, so that most cuts come while something is written and not yet flushed.
SLOW_LOG = {"write_seconds": 0.001, "flush_seconds": 0.008}
SLOW_ORIGIN = {"write_seconds": 0.002, "flush_seconds": 0.03}

SETTINGS = (
    {"destage_delay": "20ms"},
    {"ring_size": "1M", "compress": "zstd", "destage_delay": "100ms"},
    {"ring_size": "1M", "destage_delay": "0", "low_watermark": "0"},
    {"ring_size": "2M", "commit_interval": "10ms", "destage_delay": "0", "compress": "zstd:3"},
    {"ring_size": "1M", "commit_interval": "1h", "destage_delay": "1h"},
    {"ring_size": "1M", "ack": "log", "destage_delay": "0"},
    {"ring_size": "2M", "flush": "origin", "fua": "origin"},
)


@pytest.fixture
def machine(folder):
    machine = Machine(folder, ORIGIN_BYTES, LOG_BYTES)
    yield machine
    machine.destroy()


def install(machine, journal_mode):
    """A file system with an empty database; returns its path."""
    machine.boot()
    clients.run("mkfs.ext4", "-q", "-b", "4096", machine.device)
    machine.mount()
    database = machine.mounted / "ledger.db"
    ledger.create(database, journal_mode)
    machine.shut_down()
    return database


def write_until_the_cut(machine, rng, database, mode, style=None):
    """The number of the last transaction that was acknowledged, or None where none was."""
    words = ["/usr/bin/python3", "-m", "tests.support.ledger", database, *mode]
    writer = clients.start(*words, stdout=subprocess.PIPE, cwd=clients.REPOSITORY)
    try:
        last = None
        for _ in range(rng.randint(1, MOST_TRANSACTIONS)):
            last = writer.stdout.readline()
            assert last, f"the writer ended with status {writer.wait()}"
        time.sleep(rng.random() * 0.02)
        unsynced = machine.cut_power(rng, writer, style=style)
        acknowledged = [last, *writer.stdout.read().splitlines()]
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    print(f"cut after transaction {acknowledged[-1]}; (unsynced, surviving) bytes of origin and log: {unsynced}")
    return int(acknowledged[-1])


def check(machine, database, acknowledged):
    """After a boot: the file system is sound, and all acknowledged transactions are there. It stays mounted."""
    machine.mount()
    machine.unmount()
    clients.run("e2fsck", "-f", "-n", machine.device)
    machine.mount()
    last = ledger.check(database)
    assert acknowledged <= last <= acknowledged + 1, f"{acknowledged} were acknowledged, {last} are there"


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(mode))
def test_committed_transactions_survive(machine, seed, mode):
    rng = random.Random(f"{seed} {mode}")
    database = install(machine, mode[0])
    acknowledged = 0
    for _ in range(CUTS):
        disks = {"origin_is_file": rng.random() < 0.5, "log_disk": SLOW_LOG, "origin_disk": SLOW_ORIGIN}
        machine.boot(**disks, **rng.choice(SETTINGS))
        check(machine, database, acknowledged)
        acknowledged = write_until_the_cut(machine, rng, database, mode)
    machine.boot()
    check(machine, database, acknowledged)
    machine.shut_down()


def test_a_disk_that_only_claims_to_flush_is_noticed(machine):
    """The same with a log that lies: this test can fail."""
    rng = random.Random(1)
    database = install(machine, "wal")
    machine.boot(log_disk={"honest": "no"}, destage_delay="1h", low_watermark="70")
    machine.mount()
    acknowledged = write_until_the_cut(machine, rng, database, ("wal", "FULL"), style="none")
    machine.boot()
    with pytest.raises(AssertionError, match="were acknowledged"):
        check(machine, database, acknowledged)
