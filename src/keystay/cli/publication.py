"""Looks at a JWKS URL, for the commands that have to know what is published there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystay.config import ClientConfig, Config
    from keystay.tokens.key_state.publication import Publication

__all__ = ["look"]


def look(config: Config, client: ClientConfig, url: str) -> Publication:
    """What is published at a URL now.

    Raises:
        KeystayError: Nothing that can be used.
    """
    from keystay.http.io import run_once
    from keystay.tokens.key_state.publication import fetch_publication

    insecure = client.allow_insecure_loopback
    return run_once(config.http, None, fetch_publication, url, allow_insecure_loopback=insecure)
