# SPDX-License-Identifier: BSD-3-Clause
"""Past moments at a standby that has an origin of its own."""

from tests.mutations.mutation import Mutation

_SNAPSHOTS = "tests/unit/volume/test_standby_snapshots.py"
_PAST = "tests/unit/server/test_standby_past.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "own-origin-above-safe-when-filled",
        "a standby whose origin is the volume destages to it what another log that counts may lack",
        "flow/standby_line.py",
        "        return self._log.safe\n",
        "        return self._log.copy.head\n",
        f"{_SNAPSHOTS}::test_what_is_not_in_all_logs_is_not_shown",
    ),
    Mutation(
        "moment-that-others-lack",
        "a standby shows a moment that a later owner may lack, whose number then names another one",
        "volume/standby_snapshots.py",
        "        end = min(max(log.agreed, on_origin), log.copy.synced)\n",
        "        end = log.copy.synced\n",
        f"{_SNAPSHOTS}::test_what_is_not_in_all_logs_is_not_shown",
    ),
    Mutation(
        "time-that-passes-at-a-standby",
        "a standby takes a time for final by what a later owner may write again, at another time",
        "volume/standby_snapshots.py",
        "            return generation, moments.is_final(when, generation, newest)\n",
        "            return generation, moments.is_final(when, generation, self._covered.generations.newest)\n",
        f"{_SNAPSHOTS}::test_a_time_after_the_newest_that_is_shown_is_a_name_that_passes",
    ),
    Mutation(
        "moment-of-which-the-rest-may-come",
        "a standby shows a commit of which it has only a part",
        "volume/standby_snapshots.py",
        "        return head - 1\n",
        "        return end\n",
        f"{_SNAPSHOTS}::test_a_commit_of_which_the_rest_may_come_is_not_shown",
    ),
    Mutation(
        "agreed-outlives-its-log",
        "what was in all logs counts as there after it has been cut off, so that what comes in its place does",
        "log/standby_log.py",
        "                    self.agreed = min(self.agreed, self._copy.head)\n",
        "                    pass\n",
        f"{_PAST}::test_what_is_open_has_ended_when_its_log_is_cut_off",
    ),
    Mutation(
        "agreed-outlives-its-epoch",
        "what one owner has said to be in all logs, and this one lacked, counts of what another owner writes there",
        "log/standby_log.py",
        "                if is_cut or sent.epoch != before:\n",
        "                if is_cut:\n",
        f"{_SNAPSHOTS}::test_what_was_safe_beyond_this_log_is_not_what_another_owner_writes_there",
    ),
    Mutation(
        "moment-does-not-hold-the-origin",
        "the origin of a standby moves on beyond a moment that is open there",
        "flow/standby_retention.py",
        "        return min([pins.limit(), ",
        "        return min([min(self._log.safe, self._log.copy.head), ",
        f"{_SNAPSHOTS}::test_it_holds_the_origin_back_until_it_is_closed",
    ),
    Mutation(
        "moment-gives-way-unsaid",
        "a moment that had to give way at a standby reads as what the origin has now",
        "flow/standby_destager.py",
        "                self._retention.pass_to(end)\n",
        "",
        f"{_SNAPSHOTS}::test_it_gives_way_when_the_log_is_short_of_room",
    ),
    Mutation(
        "tag-gives-way-at-a-standby",
        "a standby gives up a moment that its owner keeps by a tag",
        "flow/standby_retention.py",
        "        return min([pins.limit(), *(tag.end_lsn for tag in pins.tags)])\n",
        "        return pins.limit()\n",
        f"{_SNAPSHOTS}::test_a_tag_does_not_give_way",
    ),
    Mutation(
        "moment-outlives-its-log",
        "a moment is read on at a standby whose log has been cut off, or has begun anew with an origin that is filled",
        "volume/standby_snapshots.py",
        "    if copy.hot is not hot or copy.failure:\n",
        "    if copy.failure:\n",
        f"{_PAST}::test_nothing_is_shown_while_the_origin_is_filled",
    ),
    Mutation(
        "moment-by-the-cursors-of-another-log",
        "while the log of a standby begins anew, a moment is read from an origin that does not have it",
        "volume/standby_snapshots.py",
        "        line = _MomentLine(self._hot, generation.end_lsn)\n",
        "        line = _MomentLine(self._log, generation.end_lsn)\n",
        f"{_PAST}::test_while_the_log_begins_anew_nothing_is_read_from_elsewhere",
    ),
    Mutation(
        "moment-read-while-it-is-closed",
        "a standby that takes over closes its origin under a reader, which may then read another file",
        "server/standby_past.py",
        "            self._ended.wait_for(lambda: not self._requests)\n",
        "            pass\n",
        f"{_PAST}::test_closing_waits_for_what_is_being_read",
    ),
    Mutation(
        "reader-waits-for-the-owner",
        "a backup at a standby waits for the log's device with every read",
        "volume/standby_snapshots.py",
        "        self.lock = threading.Lock()\n",
        "        self.lock = log.lock\n",
        f"{_SNAPSHOTS}::test_a_reader_does_not_wait_for_what_the_owner_sends",
    ),
)
