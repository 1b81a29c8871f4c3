"""The numbers that bound what a token client does, checked alike in the file and in Python."""

from __future__ import annotations

import re

from keystay.errors import ConfigurationError

__all__ = ["parse_rate", "require_tries", "require_window"]

_MOST_TRIES = 20
_LONGEST_PERIOD = 86400
_RATE = re.compile(r"([0-9]{1,6})/([0-9]{1,5}(?:\.[0-9]{1,3})?)")


def require_window(share: float) -> float:
    """The share of a token's life in which it is renewed: more than none, less than the whole.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise _invalid(
            "The renewal window is not between 0 and 1.",
            "Write the share of a token's life in which it is renewed: 0.2 for the last fifth.",
        )
    return float(share)


def require_tries(count: int, name: str) -> int:
    """How often something is tried again: 0 to 20.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_TRIES:
        raise _invalid(
            f"{name} is not a whole number from 0 to {_MOST_TRIES}.",
            "Write how often to try again; 0 for never.",
        )
    return count


def parse_rate(text: str) -> tuple[int, float]:
    """How many requests in how many seconds `"5/60"` allows.

    Raises:
        ConfigurationError: It is not such a text.
    """
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    count, seconds = (int(found[1]), float(found[2])) if found else (0, 0.0)
    if count < 1 or not 0 < seconds <= _LONGEST_PERIOD:
        raise _invalid(
            "The rate limit is not requests/seconds.",
            'Write "5/60" for five token requests a minute; at most a day.',
        )
    return count, seconds


def _invalid(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(message, hint=hint, code="config-value-invalid")
