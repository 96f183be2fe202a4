# SPDX-License-Identifier: BSD-3-Clause
"""Flips every bit that a small log uses, one at a time, and reads the whole volume. Takes hours; tests take samples.

    /usr/bin/python3 -m tests.corruption.sweep [--part N/M] [--step BITS]
"""

import argparse
import time

from tests.corruption.log_images import SHAPES, Damaged, log_image


def main():
    parser = argparse.ArgumentParser(description="Flip every bit of small logs")
    parser.add_argument("--part", default="1/1", help="N/M: the Nth of M equal parts")
    parser.add_argument("--step", type=int, default=1, help="only every so many bits")
    chosen = parser.parse_args()
    part, parts = map(int, chosen.part.split("/"))
    started = time.monotonic()
    for compress, end in SHAPES:
        damaged = Damaged(log_image(compress, end))
        bits = [(offset, bit) for offset in damaged.image.offsets() for bit in range(8)]
        outcomes = {"right": 0, "errors": 0, "refused": 0}
        for offset, bit in bits[(part - 1) * chosen.step :: parts * chosen.step]:
            damaged.flip(offset, bit)
            try:
                errors = damaged.check_reads()
            except Exception as error:
                raise AssertionError(f"compress={compress}, {end}: bit {bit} of byte {offset}: {error}") from error
            damaged.flip(offset, bit)
            outcomes["refused" if errors is None else "errors" if errors else "right"] += 1
        print(f"compress={compress}, {end}: {outcomes}, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
