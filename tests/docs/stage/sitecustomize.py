"""Leads `ehr.example.org` and `keys.example.org` to this test run's server, in every Python.

So examples run as they are written: with the real host name, port 443 and TLS.
"""

import os
import socket

_HOSTS = ("ehr.example.org", "keys.example.org")
_PORT = int(os.environ["KEYSTAY_TEST_DOCS_PORT"])
_HTTPS = ("127.0.0.1", 443)

_getaddrinfo = socket.getaddrinfo
_connect = socket.socket.connect


def getaddrinfo(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    name = host.decode() if isinstance(host, bytes) else host
    return _getaddrinfo("127.0.0.1" if name in _HOSTS else host, *args, **kwargs)


def connect(self, address):  # type: ignore[no-untyped-def]
    return _connect(self, ("127.0.0.1", _PORT) if address == _HTTPS else address)


socket.getaddrinfo = getaddrinfo
socket.socket.connect = connect  # type: ignore[method-assign]
