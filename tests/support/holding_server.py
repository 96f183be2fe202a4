# SPDX-License-Identifier: BSD-3-Clause
"""An origin's server that holds one write back, and a relay before it whose connections can be cut."""

import contextlib
import socket
import threading

from tests.support.clients import REPOSITORY
from tests.support.gated_origin import wait_until
from tests.support.nbdkit_server import NbdkitServer

_PLUGIN = REPOSITORY / "tests" / "support" / "holding_plugin.py"


class HoldingServer:
    """Serves the file `image`; see the plugin."""

    def __init__(self, folder, image):
        self._hold = folder / "hold"
        self._server = NbdkitServer(folder, ["python", _PLUGIN, f"file={image}", f"hold={self._hold}"])
        self.socket, self.uri = self._server.socket, self._server.uri

    def _is_there(self, state):
        return self._hold.with_name(f"{self._hold.name}.{state}").exists()

    def hold_next(self):
        self._hold.touch()

    def wait_until_held(self):
        wait_until(lambda: self._is_there("held"))

    def release(self):
        """Carry out what was held back, and return when that is done."""
        self._hold.with_name(f"{self._hold.name}.release").touch()
        wait_until(lambda: self._is_there("landed"))

    def destroy(self):
        self._server.destroy()


class Relay:
    """Passes bytes on between its own Unix socket and a server's."""

    def __init__(self, folder, target):
        self.path = folder / "relay.sock"
        self.uri = f"nbd+unix:///?socket={self.path}"
        self._target = str(target)
        self._ends = []
        self._lock = threading.Lock()
        """Guards `_ends`, the sockets of all connections."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(self._target)
                except OSError:
                    near.close()
                    far.close()
                    continue
                with self._lock:
                    self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    @staticmethod
    def _pass_on(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """End all connections, in both directions."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def destroy(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
