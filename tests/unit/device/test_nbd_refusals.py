# SPDX-License-Identifier: BSD-3-Clause
"""What a user is told when there is no connection to an NBD server. `nbdkit/test_peer_tls.py` has the real messages."""

import pytest

from wbcache_core.device.nbd_refusals import advice

HANDSHAKE = "gnutls_handshake: The TLS connection was non-properly terminated. (2/1)"
VERIFICATION = "gnutls_handshake: Error in the certificate verification. (15/1)"
RECEIVED = "gnutls_record_recv: Error in the pull function."
CLOSED = "server closed socket unexpectedly: Transport endpoint is not connected"


@pytest.fixture
def certificates(tmp_path):
    for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "said", "words"),
    [
        ("nbd://b", "handshake: server requires TLS encryption first: Operation not supported", "write nbds://"),
        ("nbds://b", "handshake: server refused TLS, but handle TLS setting is 'require'", "it has no TLS"),
        ("nbds://b", RECEIVED, "names neither certificates nor a key"),
        ("nbds://b?tls-psk-file=/k", "getlogin_r: No such device or address", "whose key in '/k' it is"),
        ("nbds://me@b?tls-psk-file=/k", "/k: username me was not found in PSK file", "has no key of user 'me'"),
        ("nbds://me@b?tls-psk-file=/a%20k", HANDSHAKE, "key of user 'me' in '/a k'"),
        ("nbds+unix://me@/log?socket=/s&tls-psk-file=/k", HANDSHAKE, "key of user 'me' in '/k'"),
    ],
)
def test_what_is_advised(uri, said, words):
    assert words in advice(uri, said)


def test_what_a_folder_lacks(certificates):
    (certificates / "client-key.pem").unlink()
    said = advice(f"nbds://b?tls-certificates={certificates}", VERIFICATION)
    assert said == f"the folder '{certificates}' (tls-certificates) has no client-key.pem"


def test_which_certificate_is_not_accepted(certificates):
    uri = f"nbds://b:10810/log?tls-certificates={certificates}"
    said = advice(uri, VERIFICATION)
    assert "for the host 'b', signed by" in said and f"'{certificates}/ca-cert.pem'" in said
    assert "for the host '::1'," in advice(f"nbds://[::1]:10810?tls-certificates={certificates}", VERIFICATION)
    assert "has to be signed" in advice(f"nbds+unix:///log?socket=/s&tls-certificates={certificates}", VERIFICATION)
    for message in (RECEIVED, HANDSHAKE, CLOSED):
        assert f"seems not to accept '{certificates}/client-cert.pem'" in advice(uri, message)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nbd://b", "connect: Connection refused"),
        ("nbds://b?tls-certificates=/none", "connect: Connection refused"),
        ("nbds://b?tls-psk-file=/k", "connect: Connection refused"),
        ("nbd://b", CLOSED),
        ("nbds://me@b?tls-psk-file=/k", "open: /k: No such file or directory"),
    ],
)
def test_what_needs_none(uri, said):
    assert advice(uri, said) == ""
