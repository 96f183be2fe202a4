# SPDX-License-Identifier: BSD-3-Clause
"""The worker's threads can be made slow and quick again, whoever runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
BEST_EFFORT_LOWEST = 2 << 13 | 7
CAP_SYS_NICE = 23

# The main thread is looked at and the other one changes it. Imported first: another user may not be able to read it.
PROGRAM = """
import ctypes, json, os, sys, threading
from wbcache_core.worker.priority import Priority

user, policy = map(int, sys.argv[1:])
os.sched_setscheduler(0, policy, os.sched_param(0))
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
seen = []
main = threading.get_native_id()

def look():
    number = {"x86_64": 252, "aarch64": 31, "riscv64": 31}[os.uname().machine]
    seen.append((os.sched_getscheduler(main), ctypes.CDLL(None).syscall(number, 1, main)))

def change():
    priority = Priority()
    look()
    for is_low in (True, True, False, True, False):
        priority.set_low(is_low)
        look()

thread = threading.Thread(target=change)
thread.start()
thread.join()
print(json.dumps(seen))
"""


def seen(user, policy=os.SCHED_OTHER):
    """(scheduling policy, I/O priority) of the thread at the start and after each of five changes."""
    words = [sys.executable, "-c", PROGRAM, str(user), str(policy)]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return [tuple(pair) for pair in json.loads(done.stdout)]


def has_cap_sys_nice():
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> CAP_SYS_NICE & 1)


@pytest.mark.parametrize("user", [0, 65534])
def test_down_and_up_again(user):
    """Who may not go back from SCHED_IDLE does not go there."""
    low = os.SCHED_IDLE if user == 0 and has_cap_sys_nice() else os.SCHED_BATCH
    usual, *changes = seen(user)
    slow = (low, BEST_EFFORT_LOWEST)
    assert usual[0] == os.SCHED_OTHER
    assert changes == [slow, slow, usual, slow, usual]


def test_a_policy_that_somebody_has_chosen_is_left_alone():
    assert {policy for policy, _ in seen(user=0, policy=os.SCHED_BATCH)} == {os.SCHED_BATCH}
