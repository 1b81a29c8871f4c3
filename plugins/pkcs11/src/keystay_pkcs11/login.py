"""Logging in, with the care a PIN counter demands.

A wrong PIN is tried once in a process: tokens lock after a few, and a daemon that retries locks
them in a second. So a refused PIN is remembered (as a salted hash) and refused from then on
without the token being asked, and no PIN is tried where one failure more would lock it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag
from pkcs11.exceptions import PinIncorrect, PinInvalid, PinLenRange

from keystay_pkcs11.errors import TEXTS, translated

if TYPE_CHECKING:
    from keystay.backends import SecretResolver
    from keystay_pkcs11.errors import Place

__all__ = [
    "Credentials", "RefusedPins", "TokenIdentity", "check_flags", "choose_pin", "log_in",
    "refused_pins", "unanswered",
]  # fmt: skip

logger = logging.getLogger("keystay.backends.pkcs11")

TokenIdentity = tuple[str, str, str]
"""Real module path, token label, token serial."""

_CKU_SO = 0


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """How a key's owner logs in.

    Attributes:
        reference: Secret reference of the PIN, or None.
        secrets: Resolves it, once.
        user_type: CKU number.
    """

    reference: str | None
    secrets: SecretResolver
    user_type: int

    def pin(self, place: Place) -> bytes:
        """The PIN.

        Raises:
            LoginError: None is given.
            SecretError: The reference cannot be resolved.
        """
        pin = self.pin_or_none(place)
        if pin is None:
            raise TEXTS.error("pin-missing", place=place)
        return pin

    def pin_or_none(self, place: Place) -> bytes | None:
        """As `pin`; None when none is given."""
        secret = self.secrets.resolve(self.reference, f"the PIN of token {place.token}")
        return None if secret is None else secret.reveal().encode()


class RefusedPins:
    """The PINs that tokens refused in this process, as salted hashes."""

    def __init__(self) -> None:
        self._salt = os.urandom(32)
        self._seen: set[tuple[TokenIdentity, bytes]] = set()

    def __repr__(self) -> str:
        return f"<RefusedPins: {len(self._seen)}>"

    def add(self, token: TokenIdentity, pin: bytes) -> None:
        """Remember that `token` refused `pin`."""
        self._seen.add((token, self._hash(pin)))

    def check(self, token: TokenIdentity, pin: bytes, place: Place) -> None:
        """Refuse a PIN that the token has refused before.

        Raises:
            LoginError: It has.
        """
        if (token, self._hash(pin)) in self._seen:
            raise TEXTS.error("pin-refused-before", place=place)

    @contextmanager
    def trying(self, token: TokenIdentity, pin: bytes, place: Place) -> Iterator[None]:
        """Try a PIN in the block: not if it was refused before, and remembered if it is now.

        Raises:
            LoginError: It was.
        """
        self.check(token, pin, place)
        try:
            yield
        except (PinIncorrect, PinInvalid, PinLenRange):
            self.add(token, pin)
            raise

    def _hash(self, pin: bytes) -> bytes:
        return hashlib.blake2b(pin, key=self._salt).digest()


refused_pins = RefusedPins()
"""Those of this process."""

unanswered: set[tuple[TokenIdentity, int]] = set()
"""Tokens, and generations of their module, with a login that has not returned.

Its PIN may be wrong, so no other is sent. What it came to in a generation that is over will never
be known.
"""


def check_flags(flags: TokenFlag, user_type: int, place: Place) -> None:
    """Refuse to log in where one more failure would lock the token.

    Args:
        flags: The token's flags now (PKCS #11 v3.1, section 3.2, CK_TOKEN_INFO).
        user_type: CKU number; the security officer has flags of their own.
        place: For messages.

    Raises:
        LoginError: The PIN is locked, or only one try is left.
    """
    officer = user_type == _CKU_SO
    pin = "security officer's PIN" if officer else "PIN"
    if flags & (TokenFlag.SO_PIN_LOCKED if officer else TokenFlag.USER_PIN_LOCKED):
        raise TEXTS.error("pin-locked", pin=pin, place=place)
    if flags & (TokenFlag.SO_PIN_FINAL_TRY if officer else TokenFlag.USER_PIN_FINAL_TRY):
        raise TEXTS.error("pin-final-try", pin=pin, place=place)


def choose_pin(
    credentials: Credentials, flags: TokenFlag, token: TokenIdentity, place: Place
) -> bytes | None:
    """The PIN to log in with, or None to have it entered at the device. It may be prompted for.

    Warns if a login has failed since the last good one.

    Raises:
        LoginError: It is missing, was refused before, or one failure more would lock the token.
        SecretError: Its reference cannot be resolved.
    """
    check_flags(flags, credentials.user_type, place)
    has_pin_pad = flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH
    pin = credentials.pin_or_none(place) if has_pin_pad else credentials.pin(place)
    if pin is not None:
        refused_pins.check(token, pin, place)
    officer = credentials.user_type == _CKU_SO
    if flags & (TokenFlag.SO_PIN_COUNT_LOW if officer else TokenFlag.USER_PIN_COUNT_LOW):
        logger.warning(
            "A wrong PIN was tried on %s since the last good login.",
            place,
            extra={"event": "wrong-pin-seen"},
        )
    return pin


def log_in(
    call: Callable[[], bool],
    pin: bytes | None,
    token: TokenIdentity,
    generation: int,
    place: Place,
) -> bool:
    """Log in; only one login to a token is under way. The caller keeps other threads out.

    Args:
        call: Makes the C call.
        pin: The PIN it sends, or None.
        token: What a refused PIN is remembered for.
        generation: The module's.
        place: For messages.

    Returns:
        What `call` returned.

    Raises:
        LoginError: The PIN is refused, or was before.
        BackendUnavailableError: A login that was abandoned is still under way.
        BackendError: The token fails in another way.
    """
    key = token, generation
    if key in unanswered:
        raise TEXTS.error("login-unanswered", place=place)
    trying = nullcontext() if pin is None else refused_pins.trying(token, pin, place)
    unanswered.add(key)
    try:
        with translated("logging in", place), trying:
            return call()
    finally:
        unanswered.discard(key)
