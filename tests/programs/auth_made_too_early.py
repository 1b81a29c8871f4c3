"""An auth() made when one HTTP library was imported is used in a client of the other.

python auth_made_too_early.py FHIR_BASE CLIENT_ID PEM_FILE FIRST THEN
"""

from __future__ import annotations

import importlib
import logging
import sys

import keystay


def main() -> None:
    """Print the error's code and remedy, and what comes of doing as it says."""
    base, client_id, pem_file, first, then = sys.argv[1:]
    logging.disable()  # a PEM key, as we know
    if first == "httpx":  # else keystay itself imports the other
        sys.modules["httpx2"] = None  # type: ignore[assignment]
    importlib.import_module(first)
    with keystay.open_signer(f"file:{pem_file}") as signer:
        client = keystay.TokenClient(
            fhir_base_url=base,
            client_id=client_id,
            signer=signer,
            scope="system/Patient.rs",
            allow_insecure_loopback=True,
        )
        early = client.auth()
        if first == "httpx":
            del sys.modules["httpx2"]
        library = importlib.import_module(then)
        with library.Client(base_url=base) as fhir:
            try:
                fhir.get("Patient/123", auth=early)
            except keystay.KeystayError as error:
                print(error.code, error.hint, sep="\n")
            print(fhir.get("Patient/123", auth=client.auth()).status_code)


if __name__ == "__main__":
    main()
