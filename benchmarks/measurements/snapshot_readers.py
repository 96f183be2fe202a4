# SPDX-License-Identifier: BSD-3-Clause
"""4 KiB random writes with history on, while three past moments are read, against neither."""

import contextlib
import signal
import subprocess

from benchmarks import images, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Target, cpu_rows, in_turn, rates, ratio
from tests.support import clients
from wbcache_core.units import GIB, MIB

TITLE = "Writes while past moments are read"

_SIZE = 256 * MIB
_PIECE = MIB
_READERS = 3
_READER_MIB_PER_S = 16
"""Of each reader: a copy that is made beside the work. Without a limit all share what there is."""
_READER_LIMIT_S = 600
_READER_END_S = 30
_OFF, _HISTORY = "off", "history alone"
_READ, _READ_AT_FULL_SPEED = "three are read", "three are read at full speed"


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", 3 * GIB, blank=True)
    amount = bench.pick(GIB, GIB // 4)

    def turn(rate=None, reads=True, **parameters):
        def run():
            with servers.wbcache(bench, origin, log, **parameters) as server:
                _make_generations(server)
                with _readers(bench, server, rate) if reads else contextlib.nullcontext():
                    return fio(bench, server, "randwrite", size=_SIZE, amount=amount, options=("--norandommap",))

        return run

    turns = {
        _OFF: turn(reads=False),
        _HISTORY: turn(reads=False, history="1h"),
        _READ: turn(_READER_MIB_PER_S, history="1h"),
        _READ_AT_FULL_SPEED: turn(history="1h"),
    }
    found = in_turn(bench, turns)
    outcome = Outcome(values=rates(found), unit="requests/s")
    what = f"{TITLE}: {_READ} at {_READER_MIB_PER_S} MiB/s each"
    outcome.add(f"{what}, against {_OFF}", ratio(found, _READ, _OFF), target=Target(0.8))
    outcome.add(f"{TITLE}: {_HISTORY}, against {_OFF}", ratio(found, _HISTORY, _OFF))
    outcome.add(f"{TITLE}: {_READ_AT_FULL_SPEED}, against {_OFF}", ratio(found, _READ_AT_FULL_SPEED, _OFF))
    cpu_rows(outcome, TITLE, found, (_OFF, _READ))
    return outcome


def _make_generations(server):
    """Generations 1 to _READERS, each with a third of the volume of its own."""
    with clients.connection(server.uri) as handle:
        for number in range(_READERS):
            for offset in range(0, _SIZE // _READERS // _PIECE * _PIECE, _PIECE):
                handle.pwrite(bytes([1 + number]) * _PIECE, offset + number * (_SIZE // _READERS) // 4096 * 4096)
            handle.flush()


@contextlib.contextmanager
def _readers(bench, server, rate):
    """One reader of each generation, again and again from beginning to end; they must not meet an error."""
    limit = [f"--rate={rate}m"] if rate else []
    running = [
        clients.start(
            "fio", "--name=reader", "--thread=1", "--ioengine=nbd", "--rw=read", "--bs=256k", "--iodepth=2",
            f"--uri=nbd+unix:///@{number}?socket={server.socket}", f"--size={_SIZE}", "--time_based",
            f"--runtime={_READER_LIMIT_S}", *limit, cwd=bench.folder, stdout=subprocess.DEVNULL,
        )
        for number in range(1, 1 + _READERS)
    ]  # fmt: skip
    try:
        yield
        assert all(process.poll() is None for process in running), "a snapshot has ended under its reader"
        for process in running:
            # It waits for its last answers: nbdkit before 1.36 may abort when a client hangs up on it.
            process.send_signal(signal.SIGINT)
            process.wait(_READER_END_S)
    finally:
        for process in running:
            process.kill()
            process.wait()
