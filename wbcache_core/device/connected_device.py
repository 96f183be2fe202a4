# SPDX-License-Identifier: BSD-3-Clause
"""What a device at the other end of connections can do beside what block_device.Device has."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class ConnectedDevice(Protocol):
    check_seconds: float
    """How often check_idle() is to be called where nothing else is asked of the device."""

    def be_patient(self) -> None:
        """From now on changes and flushes may take as long as they take: a drain needs them."""

    def check_idle(self) -> None:
        """Notice whether the other end is to end, or has gone, on connections that nobody uses. Raises nothing."""
