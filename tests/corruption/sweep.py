# SPDX-License-Identifier: BSD-3-Clause
"""Flips every bit that small logs use, one at a time, and reads the whole volume: right data or an error of ours.

    /usr/bin/python3 -m tests.corruption.sweep                  # every bit; an hour or two
    /usr/bin/python3 -m tests.corruption.sweep --part 1/2       # half of them, for two at a time
    /usr/bin/python3 -m tests.corruption.sweep --step 1001      # a sample
"""

import argparse
import time
from unittest import mock

from tests.corruption.log_images import SHAPES, Damaged, log_image, short_history
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log import recovery
from wbcache_core.units import PAGE_BYTES

SEARCH_PAGES = 64
"""So far recovery looks for later segments: as far as there is anything. To look at the zeros behind it, too, is most
of the work."""


def sweep(compress, end, first=0, step=1):
    """Flip every step-th bit from the first on; returns how often the result was right, an error, and a refusal.

    AssertionError, with the bit, for wrong data and for exceptions that are not ours.
    """
    image = log_image(compress, end, short_history)
    assert image.used_bytes < DATA_START + SEARCH_PAGES * PAGE_BYTES
    damaged = Damaged(image)
    bits = [(offset, bit) for offset in damaged.image.offsets() for bit in range(8)]
    outcomes = {"right": 0, "errors": 0, "refused": 0}
    with mock.patch.object(recovery, "_SEARCH_PAGES", SEARCH_PAGES):
        for offset, bit in bits[first::step]:
            damaged.flip(offset, bit)
            try:
                errors = damaged.check_reads()
            except Exception as error:
                raise AssertionError(f"compress={compress}, {end}: bit {bit} of byte {offset}: {error!r}") from error
            damaged.flip(offset, bit)
            outcomes["refused" if errors is None else "errors" if errors else "right"] += 1
    return outcomes


def main():
    parser = argparse.ArgumentParser(description="Flip every bit of small logs")
    parser.add_argument("--part", default="1/1", help="N/M: the Nth of M equal parts")
    parser.add_argument("--step", type=int, default=1, help="only every so many bits")
    chosen = parser.parse_args()
    part, parts = map(int, chosen.part.split("/"))
    started = time.monotonic()
    for compress, end in SHAPES:
        outcomes = sweep(compress, end, (part - 1) * chosen.step, parts * chosen.step)
        total = sum(outcomes.values())
        print(f"compress={compress}, {end}: {total} bits, {outcomes}, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
