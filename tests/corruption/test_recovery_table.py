# SPDX-License-Identifier: BSD-3-Clause
"""Each case of recovery by its name: what is found where the next segment is expected, and what is made of it."""

import pytest

from tests.corruption.log_images import (
    BLOCKS,
    CRASHED,
    LOG_BYTES,
    ORIGIN_BYTES,
    STOPPED,
    Damaged,
    log_image,
    make_config,
)
from tests.support.simulated_disk import MemoryDisk
from tests.support.simulated_threads import Simulation
from wbcache_core.errors import (
    DamagedLogError,
    DamagedPageError,
    ForeignLogError,
    LogVersionError,
    OriginFailedError,
    SuperblockError,
    WrongPairError,
)
from wbcache_core.format import segment as segment_format
from wbcache_core.format import superblock as superblock_format
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.cache import Cache
from wbcache_core.units import PAGE_BYTES

VERSION_AT = 8


class Case(Damaged):
    """A damaged pair that can be opened with any parameters, and tells whether anybody wrote to it."""

    def __init__(self, compress="off", end=CRASHED):
        super().__init__(log_image(compress, end))

    def open(self, **parameters):
        return Cache(
            make_config(**parameters), origin=MemoryDisk(self.origin, "origin"), log=MemoryDisk(self.log, "log")
        )  # fmt: skip

    def read(self, **parameters):
        """The volume as a new server serves it."""
        volume = bytearray(ORIGIN_BYTES)
        self.open(**parameters).volume.read_into(volume, 0)
        return bytes(volume)

    def refused(self, error, words):
        """Opening is refused with these words, and nothing is changed."""
        log, origin = bytes(self.log), bytes(self.origin)
        with pytest.raises(error, match=words):
            self.open()
        assert (log, origin) == (self.log, self.origin)

    def run(self, function, **parameters):
        """function(cache) on an active cache with simulated threads."""
        simulation = Simulation(0)

        def main():
            cache = self.open(**parameters)
            cache.activate()
            function(cache)
            cache.stop()

        with simulation.patched():
            simulation.run(main)

    @property
    def superblock(self):
        return newest(read_slots(MemoryDisk(self.log)))

    def descriptors(self):
        """(offset, descriptor) of the segments, in order."""
        found = []
        for offset in range(DATA_START, self.image.used_bytes, PAGE_BYTES):
            page = memoryview(self.log)[offset : offset + PAGE_BYTES]
            if segment_format.has_magic(page):
                found.append((offset, segment_format.decode(page)))
        return found

    def put(self, offset, descriptor):
        segment_format.encode(descriptor, memoryview(self.log)[offset : offset + PAGE_BYTES])

    def wipe(self, offset, length=PAGE_BYTES):
        self.log[offset : offset + length] = bytes(length)


@pytest.fixture(params=["off", "zstd"])
def crashed(request):
    return Case(request.param, CRASHED)


@pytest.fixture(params=["off", "zstd"])
def stopped(request):
    return Case(request.param, STOPPED)


class TestLogGoesOn:
    def test_a_valid_next_segment_is_taken(self, crashed):
        assert crashed.read() == crashed.image.volume

    def test_the_older_superblock_alone_leads_to_the_same_state(self, stopped):
        for slot in SLOT_OFFSETS:
            case = Case(end=STOPPED)
            case.wipe(slot)
            assert case.read() == case.image.volume

    @pytest.mark.parametrize(
        "parameters",
        [
            {"compress": "zstd:19"},
            {"ack": "origin", "flush": "origin", "fua": "origin"},
            {"log_size": "1G", "ring_size": "2M"},
            {"force": "discard-log"},
            {"force": "origin-changed"},
            {"low_watermark": "0", "high_watermark": "1", "destage_delay": "0"},
            {"on_exit": "destage"},
        ],
        ids=lambda parameters: " ".join(parameters),
    )
    def test_a_dirty_log_is_replayed_whatever_the_parameters_say(self, crashed, parameters):
        assert crashed.read(**parameters) == crashed.image.volume


