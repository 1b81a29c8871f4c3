"""Why a request was refused: a reason for tests, a sentence for people, a code for clients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keystay.testing.messages import NO_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping

# RFC 6749 section 5.2: %x20-21 / %x23-5B / %x5D-7E.
_NOT_IN_A_DESCRIPTION = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_LONGEST_SENTENCE = 500


class RequestRefusedError(Exception):
    """A request that a server in this package turns down.

    Attributes:
        reason: A stable word for this failed check, such as `exp-too-far`.
        sentence: What was wrong, in the characters that RFC 6749 section 5.2 allows.
        error: The OAuth error code.
        status: The HTTP status.
        headers: Header fields that the reply must carry.
    """

    def __init__(
        self,
        reason: str,
        sentence: str,
        *,
        error: str = "invalid_request",
        status: int = 400,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """Keep the reason and a sentence fit for an `error_description`."""
        self.reason = reason
        self.sentence = printable(sentence)
        self.error = error
        self.status = status
        self.headers = headers
        super().__init__(f"{reason}: {self.sentence}")


class AssertionRefusedError(RequestRefusedError):
    """A client assertion that fails a check: RFC 7523 section 3.2 makes it `invalid_client`."""

    def __init__(self, reason: str, sentence: str) -> None:
        """Refuse as a failed client authentication (RFC 6749 section 5.2: 401)."""
        super().__init__(reason, sentence, error="invalid_client", status=401)


class ScopeRefusedError(RequestRefusedError):
    """A requested scope that is malformed, unknown or not allowed for the client."""

    def __init__(self, reason: str, sentence: str) -> None:
        """Refuse with `invalid_scope` (RFC 6749 section 5.2)."""
        super().__init__(reason, sentence, error="invalid_scope", status=400)


def printable(text: str) -> str:
    """Return text limited to what an `error_description` may hold, at most 500 characters."""
    return _NOT_IN_A_DESCRIPTION.sub("?", text.replace('"', "'"))[:_LONGEST_SENTENCE]
