"""Keys held by a signing agent on this machine: the `agent:` backend of keystay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends import hookimpl

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_example_agent.key import AgentKey

__all__ = ["api_version", "keystay_open_key"]

api_version = 1


@hookimpl
def keystay_open_key(uri: KeyURI, context: BackendContext) -> AgentKey:
    """Open the key an `agent:SOCKET?key=NAME` URI names."""
    from keystay_example_agent.key import AgentKey

    return AgentKey.open(uri, context)
