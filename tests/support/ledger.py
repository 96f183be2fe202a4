# SPDX-License-Identifier: BSD-3-Clause
"""A database of numbered transactions. As a program it writes them until it is killed:

    /usr/bin/python3 -m tests.support.ledger FILE JOURNAL_MODE SYNCHRONOUS

It prints the number of each transaction after its commit has returned.
"""

import os
import random
import sqlite3
import sys


def rows_of(number):
    """What transaction `number` puts into the database: a few payloads, from nothing to several pages."""
    rng = random.Random(number)
    return [rng.randbytes(rng.choice((0, 40, 700, 5000, 20000))) for _ in range(rng.randint(1, 4))]


def create(path, journal_mode):
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA journal_mode={journal_mode}")
        database.execute("CREATE TABLE payload (number INTEGER, part INTEGER, data BLOB, PRIMARY KEY (number, part))")
        database.execute("CREATE TABLE last (number INTEGER)")
        database.execute("INSERT INTO last VALUES (0)")
    database.close()


def write(path, journal_mode, synchronous):
    database = sqlite3.connect(path, isolation_level=None)
    (mode,) = database.execute(f"PRAGMA journal_mode={journal_mode}").fetchone()
    assert mode == journal_mode, mode
    database.execute(f"PRAGMA synchronous={synchronous}")
    database.execute("PRAGMA wal_autocheckpoint=40")
    (number,) = database.execute("SELECT number FROM last").fetchone()
    while True:
        number += 1
        database.execute("BEGIN IMMEDIATE")
        for part, data in enumerate(rows_of(number)):
            database.execute("INSERT INTO payload VALUES (?, ?, ?)", (number, part, data))
        # Older payloads are removed again, so that pages are used anew; every third stays for good.
        if (number - 50) % 3:
            database.execute("DELETE FROM payload WHERE number = ?", (number - 50,))
        database.execute("UPDATE last SET number = ?", (number,))
        database.execute("COMMIT")
        os.write(1, b"%d\n" % number)


def check(path):
    """The number of the last transaction. AssertionError unless all up to it are there, whole, and nothing else."""
    database = sqlite3.connect(path)
    try:
        (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok", verdict
        (last,) = database.execute("SELECT number FROM last").fetchone()
        found = {}
        for number, part, data in database.execute("SELECT number, part, data FROM payload ORDER BY number, part"):
            found.setdefault(number, []).append(data)
            assert part == len(found[number]) - 1
        kept = {number for number in range(1, last + 1) if number > last - 50 or number % 3 == 0}
        assert found.keys() == kept, f"transactions {sorted(found.keys() ^ kept)[:10]} of {last}"
        wrong = [number for number, payloads in found.items() if payloads != rows_of(number)]
        assert not wrong, f"transactions {wrong[:10]} of {last} are not as they were written"
        return last
    finally:
        database.close()


if __name__ == "__main__":
    write(*sys.argv[1:])
