"""Logging in, with the care a PIN counter demands.

A wrong PIN is tried once in a process: tokens lock after a few, and a daemon that retries locks
them in a second. So a refused PIN is remembered (as a salted hash) and refused from then on
without the token being asked, and no PIN is tried where one failure more would lock it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag
from pkcs11.exceptions import PinIncorrect, PinInvalid, PinLenRange

from keystay.errors import BackendUnavailableError, LoginError
from keystay_pkcs11.errors import mapped

if TYPE_CHECKING:
    from keystay.backends import Secret, SecretResolver
    from keystay_pkcs11.cryptoki import Cryptoki
    from keystay_pkcs11.errors import Place

__all__ = [
    "Credentials",
    "RefusedPins",
    "TokenIdentity",
    "check_flags",
    "log_in",
    "refused_pins",
    "unanswered",
    "warn_if_low",
]

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

    def pin(self, place: Place) -> Secret | None:
        """The PIN, or None when none is given.

        Raises:
            SecretError: The reference cannot be resolved.
        """
        return self.secrets.resolve(self.reference, f"the PIN of token {place.token}")

    def require_pin(self, place: Place) -> Secret:
        """The PIN.

        Raises:
            LoginError: None is given.
            SecretError: The reference cannot be resolved.
        """
        pin = self.pin(place)
        if pin is None:
            raise LoginError(
                f"The {place} wants a PIN and none is given.",
                hint="Add pin-source=file:/run/secrets/pin (or env:NAME, or prompt:) to the key "
                "URI's query, or pin_source = … to [backends.pkcs11].",
                code="pin-missing",
            )
        return pin


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
            raise LoginError(
                f"The {place} refused this PIN before; it is not tried again in this process.",
                cause="The PIN is not this token's, and the token counts failed logins.",
                hint="Correct the PIN that pin-source refers to and open the key again.",
                code="pin-incorrect",
            )

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

unanswered: set[TokenIdentity] = set()
"""Tokens that a login was sent to that has not returned: its PIN may be wrong, so no other is."""


@contextmanager
def _one_login(token: TokenIdentity, place: Place) -> Iterator[None]:
    """Be the only login under way. The caller keeps other threads out as long as it waits.

    Raises:
        BackendUnavailableError: One that nobody waits for any more is still under way.
    """
    if token in unanswered:
        raise BackendUnavailableError(
            f"The {place} has not answered a login; no other one is tried.",
            cause="The device hangs. Were the PIN wrong, one more try could lock the token.",
            hint="Check the device; restart this process if it does not come back.",
            code="login-unanswered",
        )
    unanswered.add(token)
    try:
        yield
    finally:
        unanswered.discard(token)


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
    who = "security officer's PIN" if officer else "PIN"
    locked = TokenFlag.SO_PIN_LOCKED if officer else TokenFlag.USER_PIN_LOCKED
    final = TokenFlag.SO_PIN_FINAL_TRY if officer else TokenFlag.USER_PIN_FINAL_TRY
    if flags & locked:
        raise LoginError(
            f"The {who} of {place} is locked.",
            cause="Too many wrong PINs were tried.",
            hint="Have the security officer set a new PIN (pkcs11-tool --init-pin).",
            code="pin-locked",
        )
    if flags & final:
        raise LoginError(
            f"The {place} has one try left for the {who}; it is not used up here.",
            cause="Wrong PINs were tried before (CKF_USER_PIN_FINAL_TRY).",
            hint="Log in once by hand with the right PIN (pkcs11-tool --login), which resets the "
            "counter, then open the key again.",
            code="pin-final-try",
        )


def warn_if_low(flags: TokenFlag, user_type: int, place: Place) -> None:
    """Warn, before a login, that one has failed since the last good one."""
    officer = user_type == _CKU_SO
    if flags & (TokenFlag.SO_PIN_COUNT_LOW if officer else TokenFlag.USER_PIN_COUNT_LOW):
        logger.warning(
            "A wrong PIN was tried on %s since the last good login.",
            place,
            extra={"event": "wrong-pin-seen"},
        )


def log_in(
    cryptoki: Cryptoki,
    session: int,
    user_type: int,
    pin: bytes | None,
    token: TokenIdentity,
    place: Place,
) -> bool:
    """Log in on an open session; the caller has checked the token's flags.

    Args:
        cryptoki: The module's functions.
        session: Session handle.
        user_type: CKU number.
        pin: The PIN, or None to have it entered at the device.
        token: What a refused PIN is remembered for.
        place: For messages.

    Returns:
        False if somebody else in this process was logged in already.

    Raises:
        LoginError: The PIN is refused, or was before.
        BackendError: The token fails in another way.
    """
    trying = nullcontext() if pin is None else refused_pins.trying(token, pin, place)
    with mapped("logging in", place), trying, _one_login(token, place):
        return cryptoki.login(session, user_type, pin)
