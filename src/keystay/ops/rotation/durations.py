"""Seconds in words."""

from __future__ import annotations

__all__ = ["words"]

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def words(seconds: int) -> str:
    """The two largest units: `1 d 5 h`, `4 min 59 s`, `0 s`."""
    parts = []
    for name, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"
