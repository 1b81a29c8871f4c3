"""Looks at a JWKS URL, for the commands that have to know what is published there."""

from __future__ import annotations

from keystay.config import ClientConfig, Config
from keystay.tokens.key_state.publication import Publication, publication_flow

__all__ = ["look"]


def look(config: Config, client: ClientConfig, url: str) -> Publication:
    """What is published at a URL now.

    Raises:
        KeystayError: Nothing that can be used.
    """
    from keystay.concurrency import Deadline
    from keystay.http.clients import new_client
    from keystay.http.send import send

    flow = publication_flow(url, allow_insecure_loopback=client.allow_insecure_loopback)
    deadline = Deadline.after(config.http.timeout)
    with new_client(config.http) as http:
        try:
            request = next(flow)
            while True:
                request = flow.send(send(http, request, deadline))
        except StopIteration as finished:
            found = finished.value
            assert isinstance(found, Publication)
            return found