class TestEndOfTheLog:
    def test_a_blank_place_is_the_end(self, crashed):
        assert not any(crashed.log[crashed.image.used_bytes :][:PAGE_BYTES])
        assert crashed.read() == crashed.image.volume

    def test_an_older_segment_is_the_end(self, crashed):
        """A log that goes round meets what it wrote a lap ago."""
        offset, _ = crashed.descriptors()[0]
        end = crashed.image.used_bytes
        crashed.log[end : end + PAGE_BYTES] = crashed.log[offset : offset + PAGE_BYTES]
        assert crashed.read() == crashed.image.volume

    def test_a_segment_of_another_volume_is_the_end(self, crashed):
        """The log device was used for another log before."""
        _, last = crashed.descriptors()[-1]
        foreign = segment_format.Descriptor(
            segment_format.RAW, 0, b"another volume!!", last.end_lsn, last.time_ns + 1, last.end_lsn,
            last.generation + 1, last.checksum, 0, (), (), (), epoch=last.epoch, answers=last.answers,
        )  # fmt: skip
        crashed.put(crashed.image.used_bytes, foreign)
        assert crashed.read() == crashed.image.volume

    def test_a_torn_descriptor_of_the_last_write_is_left_out(self, crashed):
        offset, _ = crashed.descriptors()[-1]
        crashed.wipe(offset + 3584, 512)
        assert crashed.read() == crashed.image.states[-2]

    def test_a_torn_page_of_the_last_write_leaves_out_all_of_it(self, crashed, caplog):
        caplog.set_level("INFO", "wbcache")
        offset, descriptor = crashed.descriptors()[-1]
        crashed.flip(offset + PAGE_BYTES + descriptor.payload_bytes // 2, 3)
        assert crashed.read() == crashed.image.states[-2]
        left_out = f"left out an incomplete last commit, from LSN {descriptor.first_lsn}"
        assert left_out in caplog.text

    def test_what_lies_behind_a_torn_write_is_discarded(self, crashed):
        """Of two segments of one commit the first is torn: the second is whole and does not count."""
        (torn_at, torn), (last_at, last) = crashed.descriptors()[-2:]
        last.committed, last.generation, last.time_ns = torn.committed, torn.generation, torn.time_ns
        crashed.put(last_at, last)
        crashed.flip(torn_at + PAGE_BYTES + 5, 0)
        assert crashed.read() == crashed.image.states[-3]

    def test_what_was_left_out_stays_out_after_the_next_start(self, crashed):
        offset, _ = crashed.descriptors()[-1]
        saved = crashed.log[offset + PAGE_BYTES]
        crashed.log[offset + PAGE_BYTES] ^= 1
        crashed.run(lambda cache: None)
        crashed.log[offset + PAGE_BYTES] = saved
        assert crashed.read() == crashed.image.states[-2]


    def test_what_a_newer_wbcache_wrote_is_refused_by_name(self, crashed):
        """Not taken for the end of the log: it may be flushed data."""
        offset, last = crashed.descriptors()[-1]
        last.version = segment_format.VERSION + 1
        crashed.put(offset, last)
        crashed.refused(LogVersionError, f"LSN {last.first_lsn} with what a newer wbcache wrote .*version 4")

    def test_what_a_newer_wbcache_wrote_for_another_volume_is_the_end(self, crashed):
        offset, last = crashed.descriptors()[-1]
        last.version, last.uuid = segment_format.VERSION + 1, b"another volume!!"
        crashed.put(offset, last)
        assert crashed.read() == crashed.image.states[-2]


class TestDamageInsideTheDurableLog:
    def test_a_hole_that_a_later_segment_proves_is_refused(self, crashed):
        offset, descriptor = crashed.descriptors()[-2]
        crashed.wipe(offset)
        known = crashed.descriptors()[-1][1].committed
        says = f"damaged at LSN {descriptor.first_lsn} .*: what was durable up to LSN {known} .*force=discard-log"
        crashed.refused(DamagedLogError, says)
        crashed.refused(DamagedLogError, "; the origin alone is the volume as of [^;,]*, generation [0-9]+;")

    def test_the_refusal_says_that_a_batch_was_under_way(self, crashed):
        """Then the origin alone may be no moment of the volume."""
        superblock = crashed.superblock
        slot = SLOT_OFFSETS[superblock.sequence % 2]
        raw = superblock_format.encode(superblock.with_changes(batch_end=superblock.destaged + 5))
        crashed.log[slot : slot + PAGE_BYTES] = raw
        crashed.wipe(crashed.descriptors()[-2][0])
        late = f"with writes up to LSN {superblock.destaged + 5} perhaps partly over it"
        crashed.refused(DamagedLogError, f"; the origin alone is the volume as of .*, {late};")

    def test_a_hole_that_the_superblock_proves_is_refused(self, stopped):
        offset, descriptor = stopped.descriptors()[-1]
        stopped.wipe(offset)
        stopped.refused(DamagedLogError, f"damaged at LSN {descriptor.first_lsn} ")

    def test_a_hole_can_be_given_up_by_force(self, crashed):
        crashed.wipe(crashed.descriptors()[-2][0])
        assert crashed.read(force="discard-log") == crashed.image.origin

    def test_a_bad_page_reads_as_an_error(self, crashed):
        """The pages of the third commit from the end: its blocks are unreadable, all others are right."""
        offset, descriptor = crashed.descriptors()[-2]
        crashed.flip(offset + PAGE_BYTES + 100, 0)
        cache = crashed.open()
        bad = []
        for number in range(BLOCKS):
            start = number * PAGE_BYTES
            page = bytearray(min(PAGE_BYTES, ORIGIN_BYTES - start))
            try:
                cache.volume.read_into(page, start)
            except DamagedPageError as error:
                assert str(start) in str(error)
                bad.append(number)
            else:
                assert page == crashed.image.volume[start : start + len(page)]
        assert bad and set(bad) <= set(descriptor.entry_words)

    def test_destaging_stops_before_a_bad_page(self, crashed):
        """What comes before is on the origin, the segment with the bad page and all behind it is not."""
        offset, descriptor = crashed.descriptors()[-2]
        crashed.flip(offset + PAGE_BYTES + 100, 0)

        def drain(cache):
            with pytest.raises(OriginFailedError, match=r"checksum|cannot be read back"):
                cache.drain()

        crashed.run(drain)
        assert crashed.superblock.destaged == descriptor.first_lsn
        assert crashed.origin == crashed.image.states[-3]

    def test_a_clean_page_that_went_bad_harms_nobody(self, crashed):
        """Below `destaged` the origin has it: recovery does not even look."""
        offset, descriptor = crashed.descriptors()[0]
        assert descriptor.end_lsn <= crashed.superblock.destaged
        crashed.wipe(offset, 2 * PAGE_BYTES)
        assert crashed.read() == crashed.image.volume


class TestSuperblocks:
    def test_no_valid_superblock_is_refused(self, crashed):
        for offset in SLOT_OFFSETS:
            crashed.flip(offset + 100, 0)
        crashed.refused(SuperblockError, "both superblocks .* damaged.*force=discard-log")

    def test_a_log_without_superblocks_that_has_segments_is_refused(self, crashed):
        for offset in SLOT_OFFSETS:
            crashed.wipe(offset)
        crashed.refused(SuperblockError, "both superblocks")

    @pytest.mark.parametrize("offset", [0, 4095, 32768, 40000, DATA_START, LOG_BYTES - 1])
    def test_a_log_with_one_foreign_byte_is_not_blank(self, offset):
        case = Case()
        case.wipe(0, LOG_BYTES)
        case.log[offset] = 7
        case.refused(ForeignLogError, "not a wbcache log")

    def test_only_an_all_blank_log_is_formatted_by_itself(self, caplog):
        caplog.set_level("INFO", "wbcache")
        case = Case()
        case.wipe(0, LOG_BYTES)
        assert case.read() == case.image.origin
        assert not any(case.log)
        assert "formatted log" not in caplog.text
        case.run(lambda cache: None)
        assert case.superblock
        assert "formatted log" in caplog.text

    @pytest.mark.parametrize("slot", SLOT_OFFSETS)
    def test_a_newer_format_is_refused(self, crashed, slot):
        superblock = superblock_format.decode(memoryview(crashed.log)[slot : slot + PAGE_BYTES])
        page = bytearray(superblock_format.encode(superblock))
        page[VERSION_AT] += 1
        page[-8:] = superblock_format.xxh3_64_intdigest(page[:-8]).to_bytes(8, "little")
        crashed.log[slot : slot + PAGE_BYTES] = page
        crashed.refused(LogVersionError, "use the wbcache that wrote it")


class TestPair:
    def test_another_origin_size_is_refused(self, crashed):
        del crashed.origin[-512:]
        crashed.refused(WrongPairError, f"of {ORIGIN_BYTES} bytes")

    def test_a_changed_origin_with_a_dirty_log_is_refused(self, crashed):
        crashed.origin[8 * PAGE_BYTES + 5] ^= 1
        crashed.refused(WrongPairError, "force=origin-changed")

    def test_a_changed_origin_is_accepted_by_force(self, crashed):
        """Blocks that the log holds are the log's, the others the origin's."""
        crashed.origin[8 * PAGE_BYTES + 5] ^= 1
        expected = bytearray(crashed.image.volume)
        expected[8 * PAGE_BYTES + 5] ^= 1
        assert crashed.read(force="origin-changed") == expected

    def test_of_an_origin_that_is_lost_the_log_has_the_newest_of_what_it_holds(self, crashed):
        """And of nothing else: it is no backup."""
        crashed.origin[:] = bytes(ORIGIN_BYTES)
        destaged = crashed.superblock.destaged
        dirty = [descriptor for _, descriptor in crashed.descriptors() if descriptor.first_lsn >= destaged]
        held = {head for descriptor in dirty for head in descriptor.entry_words if head < BLOCKS}
        assert 5 < len(held) < BLOCKS
        found = crashed.read(force="origin-changed")
        for start in range(0, ORIGIN_BYTES, PAGE_BYTES):
            page = found[start : start + PAGE_BYTES]
            newest = crashed.image.volume[start : start + PAGE_BYTES]
            assert page == (newest if start // PAGE_BYTES in held else bytes(len(page)))

    def test_an_origin_that_the_log_overwrites_may_have_changed(self, crashed):
        """A batch under way when the power went left its mark there."""
        crashed.origin[PAGE_BYTES : 2 * PAGE_BYTES] = bytes(PAGE_BYTES)
        assert crashed.read() == crashed.image.volume

    def test_a_changed_origin_with_a_clean_log_is_served(self, crashed):
        crashed.run(lambda cache: cache.drain(), on_exit="destage")
        assert crashed.origin == crashed.image.volume
        crashed.origin[8 * PAGE_BYTES + 5] ^= 1
        assert crashed.read() == crashed.origin
