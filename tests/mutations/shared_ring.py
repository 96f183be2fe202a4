# SPDX-License-Identifier: BSD-3-Clause
"""A ring that outlives its process: the order of its stores, and how it is joined to the log."""

from tests.mutations.mutation import CUTS, Mutation

_DIES = CUTS.format("the process dies")
_STAYS = "tests/model/test_ring_that_stays.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "head-before-its-page",
        "the next server is told of a page before the page is in the ring",
        "memory/ring.py",
        "        self.memory[start : start + PAGE_BYTES] = data\n        self.journal.blocks[slot] = block\n",
        "        self.journal.blocks[slot] = block\n        self.journal.state[HEAD] = lsn + 1\n"
        "        self.memory[start : start + PAGE_BYTES] = data\n",
        _DIES,
    ),
    Mutation(
        "head-before-its-word",
        "the next server is told of a page before the ring says which block it is of",
        "memory/ring.py",
        "        self.memory[start : start + PAGE_BYTES] = data\n        self.journal.blocks[slot] = block\n",
        "        self.memory[start : start + PAGE_BYTES] = data\n        self.journal.state[HEAD] = lsn + 1\n"
        "        self.journal.blocks[slot] = block\n",
        _DIES,
    ),
    Mutation(
        "head-before-many-pages",
        "the next server is told of the pages of a large write before they are in the ring",
        "memory/ring.py",
        "        start = (lsn % self.pages) << PAGE_SHIFT\n        end = start + len(data)\n",
        "        start = (lsn % self.pages) << PAGE_SHIFT\n        end = start + len(data)\n"
        "        self.journal.note_pages(lsn, block, len(data) >> PAGE_SHIFT)\n"
        "        self.journal.state[HEAD] = lsn + (len(data) >> PAGE_SHIFT)\n",
        _DIES,
    ),
    Mutation(
        "head-before-its-segment",
        "the next server is told of a segment before the ring says that one begins there",
        "memory/ring.py",
        "        self.journal.note_segment(line.head)\n        segment = line.open_next_segment()\n"
        "        self.journal.state[HEAD] = line.head\n",
        "        segment = line.open_next_segment()\n        self.journal.state[HEAD] = line.head\n"
        "        self.journal.note_segment(segment.first_lsn)\n",
        _DIES,
    ),
    Mutation(
        "range-before-its-words",
        "the next server is told of a trim before the ring says of what",
        "memory/ring_journal.py",
        "        at = number % self._range_count * RANGE_WORDS\n        for index",
        "        at = number % self._range_count * RANGE_WORDS\n        state[RANGES] = number + 1\n        for index",
        _DIES,
    ),
    Mutation(
        "ranges-are-not-in-the-ring",
        "trims and zeros are not in the ring that outlives the process",
        "volume/volume.py",
        "                ring.journal.note_range(kind << KIND_SHIFT | block, count, line.head - 1)\n",
        "",
        _DIES,
    ),
    Mutation(
        "pages-are-not-published",
        "a single page does not count for the next server before another segment begins",
        "volume/volume.py",
        "ring.journal.state[HEAD] = line.head = end = lsn + 1",
        "line.head = end = lsn + 1",
        _DIES,
    ),
    Mutation(
        "half-an-anchor",
        "the end of the log that the ring knows of is in force before all of it is there",
        "format/shared_ring.py",
        "    for index, word in enumerate(anchor, at):\n        state[index] = word\n    state[ANCHOR] = number\n",
        "    state[ANCHOR] = number\n    for index, word in enumerate(anchor, at):\n        state[index] = word\n",
        _DIES,
    ),
    Mutation(
        "anchor-stays",
        "the ring does not learn of commits, and its slots are used again",
        "log/writer.py",
        "        self._ring.journal.note_commit(Anchor(last.end_lsn, last.checksum, last.generation))\n",
        "",
        CUTS.format("the process dies, and the ring wraps"),
    ),
    Mutation(
        "anchor-before-the-sync",
        "the ring takes a commit for durable that is not",
        "log/writer.py",
        "        self._sync.sync()\n        last = prepared.segments[-1].descriptor\n"
        "        self._ring.journal.note_commit(Anchor(last.end_lsn, last.checksum, last.generation))\n",
        "        last = prepared.segments[-1].descriptor\n"
        "        self._ring.journal.note_commit(Anchor(last.end_lsn, last.checksum, last.generation))\n"
        "        self._sync.sync()\n",
        _DIES,
    ),
    Mutation(
        "anchor-of-the-dead-server",
        "after a takeover the ring is joined where the dead server's last commit ended, whose slots are used again",
        "server/ring_memory.py",
        "            ring.journal.note_commit(anchor)\n            return\n",
        "            return\n",
        _STAYS + "::test_a_commit_that_was_under_way_and_a_ring_that_comes_round_again",
    ),
    Mutation(
        "join-by-number",
        "a ring is joined to any log that ends at the LSN of its last commit",
        "log/ring_recovery.py",
        "        return checksum == content.anchor.checksum\n",
        "        return True\n",
        _STAYS + "::test_a_log_whose_last_commit_is_another",
    ),
    Mutation(
        "join-segments-by-number",
        "a ring is joined to any log that ends with one of its segments, by LSN",
        "log/ring_recovery.py",
        "        return decode(slot(last.first_lsn)).checksum == checksum\n",
        "        return True\n",
        _STAYS + "::test_a_log_that_ends_where_the_ring_does_but_is_another",
    ),
    Mutation(
        "serve-an-older-log",
        "a log that lacks what the ring knows to be durable is served",
        "server/ring_memory.py",
        "    if anchor.lsn > end:\n        raise DamagedLogError(",
        "    if anchor.lsn > end:\n        raise FormatError(",
        _STAYS + "::test_a_log_that_lost_what_the_ring_knows_to_be_durable",
    ),
    Mutation(
        "ring-of-another-boot",
        "a ring from before a power failure is taken over",
        "server/ring_memory.py",
        "    if header.boot != clock.read().boot:\n",
        "    if False:\n",
        _STAYS + "::test_a_ring_of_another_boot",
    ),
    Mutation(
        "ring-of-a-hidden-boot",
        "a ring is made where no process can tell the boot, so that the next server ignores it",
        "server/ring_memory.py",
        "        if hidden := clock.hidden_boot_id():\n            raise DeviceError(f",
        "        if hidden := \"\":\n            raise DeviceError(f",
        _STAYS + "::test_a_ring_that_nobody_could_take_over_is_private",
    ),
    Mutation(
        "drop-a-ring-of-a-hidden-boot",
        "a start that cannot tell the boot drops a ring with acknowledged data",
        "server/ring_memory.py",
        "    if hidden := clock.hidden_boot_id():\n        raise DeviceError(\n",
        "    if hidden := \"\":\n        raise DeviceError(\n",
        _STAYS + "::test_a_ring_whose_boot_cannot_be_told_is_kept",
    ),
    Mutation(
        "remove-an-uncommitted-ring",
        "a stop removes a ring with what it could not commit",
        "server/cache.py",
        "is_empty=self._active and self._line.head == self._line.committed",
        "is_empty=self._active",
        _STAYS + "::test_what_a_stop_could_not_commit_stays",
    ),
    Mutation(
        "flush-what-cannot-be-committed",
        "a flush succeeds on a volume that is read-only, while what was taken over is only in memory",
        "volume/volume.py",
        "            if end > self._line.committed:\n",
        "            if False:\n",
        _STAYS + "::test_a_flush_before_it_can_be_committed_fails",
    ),
    Mutation(
        "rewind-over-a-ring",
        "a rewind goes on although a ring has what comes after the log",
        "tools/rewind.py",
        "            if rewind.history.uncommitted:\n",
        "            if False:\n",
        _STAYS + "::TestTools::test_rewind_refuses",
    ),
)
