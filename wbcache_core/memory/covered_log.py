# SPDX-License-Identifier: BSD-3-Clause
"""The part of the log from which past moments can be opened: its generations and its records.

Appended to at each commit, rebuilt by recovery, dropped as the origin catches
up. Callers hold the volume lock.
"""

from wbcache_core.format.segment import Descriptor
from wbcache_core.memory.generations import Generations
from wbcache_core.memory.record_index import RecordIndex
from wbcache_core.units import pages_of


class CoveredLog:
    def __init__(self, volume_bytes: int) -> None:
        self.generations = Generations()
        self.records = RecordIndex(pages_of(volume_bytes))

    def append(self, descriptor: Descriptor) -> None:
        """The segment that follows the last one is durable."""
        self.records.append(
            descriptor.first_lsn, descriptor.page_count, descriptor.heads, descriptor.arguments
        )
        self.generations.append(descriptor.generation, descriptor.end_lsn, descriptor.reading)
