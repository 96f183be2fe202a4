# SPDX-License-Identifier: BSD-3-Clause
"""The worker's process: python3 .../wbcache_core/worker/__main__.py SOCKET PAGE PARENT, two descriptors and a process
number. Only a server starts it.
"""

import contextlib
import importlib
import os
import socket
import sys


def main() -> None:
    """Serve until the server hangs up."""
    socket_fd, page_fd, parent = map(int, sys.argv[1:])
    # The core that this file belongs to, whatever other one is installed; see _make_importable() in the plugin.
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.insert(0, home)
    importlib.import_module("wbcache_core")
    sys.path.remove(home)

    from wbcache_core.worker import lifetime

    lifetime.tie_to(parent)

    # Imported only when nothing can happen any more without the server.
    from wbcache_core.worker.channel import Channel, ChannelEndedError
    from wbcache_core.worker.serving import serve_until_hung_up
    from wbcache_core.worker.shared_page import SharedPage

    end = socket.socket(fileno=socket_fd)
    with contextlib.suppress(ChannelEndedError):
        serve_until_hung_up(end, Channel(end), SharedPage(page_fd))


if __name__ == "__main__":
    main()
