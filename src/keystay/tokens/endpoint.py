"""Where tokens are asked for, as discovered: kept for a while."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.errors import AlgorithmError
from keystay.smart.discovery import fetch_configuration
from keystay.smart.scopes import advertised_style, convert

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.signer import Signer
    from keystay.smart.discovery import SmartConfiguration
    from keystay.smart.scopes import ScopeStyle
    from keystay.tokens.server_clock import ServerClock

__all__ = ["DiscoveredEndpoint"]

logger = logging.getLogger("keystay.tokens")

_MAX_SHOWN = 20


class DiscoveredEndpoint:
    """A FHIR server's SMART configuration, and what it says about requesting tokens.

    Args:
        fhir_base_url: The FHIR server's base URL.
        allow_insecure_loopback: Allow plain HTTP to this machine.
        lifetime: Seconds a discovered configuration is kept.
        server_clock: Learns from the answer's Date header.
        clock: Measures the lifetime.
    """

    def __init__(
        self,
        fhir_base_url: str,
        *,
        allow_insecure_loopback: bool,
        lifetime: float,
        server_clock: ServerClock,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base, self._insecure = fhir_base_url, allow_insecure_loopback
        self._lifetime, self._now = lifetime, clock.now
        self._server_clock = server_clock
        self._kept: tuple[float, SmartConfiguration] | None = None

    async def url(self, signer: Signer, io: IO) -> str:
        """The token endpoint, after checking that the server knows the signer's algorithm."""
        configuration = await self.configuration(io)
        _check_algorithm(configuration, signer)
        return configuration.token_endpoint

    async def scope(self, scope: str, style: ScopeStyle, io: IO) -> str:
        """Scopes as they are to be sent."""
        if style == "auto":
            configuration = await self.configuration(io)
            style = advertised_style(configuration.capabilities)
        return convert(scope, style)

    async def configuration(self, io: IO) -> SmartConfiguration:
        """The SMART configuration, asked for anew once its lifetime is over."""
        kept = self._kept
        if kept is not None and self._now() < kept[0]:
            return kept[1]
        found = await fetch_configuration(
            io,
            self._base,
            allow_insecure_loopback=self._insecure,
            heard=partial(self._server_clock.learn, is_first_hand=False),
        )
        for warning in found.warnings:
            logger.warning(
                "SMART configuration of %s: %s",
                self._base,
                warning,
                extra={"event": "smart-configuration-odd"},
            )
        self._kept = (self._now() + self._lifetime, found)
        return found

    def forget(self) -> None:
        """Discover again next time."""
        self._kept = None


def _check_algorithm(configuration: SmartConfiguration, signer: Signer) -> None:
    advertised = configuration.signing_algorithms
    if not advertised or signer.algorithm in advertised:
        return
    common = [name for name in signer.algorithms if name in advertised]
    raise AlgorithmError(
        f"{configuration.fhir_base_url} advertises {_listed(advertised)} for client assertions, "
        f"not {signer.algorithm}.",
        cause=f"The key is {signer.key_type}; it could do {', '.join(signer.algorithms)}.",
        hint=f'Set algorithm = "{common[0]}".'
        if common
        else "Register a key of another type. If the server advertises wrongly, set "
        "token_endpoint: that skips discovery.",
        code="algorithm-not-advertised",
    )


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(name[:_MAX_SHOWN] for name in names[:_MAX_SHOWN])
    return shown if len(names) <= _MAX_SHOWN else f"{shown}, …"
