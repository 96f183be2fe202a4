# SPDX-License-Identifier: BSD-3-Clause
"""`ring-size=auto`: how much memory a ring may take, now and at most.

Every server takes a 16th of what is left, counting its own ring as left. So n
servers whose rings are full leave at least 15/(15 + n) of the memory that
they found, whatever the order they started in.
"""

from wbcache_core.errors import ConfigError
from wbcache_core.memory import memory_limit
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import GIB, MIB, PAGE_BYTES

SHARE = 16
VOLATILE_BYTES = 64 * MIB
"""At most this much is only in memory, however large the ring: a flush has to wait for all of it."""
LEAST_BYTES = VOLATILE_BYTES
"""A ring never shrinks below this. Where memory is scarce at the start it is an eighth of that."""
_SCARCE_SHARE = 8
_TINY_BYTES = MIB
_MOST_BYTES = 4 * GIB


def share(unused: int) -> int:
    """Bytes that a ring may take if so many would be unused without it."""
    return max(unused // SHARE, min(LEAST_BYTES, max(unused // _SCARCE_SHARE, _TINY_BYTES)))


def automatic_ring(log_bytes: int) -> RingBuffer:
    """A ring as large as one may become for a log of that size. It takes memory only as it is used.

    Raises ConfigError.
    """
    byte_count = min(share(memory_limit.unused()), max(log_bytes, _TINY_BYTES), _MOST_BYTES)
    while True:
        try:
            return RingBuffer(byte_count - byte_count % PAGE_BYTES, VOLATILE_BYTES // PAGE_BYTES)
        except ConfigError:
            # Address space can be limited too (ulimit -v, vm.overcommit_memory=2).
            if byte_count < 2 * _TINY_BYTES:
                raise
            byte_count //= 2
