# SPDX-License-Identifier: BSD-3-Clause
"""What a descriptor says about the answers that clients got for its segment: one byte, two levels.

The levels are numbered by strength. A level is the weakest that *may* have been
answered: one that is too weak costs a question to a person, one that is too
strong costs data. PEER_RAM, PEER and ORIGIN are read and not written:
docs/format.md says why nothing stronger than LOG is certain.
"""

from typing import NamedTuple

UNKNOWN, RAM, LOG, PEER_RAM, PEER, ORIGIN = range(6)
ANSWER_NAMES = ("unknown", "ram", "log", "peer-ram", "peer", "origin")
_BITS = 4


class Answers(NamedTuple):
    """The weakest level at which a write may have been answered, and the weakest for a flush or a write with FUA."""

    ack: int
    flush: int


NO_ANSWERS = Answers(UNKNOWN, UNKNOWN)


def encode_answers(answers: Answers) -> int:
    """One byte."""
    return answers.flush << _BITS | answers.ack


def decode_answers(byte: int) -> Answers | None:
    """None for what no wbcache writes."""
    answers = Answers(byte & (1 << _BITS) - 1, byte >> _BITS)
    return answers if max(answers) <= ORIGIN and (not any(answers) or all(answers)) else None
