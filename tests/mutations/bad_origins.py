# SPDX-License-Identifier: BSD-3-Clause
"""An origin that refuses requests or has bad sectors."""

from tests.mutations.mutation import CUTS, Mutation

MUTATIONS = (
    Mutation(
        "pass-refused-blocks",
        "`destaged` passes a block that the origin rejected",
        "flow/destager.py",
        "        if not written.contents:\n            return written, batch.end_lsn, []",
        "        if written is not None:\n            return written, batch.end_lsn, []",
        "tests/model/test_bad_blocks.py::test_a_restart_finds_it_again_from_the_log_alone",
    ),
    Mutation(
        "carry-without-commit",
        "a rejected block counts as carried forward before it is durable in the log",
        "flow/carrier.py",
        "        self._commit(newest + 1)\n",
        "",
        CUTS.format("bad sectors"),
    ),
    Mutation(
        "carry-over-newer-data",
        "a rejected block is carried forward over what a client has written since",
        "flow/carrier.py",
        "                blocks = [block for block in blocks if self._is_newest(block, batch_end)]\n",
        "",
        CUTS.format("bad sectors"),
    ),
    Mutation(
        "give-up-what-came-later",
        "what is written to a block after it was given up is given up with it",
        "flow/bad_blocks.py",
        "        return self._given_up.get(block) == entry_lsn(self._map.get(block))\n",
        "        return block in self._given_up\n",
        CUTS.format("bad sectors are given up"),
    ),
    Mutation(
        "drop-what-came-later",
        "what is written to a block while the batch that drops it is under way is removed from the map",
        "flow/bad_blocks.py",
        "            if self.is_given_up(block):\n                self._map.set_page(block, 0)\n",
        "            if True:\n                self._map.set_page(block, 0)\n",
        "tests/model/test_bad_blocks.py::test_what_is_written_while_it_is_dropped_is_read",
    ),
    Mutation(
        "give-up-a-later-trim",
        "a trim that follows the write that was given up is given up with it",
        "flow/bad_blocks.py",
        "        self._line.close_segment()\n        chosen =",
        "        chosen =",
        "tests/model/test_bad_blocks.py::test_what_is_trimmed_after_giving_up_is_not_given_up",
    ),
    Mutation(
        "carried-moments-stay-open",
        "moments between a rejected block and the position it was carried to can be opened",
        "flow/carrier.py",
        "            self._pins.pass_to(end)\n",
        "",
        "tests/model/test_bad_blocks.py",
    ),
    Mutation(
        "drain-is-the-batch-under-way",
        "the drain at the end gives up what failed in a batch that was under way when it began",
        "flow/destager.py",
        "            if self._began_before_drain():\n                self._bad.retry_all()\n",
        "",
        "tests/model/test_bad_blocks.py::test_a_batch_that_was_under_way_is_not_the_drain_at_the_end",
    ),
    Mutation(
        "drain-ends-with-the-batch-under-way",
        "the failure of a batch that was under way when the drain at the end began ends it",
        "flow/destager.py",
        "                self._retry_at, self._forgiven = 0.0, failure\n",
        "                pass\n",
        "tests/model/test_bad_blocks.py::test_a_batch_that_was_under_way_is_not_the_drain_at_the_end",
    ),
)
