# SPDX-License-Identifier: BSD-3-Clause
"""Requests that a device may refuse: the other way is taken at once, and the refusal is forgotten in time."""

import errno
import logging

import pytest

from wbcache_core.device import optional_requests
from wbcache_core.device.optional_requests import TRIM, ZERO, OptionalRequests
from wbcache_core.errors import DeviceError, DeviceLostError, StoppedError

MINUTE = 60


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(optional_requests.time, "monotonic", lambda: now[0])
    return now


class Device:
    """`ways` has what was done, in order. `refusal` is what the optional request raises, `failure` the other way."""

    def __init__(self):
        self.optional = OptionalRequests()
        self.refusal = self.failure = None
        self.ways = []

    def request(self, kind=ZERO):
        self.ways.clear()
        self.optional.attempt(kind, lambda: self._do("first", self.refusal), lambda: self._do("other", self.failure))
        return self.ways

    def _do(self, way, error):
        self.ways.append(way)
        if error:
            raise error


@pytest.fixture
def device(clock):
    return Device()


@pytest.mark.parametrize("value", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.EPERM, errno.ENOSPC])
def test_whatever_the_reason_the_other_way_is_taken_at_once(device, value):
    device.refusal = DeviceError("refused", value)
    assert device.request() == ["first", "other"]
    assert device.request() == ["other"]
    assert device.request(TRIM) == ["first", "other"], "a kind for itself"


def test_after_a_while_it_is_tried_again_more_and_more_rarely(device, clock):
    device.refusal = DeviceError("refused")
    tried = []
    for minute in range(300):
        clock[0] = 1000.0 + MINUTE * minute + 1
        if "first" in device.request():
            tried.append(minute)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_one_that_works_again_is_used_again_and_has_a_clean_slate(device, clock):
    device.refusal = DeviceError("refused")
    for _ in range(5):
        device.request()
        clock[0] += 60 * MINUTE
    device.refusal = None
    assert device.request() == device.request() == ["first"]
    device.refusal = DeviceError("refused")
    assert device.request() == ["first", "other"]
    clock[0] += MINUTE
    assert device.request() == ["first", "other"]


def test_another_device_is_asked_at_once(device):
    device.refusal = DeviceError("refused")
    device.request()
    device.optional.forget()
    assert device.request() == ["first", "other"]


def test_where_the_other_way_fails_too_the_device_fails_and_has_refused_nothing(device):
    device.refusal, device.failure = DeviceError("refused"), DeviceError("failed", errno.ENOSPC)
    for _ in range(2):
        with pytest.raises(DeviceError, match="failed"):
            device.request()
        assert device.ways == ["first", "other"]


@pytest.mark.parametrize("error", [DeviceLostError("lost"), StoppedError("stopping")])
def test_a_lost_connection_and_a_stop_are_no_refusals(device, error):
    device.refusal = error
    for _ in range(2):
        with pytest.raises(type(error)):
            device.request()
        assert device.ways == ["first"]


def test_it_is_told_once(device, clock, caplog):
    caplog.set_level(logging.INFO, "wbcache")
    device.refusal = DeviceError("cannot zero origin 'o': Invalid argument", errno.EINVAL)
    for _ in range(3):
        device.request()
        clock[0] += 60 * MINUTE
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot zero origin 'o': Invalid argument; zeros are written" in caplog.text
    device.refusal = DeviceError("cannot deallocate", errno.EOPNOTSUPP)
    device.request(TRIM)
    assert caplog.records[-1].levelname == "INFO"
