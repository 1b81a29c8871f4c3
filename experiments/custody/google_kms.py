"""Google Cloud KMS in a process of its own, holding the key that comes in on stdin."""

from __future__ import annotations

import sys

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from tests.support.gcp_kms_server import GcpKmsServer


def main() -> None:
    key = load_der_private_key(bytes.fromhex(sys.stdin.readline()), None)
    rsa = isinstance(key, RSAPrivateKey)
    algorithm = "RSA_SIGN_RAW_PKCS1_3072" if rsa else "EC_SIGN_P384_SHA384"
    with GcpKmsServer() as server:
        print(server.add("known", algorithm, private_key=key, imported=True), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
