# SPDX-License-Identifier: BSD-3-Clause
"""A link with a delay: forwards a Unix socket to another one, each byte so many seconds later. Run as a process:

python3 -m tests.support.delay_relay LISTEN CONNECT SECONDS
"""

import ctypes
import select
import socket
import sys
import threading
import time
from collections import deque

_CHUNK = 1 << 20
_WAITING = 64
"""Chunks on their way; a sender waits beyond that."""
_PR_SET_TIMERSLACK = 29


def _forward(source, target, seconds):
    # Otherwise the kernel lets each sleep last 50 us longer.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
    on_the_way, has_ended = deque(), False
    try:
        while on_the_way or not has_ended:
            left = max(on_the_way[0][0] - time.monotonic(), 0) if on_the_way else None
            can_take = not has_ended and len(on_the_way) < _WAITING
            if select.select([source] if can_take else [], [], [], left)[0]:
                data = source.recv(_CHUNK)
                has_ended = not data
                on_the_way.append((time.monotonic() + seconds, data))
            if on_the_way and on_the_way[0][0] <= time.monotonic():
                target.sendall(on_the_way.popleft()[1])
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main():
    """Until it is killed."""
    listen, connect, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(listen)
        listener.listen()
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(connect)
            except OSError:
                near.close()
                continue
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(*ends, seconds), daemon=True).start()


if __name__ == "__main__":
    main()
