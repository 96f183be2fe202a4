# SPDX-License-Identifier: BSD-3-Clause
"""What to do when libnbd gets no connection: it says which of its functions failed, and not what does not fit."""

import os
import re

from wbcache_core.device.nbd_uri import parameter

_CLIENT_FILES = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
_USER = re.compile(r"[^:]*://([^/?#@]+)@")
_HOST = re.compile(r"[^:]*://(?:[^/?#@]*@)?(\[[^]]*\]|[^:/?#]+)")


def advice(uri: str, said: str) -> str:
    """What does not fit, and what the user can do, where that is known; otherwise empty. `said` is libnbd's message
    about a connection to that URI, which could not be made."""
    if "server requires TLS" in said:
        return (
            "it only takes connections with TLS: write nbds:// (or nbds+unix://), and add "
            "tls-certificates=FOLDER or tls-psk-file=FILE to the URI"
        )
    if "server refused TLS" in said:
        return "it has no TLS: start it with --tls=require and --tls-certificates=FOLDER or --tls-psk=FILE"
    key = parameter(uri, "tls-psk-file")
    if key:
        return _about_a_key(key, _USER.match(uri), said)
    # A server hangs up where it does not accept a certificate; mostly, but not always, GnuTLS notices that first.
    has_failed = "gnutls_" in said or "server closed socket unexpectedly" in said
    return _about_certificates(uri, said) if has_failed and uri.startswith("nbds") else ""


def _about_a_key(path: str, user: "re.Match[str] | None", said: str) -> str:
    is_known = "not found in PSK file" not in said
    if is_known and "gnutls_" not in said and "getlogin" not in said:
        return ""
    if not user:
        # libnbd takes the name of who is logged in, and a service is nobody.
        return f"the URI does not say whose key in '{path}' it is: write the user in front of the host, as in USER@HOST"
    if not is_known:
        return f"the file '{path}' (tls-psk-file) has no key of user '{user[1]}'"
    return (
        f"it does not accept the key of user '{user[1]}' in '{path}': the file that it was started with "
        "(--tls-psk=FILE, and no --tls-certificates) has to have the same line"
    )


def _about_certificates(uri: str, said: str) -> str:
    folder = parameter(uri, "tls-certificates")
    if not folder:
        return "the URI names neither certificates nor a key: add tls-certificates=FOLDER or tls-psk-file=FILE"
    missing = [name for name in _CLIENT_FILES if not os.path.exists(os.path.join(folder, name))]
    if missing:
        return f"the folder '{folder}' (tls-certificates) has no {' and no '.join(missing)}"
    if "gnutls_handshake" in said and "certificate verification" in said:
        host = _HOST.match(uri)
        name = f" for the host '{host[1].strip('[]')}'," if host else ""
        return (
            f"its certificate is not accepted: it has to be{name} signed by the authority whose certificate is "
            f"'{folder}/ca-cert.pem', and not expired"
        )
    return (
        f"it seems not to accept '{folder}/client-cert.pem': that has to be signed by the authority whose ca-cert.pem "
        "it was started with (--tls-certificates=FOLDER, and no --tls-psk), and not expired; its log says more"
    )
