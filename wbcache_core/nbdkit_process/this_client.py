# SPDX-License-Identifier: BSD-3-Clause
"""How the client of this thread's connection came in. nbdkit's Python module does not say so before 1.38; the C
functions do, and every version exports them to plugins."""

import ctypes
import socket
import sys

_PRIVATE = (socket.AF_UNIX, socket.AF_VSOCK)
"""What is sent there stays on this machine."""
_ADDRESS_BYTES = 128
"""Of any socket: struct sockaddr_storage."""
_FAMILY_BYTES = 2


def is_exposed() -> bool:
    """Whether others may read and change what this client and the server send: there is no TLS, and it is neither a
    Unix socket nor one of a virtual machine's host (vsock). True if nobody knows. For nbdkit's callbacks about a
    connection."""
    nbdkit = ctypes.CDLL(None)
    if nbdkit.nbdkit_is_tls() == 1:
        return False
    address = ctypes.create_string_buffer(_ADDRESS_BYTES)
    length = ctypes.c_uint32(_ADDRESS_BYTES)
    if nbdkit.nbdkit_peer_name(address, ctypes.byref(length)) != 0:
        return True
    return int.from_bytes(address.raw[:_FAMILY_BYTES], sys.byteorder) not in _PRIVATE
