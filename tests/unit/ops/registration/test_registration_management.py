"""Reading, changing and deleting a registration (RFC 7592), and where its token may go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import keystay
from keystay.errors import (
    ConfigurationError,
    JWKError,
    RegistrationError,
    RegistrationResponseError,
)
from keystay.testing import Reply
from tests.support.registration import INSECURE, PATH, answer, register
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.testing import SmartTestServer

pytestmark = pytest.mark.usefixtures("no_environment")

OTHER_ORIGINS = {
    "other-host": "https://evil.example.org/register/c-1",
    "other-port": "http://127.0.0.1:9/register/c-1",
    "plain-http": "http://ehr.example.org/register/c-1",
    "scheme": "ftp://127.0.0.1/c-1",
    "user-information": "http://127.0.0.1@evil.example.org/",
    "protocol-relative": "//evil.example.org/c-1",
    "no-url": "http://[",
}


class TestManagement:
    """RFC 7592."""

    def test_token_replaced_at_every_update(
        self, smart_server: SmartTestServer, pem_signer: Signer
    ) -> None:
        """The strict server gives a new management token each time; the old one is refused."""
        made = register(smart_server, pem_signer)
        first = keystay.update_client(made, {"client_name": "a"}, **INSECURE)
        second = keystay.update_client(first, {"client_name": None}, **INSECURE)
        assert "client_name" not in second.metadata
        with pytest.raises(RegistrationError) as caught:
            keystay.update_client(made, {}, **INSECURE)
        assert "registration-token-refused" == caught.value.code
        assert "replaced" in (caught.value.cause or "")
        keystay.delete_client(second, **INSECURE)

    def test_token_kept_when_none_is_sent(
        self, smart_server: SmartTestServer, pem_signer: Signer
    ) -> None:
        """An answer without token and URI leaves those that are known."""
        made = register(smart_server, pem_signer)
        smart_server.script(f"{PATH}/{made.client_id}", [Reply.json({"client_id": made.client_id})])
        read = keystay.read_client(made, **INSECURE)
        assert made.registration_client_uri == read.registration_client_uri
        assert made.registration_access_token is read.registration_access_token
        assert {"scope", "jwks"} <= {difference.name for difference in read.differences}

    def test_about_another_client(self, smart_server: SmartTestServer, pem_signer: Signer) -> None:
        """An answer about another client is not taken for this one's."""
        made = register(smart_server, pem_signer)
        smart_server.script(f"{PATH}/{made.client_id}", [Reply.json({"client_id": "other"})])
        with pytest.raises(RegistrationResponseError, match="another client_id"):
            keystay.read_client(made, **INSECURE)

    @pytest.mark.parametrize("uri", OTHER_ORIGINS.values(), ids=OTHER_ORIGINS)
    def test_token_stays_at_its_origin(
        self, smart_server: SmartTestServer, pem_signer: Signer, uri: str
    ) -> None:
        """Wherever the server points, the token that can replace the keys goes nowhere else."""
        token = WATCH.add("a management token", "management-token-0123456789")
        answer(
            smart_server,
            {
                "client_id": "c-1",
                "registration_client_uri": uri,
                "registration_access_token": token,
            },
        )
        made = register(smart_server, pem_signer)
        assert 1 == len([w for w in made.warnings if "registration_client_uri" in w])
        assert made.registration_access_token is not None  # kept all the same
        smart_server.log.clear()
        for act in (keystay.read_client, keystay.delete_client):
            with pytest.raises(ConfigurationError, match="registration_client_uri"):
                act(made, **INSECURE)
        assert () == smart_server.log.events

    CHANGES: ClassVar[dict[str, tuple[dict[str, Any], type[keystay.KeystayError], str]]] = {
        "client-id": ({"client_id": "other"}, ConfigurationError, "'client_id'"),
        "token": ({"registration_access_token": "x"}, ConfigurationError, "the server's to give"),
        "private-key": (
            {"jwks": {"keys": [{"kty": "EC", "kid": "a", "d": "AA"}]}}, JWKError, "private",
        ),
        "no-set": ({"jwks": {"keys": 1}}, JWKError, "JWK Set"),
        "insecure": ({"jwks_uri": "http://x.example/j"}, ConfigurationError, "JWKS URL"),
        "not-json": ({"contacts": {1, 2}}, ConfigurationError, "JSON"),
    }  # fmt: skip

    @pytest.mark.parametrize(("changes", "kind", "said"), CHANGES.values(), ids=CHANGES)
    def test_changes_that_are_refused(
        self,
        smart_server: SmartTestServer,
        pem_signer: Signer,
        changes: dict[str, Any],
        kind: type[keystay.KeystayError],
        said: str,
    ) -> None:
        """Nothing is sent: no private key, no other client's id, no insecure URL."""
        made = register(smart_server, pem_signer)
        smart_server.log.clear()
        with pytest.raises(kind, match=said):
            keystay.update_client(made, changes, **INSECURE)
        assert () == smart_server.log.events

    def test_relative_uri(self, smart_server: SmartTestServer, pem_signer: Signer) -> None:
        """RFC 7592 wants it whole; a relative one can only be at the endpoint."""
        answer(
            smart_server,
            {
                "client_id": "c-1",
                "registration_client_uri": "register/c-1",
                "registration_access_token": "management-token-relative",
            },
        )
        made = register(smart_server, pem_signer)
        assert f"{smart_server.origin}/oauth2/register/c-1" == made.registration_client_uri
        assert () == made.warnings

    def test_not_offered(self, smart_server: SmartTestServer, pem_signer: Signer) -> None:
        """Without URI and token there is nothing to manage, which is said when it is tried."""
        answer(smart_server, {"client_id": "c-1"})
        made = register(smart_server, pem_signer)
        assert () == made.warnings
        with pytest.raises(ConfigurationError, match="cannot be read, changed") as caught:
            keystay.update_client(made, {}, **INSECURE)
        assert "registration-unmanaged" == caught.value.code
