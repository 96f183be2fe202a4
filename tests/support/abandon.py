# SPDX-License-Identifier: BSD-3-Clause
"""Ends a cache in this process as a crash would, as far as its devices can tell."""


def abandon(cache, memory_stays=False):
    """Commit nothing more, end the threads, and close the devices.

    With memory_stays only the process dies, and leaves its ring behind if that is in shared memory.
    """
    with cache._lifecycle, cache._finishing:
        cache._stopped = cache._finished = True
        cache._line.stop(drain=False)
        cache._throttle.stop()
        cache._origin.interrupt()
        if cache._active:
            cache._destager.join()
            cache._committer.join()
            if cache._keeper:
                cache._keeper.join()
        cache._shipping.finish(0.0)
        cache._ring_memory.close(is_empty=not memory_stays)
        cache._close()
