# SPDX-License-Identifier: BSD-3-Clause
"""Paths, file:// URIs and NBD URIs: which is which."""

import pytest

from wbcache_core.device.name import absolute_device_name, device_name, is_uri, local_path
from wbcache_core.errors import ConfigError
from wbcache_core.server.config import Config


@pytest.mark.parametrize("text", ["nbd://host", "nbds+unix:///?socket=s", "NBD://host/export", "http://x"])
def test_uris_of_servers(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_uri(text)
    assert device_name(text) == text


@pytest.mark.parametrize("text", ["a.img", "/a://b", "./nbd://x", "://", "3x://y", "file:///x", "file:x", ""])
def test_paths(text):
    assert not is_uri(text)


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nbd:", "file:"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"")
        assert device_name(f"{name}//x") == f"{name}//x"
        assert absolute_device_name(f"{name}//x") == str(tmp_path / name / "x")
        config = Config()
        config.set("log", f"{name}//x")
        assert config.log == str(tmp_path / name / "x")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b", "/a/b"), ("FILE://localhost/a", "/a"), ("file:///a%20b%25%3f", "/a b%?"),
        ("file:///%ff%c3%a4", "/\udcff\xe4"), ("file:///a\nb", "/a\nb"),
    ],
)  # fmt: skip
def test_file_uris(uri, path):
    assert local_path(uri) == device_name(uri) == absolute_device_name(uri) == path
    config = Config()
    config.set("origin", uri)
    config.set("log", f"{uri}.log")
    assert (config.origin, config.log) == (path, f"{path}.log")


@pytest.mark.parametrize("uri", ["file://host/a", "file://", "file:///", "file://a", "file:///a?b", "file:///%00"])
def test_file_uris_that_name_no_file_here(uri):
    for parse in (local_path, device_name, absolute_device_name):
        with pytest.raises(ConfigError, match="file"):
            parse(uri)


@pytest.mark.parametrize("name", [local_path, device_name, absolute_device_name])
def test_an_empty_name_is_none(name):
    with pytest.raises(ConfigError, match="empty"):
        name("")


@pytest.mark.parametrize("text", ["a.img", "nbd+unix:///?socket=s"])
def test_a_relative_name_where_the_working_directory_is_gone(tmp_path, monkeypatch, text):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="absolute path"):
        absolute_device_name(text)
    for key in ("origin", "log", "control"):
        with pytest.raises(ConfigError, match="absolute path"):
            Config().set(key, "a.img")
    assert absolute_device_name("/a.img") == "/a.img"
