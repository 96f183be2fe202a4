# SPDX-License-Identifier: BSD-3-Clause
"""A link with a delay: forwards a Unix socket to another one, each byte so many seconds later. Run as a process:

python3 -m tests.support.delay_relay LISTEN CONNECT SECONDS
"""

import queue
import socket
import sys
import threading
import time

_CHUNK = 1 << 20
_WAITING = 64
"""Chunks on their way; a sender waits beyond that."""


def _forward(source, target, seconds):
    on_the_way = queue.Queue(_WAITING)

    def deliver():
        while (item := on_the_way.get()) is not None:
            due, data = item
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            try:
                target.sendall(data)
            except OSError:
                break
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    threading.Thread(target=deliver, daemon=True).start()
    try:
        while data := source.recv(_CHUNK):
            on_the_way.put((time.monotonic() + seconds, data))
    except OSError:
        pass
    on_the_way.put(None)


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
