# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that say which write they come from, and the rule what a volume may hold after a crash.

No block crosses a page, so each must be found whole. What may be found in it, with S = the newest version that
had to be durable: S or any version submitted later. And because the cache keeps writes in order, a state found
after a crash is the volume as it stood at some moment: when a write survived, so did each one that was
acknowledged before that write was submitted, by whatever client.
"""

import hashlib
import struct
from dataclasses import dataclass

PAGE = 4096
HEADER = struct.Struct("<QQ")

# How pages are cut into blocks, in turn: one block, sectors, and odd sizes.
PAGE_CUTS = ((4096,), (512,) * 8, (1000, 3096), (2048, 1, 2047))


@dataclass(frozen=True)
class Block:
    number: int
    offset: int
    size: int


def blocks_of(page_count):
    """All blocks of `page_count` pages, in order. Those too small for a header stay unused."""
    blocks = []
    for page in range(page_count):
        offset = page * PAGE
        for size in PAGE_CUTS[page % len(PAGE_CUTS)]:
            if size >= HEADER.size:
                blocks.append(Block(len(blocks), offset, size))
            offset += size
    return blocks


def stamped(block, sequence):
    """The content of a block as written by write number `sequence`; sequence 0 is a block of zeros."""
    if sequence == 0:
        return bytes(block.size)
    header = HEADER.pack(block.number, sequence)
    return header + hashlib.shake_128(header).digest(block.size - HEADER.size)


def sequence_in(block, data):
    """The write that left `data` in the block (0 for zeros); AssertionError if no single write did."""
    number, sequence = HEADER.unpack_from(data)
    expected = stamped(block, sequence)
    if number == (block.number if sequence else 0) and data == expected:
        return sequence
    differing = [n for n in range(block.size) if data[n] != expected[n]]
    raise AssertionError(
        f"{block}: not from one write: header says block {number}, write {sequence}; "
        f"{len(differing)} bytes differ from that, from {differing[:1]} to {differing[-1:]}"
    )


@dataclass
class Write:
    """One write (or trim, zero: then it leaves zeros) as its client saw it; times are CLOCK_MONOTONIC in ns.

    `done_ns` is None if no answer came; `durable` says that it was a FUA write that was answered.
    """

    block: int
    sequence: int
    zeroes: bool
    submitted_ns: int
    done_ns: int | None
    durable: bool


def mark_flushed(writes, flush_submitted_ns):
    """What was answered before a flush was sent that was itself answered is durable, whoever sent that flush."""
    for write in writes:
        if write.done_ns is not None and write.done_ns < flush_submitted_ns:
            write.durable = True


def read_sequences(handle, blocks):
    """What each block holds now, as a list of sequence numbers in block order."""
    end = blocks[-1].offset + blocks[-1].size
    data = b"".join(handle.pread(min(1 << 20, end - offset), offset) for offset in range(0, end, 1 << 20))
    return [sequence_in(block, data[block.offset : block.offset + block.size]) for block in blocks]


def check_after_crash(before, writes, found, acknowledged_is_durable=False):
    """AssertionError unless `found` is a state that a crash may leave.

    `before`, `found`: sequence numbers by block, before the load and after the crash. `writes`: all writes of all
    clients; those of one block never overlap in time.
    """
    history = {}
    for write in sorted(writes, key=lambda write: write.submitted_ns):
        history.setdefault(write.block, []).append(write)
    survivors = {}
    for block, sequence in enumerate(found):
        survivors[block] = _surviving_versions(block, sequence, before[block], history.get(block, []))
    horizon_ns = max((_submitted(block, versions[0], history) for block, versions in survivors.items()), default=0)
    for block, versions in survivors.items():
        for version, write in enumerate(history.get(block, ()), 1):
            if version <= versions[-1] or write.done_ns is None:
                continue
            assert not write.durable, f"block {block} holds write {found[block]}, older than the durable {write}"
            assert not acknowledged_is_durable, f"block {block} holds write {found[block]}, but {write} was answered"
            assert write.done_ns >= horizon_ns, (
                f"block {block} holds write {found[block]}: {write} is lost, "
                f"but a write submitted at {horizon_ns} ns, after it was answered, is there"
            )


def _surviving_versions(block, sequence, before, writes):
    """Which versions of the block (0 = as before the load) look like what was found; several if it is zeros."""
    contents = [before] + [0 if write.zeroes else write.sequence for write in writes]
    versions = [version for version, content in enumerate(contents) if content == sequence]
    assert versions, f"block {block} holds write {sequence}, which is none of {contents}"
    return versions


def _submitted(block, version, history):
    return history[block][version - 1].submitted_ns if version else 0
