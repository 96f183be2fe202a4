# SPDX-License-Identifier: BSD-3-Clause
"""An owner that ships its log, and a standby."""

import pytest

from tests.support.shipped_log import ShippedLog
from tests.support.standby_on_disk import StandbyOnDisk


@pytest.fixture
def owner():
    return ShippedLog()


@pytest.fixture
def standby(owner):
    """One that has the first superblock, and two segments."""
    standby = StandbyOnDisk()
    standby.tell(owner.page())
    standby.send(owner.commit(3, 5))
    return standby
