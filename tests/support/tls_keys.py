# SPDX-License-Identifier: BSD-3-Clause
"""Certificates and keys for tests, made by certtool and psktool as docs/peers.md has it."""

import subprocess

LIMIT_S = 60


def _run(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=LIMIT_S)


class Authority:
    """A certificate authority in `folder`, which has to be new."""

    def __init__(self, folder, name="tests of wbcache"):
        self.folder = folder
        folder.mkdir()
        self._key, self.certificate = folder / "ca-key.pem", folder / "ca-cert.pem"
        self._make(self._key, self.certificate, ["--generate-self-signed"], [f"cn = {name}", "ca", "cert_signing_key"])

    def _make(self, key, certificate, command, template):
        lines = key.with_suffix(".template")
        lines.write_text("\n".join([*template, "expiration_days = 2", ""]))
        _run("certtool", "--generate-privkey", "--key-type=ed25519", "--outfile", key)
        _run("certtool", *command, "--load-privkey", key, "--template", lines, "--outfile", certificate)

    def issue(self, name, kind, *hosts):
        """The folder of a `server` or a `client`, as nbdkit and libnbd read it; `hosts` are lines of the template."""
        place = self.folder / name
        place.mkdir()
        (place / "ca-cert.pem").write_bytes(self.certificate.read_bytes())
        signed = ["--generate-certificate", "--load-ca-certificate", self.certificate, "--load-ca-privkey", self._key]
        template = [f"cn = {name}", f"tls_www_{kind}", "signing_key", *hosts]
        self._make(place / f"{kind}-key.pem", place / f"{kind}-cert.pem", signed, template)
        return place


def psk_file(path, user="wbcache"):
    """A file with a new key of that user; returns the path."""
    _run("psktool", "--username", user, "--pskfile", path)
    return path
