"""A cached token as a header."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx

from benchmarks.assertion import StubKey
from benchmarks.measure import Goal, interleave
from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.signer import Signer
from keystay.token_stores.access_token import AccessToken
from keystay.tokens.client import TokenClient

BASE = "https://ehr.example.org/fhir/r4"
CALLS = 1000


class TrivialAuth(httpx.Auth):
    """As little as an `httpx.Auth` can do: what httpx itself costs."""

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = "Bearer x"
        yield request


def through(auth: httpx.Auth) -> Callable[[], object]:
    """One pass of a request through an auth flow, as httpx's client drives it."""
    request = httpx.Request("GET", f"{BASE}/Patient/123")
    response = httpx.Response(200, request=request)

    def call() -> None:
        flow = auth.sync_auth_flow(request)
        next(flow)
        try:
            flow.send(response)
        except StopIteration:
            return

    return call


def run(*, smoke: bool) -> Iterator[Goal]:
    """Through `authorization()`, through `auth()`, and through other libraries' ways."""
    signer = Signer(StubKey(), verify="first")
    with TokenClient(fhir_base_url=BASE, client_id="x", signer=signer) as client:
        client._cache.replace(
            AccessToken(
                "y" * 600,
                expires_in=3600,
                scope="system/*.rs",
                requested_scope="system/*.rs",
                requested_at=SYSTEM_CLOCK.now(),
            )
        )
        contenders: dict[str, Callable[[], Any]] = {
            "a monotonic check alone": lambda: time.monotonic() < client._cache.refresh_after,
            "keystay authorization()": client.authorization,
            "keystay auth()": through(client.auth()),
            "trivial httpx.Auth": through(TrivialAuth()),
            **peers(),
        }
        times = interleave(contenders, calls=50 if smoke else 5000, rounds=2 if smoke else 25)
    print(times.table("trivial httpx.Auth", unit="ns", scale=1e9))
    yield Goal("authorization(), ns", times.median("keystay authorization()") * 1e9, 150)
    yield Goal("auth(), µs", times.median("keystay auth()") * 1e6, 2)


def peers() -> dict[str, Callable[[], Any]]:
    """Cached headers of Authlib, requests-oauth2client and MSAL."""
    import requests
    from authlib.integrations.requests_client import OAuth2Session
    from requests_oauth2client import BearerToken

    prepared = requests.Request("GET", f"{BASE}/Patient/123").prepare()
    token = {"access_token": "y" * 600, "token_type": "Bearer", "expires_at": time.time() + 3600}
    authlib = OAuth2Session("x", token=token)
    bearer = BearerToken("y" * 600, expires_in=3600)
    msal_app = msal_with_token()

    def authlib_header() -> object:
        authlib.ensure_active_token(authlib.token)
        return authlib.token_auth(prepared)

    return {
        "Authlib (requests)": authlib_header,
        "requests-oauth2client": lambda: bearer(prepared),
        "MSAL": lambda: msal_app.acquire_token_for_client(["x/.default"])["access_token"],
    }


class OfflineHttp:
    """Answers MSAL's look-up of endpoints, so that nothing goes out."""

    def get(self, url: str, **_: Any) -> Any:
        return SimpleNamespace(
            status_code=200,
            headers={},
            text=json.dumps(
                {
                    "authorization_endpoint": "https://login.example.org/authorize",
                    "token_endpoint": "https://login.example.org/token",
                    "issuer": "https://login.example.org/tenant",
                }
            ),
        )

    def post(self, url: str, **_: Any) -> Any:
        return SimpleNamespace(
            status_code=200,
            headers={},
            text=json.dumps(
                {"access_token": "y" * 600, "token_type": "Bearer", "expires_in": 3600}
            ),
        )


def msal_with_token() -> Any:
    """An MSAL application that has a token in its cache."""
    import msal

    app = msal.ConfidentialClientApplication(
        "x",
        client_credential="not a secret",
        oidc_authority="https://login.example.org/tenant",
        http_client=OfflineHttp(),
    )
    app.acquire_token_for_client(["x/.default"])
    return app
