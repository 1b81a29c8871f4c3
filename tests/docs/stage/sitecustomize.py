"""Leads `ehr.example.org` to the SMART server of this test run, in every Python on the stage.

So examples run as they are written: with the real host name, port 443 and TLS.
"""

import os
import socket

_HOST = "ehr.example.org"
_PORT = int(os.environ["KEYSTAY_DOCS_PORT"])
_HTTPS = ("127.0.0.1", 443)

_getaddrinfo = socket.getaddrinfo
_connect = socket.socket.connect


def getaddrinfo(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    name = host.decode() if isinstance(host, bytes) else host
    return _getaddrinfo("127.0.0.1" if name == _HOST else host, *args, **kwargs)


def connect(self, address):  # type: ignore[no-untyped-def]
    return _connect(self, ("127.0.0.1", _PORT) if address == _HTTPS else address)


socket.getaddrinfo = getaddrinfo
socket.socket.connect = connect  # type: ignore[method-assign]
