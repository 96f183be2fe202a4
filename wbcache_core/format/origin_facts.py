# SPDX-License-Identifier: BSD-3-Clause
"""What tells an origin from its twin, whatever path, link or name leads to it: as values and as bytes.

    facts := kind zero32 inode birth_ns filesystem[16] start hardware[64] serial[64] partition[48] zero[24]

A fact that is not known is 0, or empty. Only what is known on both sides
counts: file systems without inode numbers of their own, containers, and disks
without a serial number leave facts out.
"""

import struct
from typing import NamedTuple

from xxhash import xxh3_64_hexdigest

from wbcache_core.errors import FormatError

FACTS_BYTES = 248
UNKNOWN, FILE, BLOCK, NBD = range(4)
KINDS = ("unknown", "file", "block device", "NBD export")

_TEXT_BYTES, _PARTITION_BYTES = 64, 48
_LAYOUT = struct.Struct(f"<IIQQ16sQ{_TEXT_BYTES}s{_TEXT_BYTES}s{_PARTITION_BYTES}s24s")
assert _LAYOUT.size == FACTS_BYTES


class OriginFacts(NamedTuple):
    """`start` is the byte of the disk, or of the file behind a loop device, at which the origin begins."""

    kind: int = UNKNOWN
    inode: int = 0
    birth_ns: int = 0
    """When the file was created, in ns since 1970; no program can set it."""
    filesystem: bytes = bytes(16)
    """The UUID of the file system that the file is in."""
    start: int = 0
    hardware: str = ""
    """The WWN of a disk, or the UUID of a device that device mapper or md made."""
    serial: str = ""
    partition: str = ""
    """The UUID of a partition."""

    @property
    def is_told_from_twins(self) -> bool:
        """Whether no other origin on this host has the same facts."""
        return bool(self.inode or self.hardware or self.serial)

    def described(self) -> list[str]:
        """For people: what is known."""
        parts = [KINDS[self.kind]]
        if self.inode:
            parts.append(f"inode {self.inode}")
        if self.birth_ns:
            parts.append(f"made at {self.birth_ns // 10**9}.{self.birth_ns % 10**9:09} s")
        if any(self.filesystem):
            parts.append(f"file system {self.filesystem.hex()}")
        if self.start:
            parts.append(f"from byte {self.start}")
        for label, text in (("WWN", self.hardware), ("serial", self.serial), ("partition", self.partition)):
            if text:
                parts.append(f"{label} {text}")
        return parts


NO_FACTS = OriginFacts()


def shortened(text: str) -> str:
    """A text that fits where a WWN or serial number goes: the end of a longer one is its checksum."""
    text = "".join(letter for letter in text.strip() if letter.isprintable())
    raw = text.encode()
    if len(raw) <= _TEXT_BYTES:
        return text
    return raw[: _TEXT_BYTES - 17].decode(errors="ignore") + "#" + xxh3_64_hexdigest(raw)


def differences(recorded: OriginFacts, found: OriginFacts) -> list[str]:
    """In what two origins differ as far as both are known, for people; empty if they may be the same one.

    Nothing is known of an NBD export except that it is one: any two may be the same.
    """
    if UNKNOWN in (recorded.kind, found.kind):
        return []
    if NBD in (recorded.kind, found.kind):
        return [] if recorded.kind == found.kind else [f"{KINDS[recorded.kind]}, now {KINDS[found.kind]}"]
    told = []
    for name, label in (
        ("filesystem", "UUID of the file system"), ("inode", "inode"), ("birth_ns", "time at which the file was made"),
        ("hardware", "WWN"), ("serial", "serial number"), ("partition", "UUID of the partition"),
    ):  # fmt: skip
        old, new = getattr(recorded, name), getattr(found, name)
        if any((old, new)) and old != new and _is_known(old) and _is_known(new):
            told.append(f"{label} {_shown(old)}, now {_shown(new)}")
    if recorded.start != found.start:
        told.append(f"beginning at byte {recorded.start}, now {found.start}")
    return told


def is_certainly_one(recorded: OriginFacts, found: OriginFacts) -> bool:
    """Whether two hosts have the same disk or file. Serial numbers do not say that: virtual machines give all of their
    disks the same."""
    if differences(recorded, found):
        return False
    is_one_file = recorded.inode and recorded.inode == found.inode and recorded.birth_ns and any(recorded.filesystem)
    return bool(is_one_file or (recorded.hardware and recorded.hardware == found.hardware))


def _is_known(value: object) -> bool:
    return any(value) if isinstance(value, bytes) else bool(value)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def encode(facts: OriginFacts) -> bytes:
    """FACTS_BYTES bytes."""
    hardware, serial, partition = (text.encode() for text in facts[5:])
    assert max(len(hardware), len(serial)) <= _TEXT_BYTES and len(partition) <= _PARTITION_BYTES
    return _LAYOUT.pack(
        facts.kind, 0, facts.inode, facts.birth_ns, facts.filesystem, facts.start, hardware, serial, partition,
        bytes(24),
    )  # fmt: skip


def decode(raw: bytes) -> OriginFacts:
    """Raises FormatError."""
    kind, zero, inode, birth_ns, filesystem, start, *texts, reserved = _LAYOUT.unpack(raw)
    try:
        words = [text.rstrip(b"\0").decode() for text in texts]
    except UnicodeDecodeError:
        raise FormatError("facts about the origin that are not UTF-8") from None
    if kind >= len(KINDS) or zero or any(reserved) or not all(word.isprintable() for word in words):
        raise FormatError("facts about the origin that no wbcache writes")
    return OriginFacts(kind, inode, birth_ns, filesystem, start, *words)
