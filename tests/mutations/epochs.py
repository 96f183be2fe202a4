# SPDX-License-Identifier: BSD-3-Clause
"""Epochs, and what a segment says about the answers that clients got."""

from tests.mutations.mutation import Mutation

_ORDER = "tests/unit/log/test_epochs.py"
_MODEL = "tests/model/test_epochs.py"

MUTATIONS = (
    Mutation(
        "segment-before-its-epoch",
        "a new epoch is in one superblock only when its first segment is written",
        "log/takeover.py",
        "    for _ in range(2):\n        store.write(**changes)\n",
        "    store.write(**{name: value for name, value in changes.items() if name not in (\"epoch\", \"history\")})\n"
        "    store.write(**changes)\n",
        f"{_MODEL}::test_the_epoch_is_in_both_superblocks_before_its_first_segment",
    ),
    Mutation(
        "no-new-epoch-at-a-start",
        "a server goes on in the epoch of the one before",
        "log/epochs.py",
        "        epoch = following(superblock.epoch, takes_over)\n",
        "        epoch = superblock.epoch if superblock.epoch.number else following(superblock.epoch, takes_over)\n",
        _MODEL,
    ),
    Mutation(
        "history-with-a-wrong-checksum",
        "the history says that an epoch began behind another descriptor than it did",
        "log/epochs.py",
        "Switch(epoch, first_lsn, previous))[-HISTORY_LENGTH:]",
        "Switch(epoch, first_lsn, 0))[-HISTORY_LENGTH:]",
        _MODEL,
    ),
    Mutation(
        "history-not-compared",
        "what was written behind another descriptor than the history says counts",
        "log/epochs.py",
        "            elif first_lsn == switch.first_lsn and previous != switch.previous:\n",
        "            elif not first_lsn:\n",
        _ORDER,
    ),
    Mutation(
        "segment-of-an-older-epoch",
        "a segment of an older epoch follows one of a newer",
        "log/epochs.py",
        "        if not (may_follow(epoch, self._last) and may_follow(self._current, epoch)):\n",
        "        if not may_follow(self._current, epoch):\n",
        _ORDER,
    ),
    Mutation(
        "segment-of-a-dead-epoch",
        "a segment of an epoch that the history has ended counts beyond its end",
        "log/epochs.py",
        "            elif not may_follow(epoch, switch.epoch):\n                return False\n",
        "            elif not epoch:\n                return False\n",
        _ORDER,
    ),
    Mutation(
        "segment-of-an-unknown-epoch",
        "a segment of an epoch that no superblock knows counts",
        "log/epochs.py",
        "may_follow(self._current, epoch)):\n",
        "epoch.number >= 0):\n",
        _MODEL,
    ),
    Mutation(
        "recovery-ignores-epochs",
        "recovery follows the chain whatever the epochs",
        "log/recovery.py",
        "            and order.admits(lsn, previous, descriptor.epoch)\n",
        "",
        _MODEL,
    ),
    Mutation(
        "answers-of-exports-are-not-noted",
        "a segment says that nothing was answered before the log had it, although an export does",
        "memory/open_segment.py",
        "        if level < self.ack:\n",
        "        if not self.ack:\n",
        _MODEL,
    ),
    Mutation(
        "answers-of-the-next-policy",
        "a request is answered by a weaker ack than the one that its segment noted",
        "memory/policy.py",
        "    return one if one.ack >= other.ack else other\n",
        "    return other\n",
        _MODEL,
    ),
    Mutation(
        "answers-of-the-present-policy-only",
        "a weaker ack does not count for the segment that is open",
        "memory/cursors.py",
        "                self.open_segment.answer_at(policy.ack)\n",
        "                pass\n",
        _MODEL,
    ),
    Mutation(
        "answers-stronger-than-the-log",
        "a segment claims that everything was answered by the origin, which may change afterwards",
        "log/segment_encoder.py",
        "*[Answers(answers.LOG, answers.LOG)] * ORIGIN)\n",
        "*[Answers(answers.LOG, answers.LOG)] * (ORIGIN - 1), Answers(answers.ORIGIN, answers.LOG))\n",
        _MODEL,
    ),
)
