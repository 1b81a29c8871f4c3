"""A digest inside the report, over every byte of it, in any format.

The file holds the marker once, with the SHA-256 of the file as it is while the digest's 64 digits
are zeros. Whoever changes a byte can compute the digest anew: it shows accidents, and with a digest
that was noted elsewhere (the command prints it) it shows everything.
"""

from __future__ import annotations

import hashlib
import re

from keystay.errors import ConfigurationError

__all__ = ["PLACE", "seal", "verify"]

_MARKER = b"keystay-report-sha256:"
_ZEROS = b"0" * 64
_DIGEST = re.compile(re.escape(_MARKER) + rb"([0-9a-f]{64})(?![0-9a-f])")

PLACE = (_MARKER + _ZEROS).decode()
"""Where a format puts the digest, once."""


def seal(text: str) -> tuple[bytes, str]:
    """Put the digest in its place.

    Args:
        text: A report with `PLACE` in it, once.

    Returns:
        The report, and the digest in hexadecimal.
    """
    unsealed = text.encode()
    # What comes from outside cannot hold the marker unnoticed.
    if unsealed.count(_MARKER) != 1 or PLACE.encode() not in unsealed:
        raise ConfigurationError(
            "Something in the report looks like the report's own digest.",
            hint="Look for keystay-report-sha256 in names and URLs of the configuration.",
            code="report-unsealable",
        )
    digest = hashlib.sha256(unsealed).hexdigest()
    return unsealed.replace(PLACE.encode(), _MARKER + digest.encode()), digest


def verify(content: bytes, expected: str | None = None) -> str:
    """Compare a report with the digest in it.

    Args:
        content: The file.
        expected: The digest that was noted when it was made.

    Returns:
        The digest.

    Raises:
        ConfigurationError: It has none, or was changed.
    """
    found = _DIGEST.findall(content)
    if len(found) != 1 or content.count(_MARKER) != 1:
        raise ConfigurationError(
            "This is not a report of keystay, or its digest was changed.",
            cause="The digest is missing, or is there more than once.",
            hint="Make the report again: keystay report.",
            code="report-unsealed",
        )
    written = found[0].decode()
    digest = hashlib.sha256(content.replace(_MARKER + found[0], PLACE.encode())).hexdigest()
    if digest != written or (expected is not None and digest != expected.strip().lower()):
        raise ConfigurationError(
            f"The report was changed after it was made: its digest is {digest}, not "
            f"{written if digest != written else expected}.",
            cause="An edit, a conversion of line ends, or a broken copy.",
            hint="Get the original, or make the report again: keystay report.",
            code="report-changed",
        )
    return digest
