"""The error hierarchy: what a program can match on, and what a person reads."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from keystay import errors
from keystay.errors import (
    DiscoveryError,
    KeystayError,
    KeyURIError,
    NetworkError,
    TokenRefusedError,
    did_you_mean,
)

FAMILY = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, KeystayError)
}


class TestHierarchy:
    """The classes as a family."""

    def test_public_names(self) -> None:
        """`__all__` is sorted and holds every class."""
        assert sorted(errors.__all__) == errors.__all__
        assert {*FAMILY, "did_you_mean"} == set(errors.__all__)

    def test_docstring_draws_the_hierarchy(self) -> None:
        """The tree in the module's docstring is the tree of the classes."""
        drawn: dict[str, str] = {}
        above: list[str] = []
        for line in (errors.__doc__ or "").splitlines():
            if match := re.match(r"    ([ │├└─]*)([A-Z]\w+Error)\b", line):
                depth = len(match[1]) // 3
                above[depth:] = [match[2]]
                if depth:
                    drawn[match[2]] = above[depth - 1]
        assert {
            name: kind.__bases__[0].__name__
            for name, kind in FAMILY.items()
            if kind is not KeystayError
        } == drawn

    def test_codes_are_stable_words(self) -> None:
        """Each class has a code of its own, of lower-case words joined by hyphens."""
        codes = [kind.code for kind in FAMILY.values()]
        assert sorted(set(codes)) == sorted(codes)
        assert [] == [code for code in codes if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)]

    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            pytest.param(errors.ConfigurationError, 2, id="configuration"),
            pytest.param(errors.KeyURIError, 2, id="key URI"),
            pytest.param(errors.SecretError, 2, id="secret"),
            pytest.param(errors.PolicyError, 3, id="policy"),
            pytest.param(errors.BackendError, 3, id="backend"),
            pytest.param(errors.LoginError, 3, id="login"),
            pytest.param(errors.JWKError, 3, id="JWK"),
            pytest.param(errors.NetworkTimeoutError, 4, id="network"),
            pytest.param(errors.DiscoveryError, 4, id="discovery"),
            pytest.param(errors.TokenServerError, 4, id="server"),
            pytest.param(errors.TokenRefusedError, 5, id="refused"),
        ],
    )
    def test_exit_codes(self, kind: type[KeystayError], status: int) -> None:
        """Each family ends the command line with its own status."""
        assert status == kind.exit_code


class TestOneError:
    """What one error says."""

    def test_text_holds_all_four_parts(self) -> None:
        """Message and code, likely cause, remedy: a line each."""
        error = KeystayError("It broke.", cause="Rust.", hint="Oil it.", code="broken")
        assert "It broke. [broken]\nLikely cause: Rust.\nRemedy: Oil it." == str(error)

    def test_absent_parts_are_left_out(self) -> None:
        """Without cause and remedy there is one line, and no null in the data."""
        error = DiscoveryError("Nothing there.")
        assert "Nothing there. [discovery-failed]" == str(error)
        assert {"code": "discovery-failed", "message": "Nothing there."} == error.to_dict()

    def test_a_code_of_its_own_stays_its_own(self) -> None:
        """A specific code does not change the class's."""
        assert "special" == KeystayError("x", code="special").code
        assert "keystay-error" == KeystayError.code

    def test_position_counts_from_one_in_text(self) -> None:
        """People count characters from 1, programs from 0."""
        error = KeyURIError("There is a fault.", position=4)
        assert 4 == error.position
        assert "There is a fault, at character 5 of the key URI." == error.message

    def test_refusal_keeps_what_the_server_said(self) -> None:
        """error, description, URI, wait, status and correlation id are all there."""
        error = TokenRefusedError(
            "Refused.",
            status=400,
            error="invalid_client",
            error_description="why",
            error_uri="urn:x",
            retry_after=3.0,
            correlation_id="c-1",
        )
        assert {
            "code": "token-refused",
            "message": "Refused.",
            "status": 400,
            "correlation_id": "c-1",
            "error": "invalid_client",
            "error_description": "why",
            "error_uri": "urn:x",
            "retry_after": 3.0,
        } == error.to_dict()

    @pytest.mark.parametrize(
        "error",
        [
            pytest.param(KeystayError("m", cause="c", hint="h", code="k"), id="base"),
            pytest.param(KeyURIError("m.", position=3), id="key URI"),
            pytest.param(NetworkError("m", status=502), id="network"),
            pytest.param(
                TokenRefusedError("m", status=400, error="e", retry_after=1.5), id="refused"
            ),
        ],
    )
    def test_crosses_processes(self, error: KeystayError) -> None:
        """Pickled or copied it is the same: an error must not break a process pool."""
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(error) is type(twin)
            assert (str(error), error.args, vars(error)) == (str(twin), twin.args, vars(twin))


class TestDidYouMean:
    """The hint for an unknown name."""

    def test_nearest_name(self) -> None:
        """A near miss is corrected."""
        assert "Did you mean 'token'? Known: token, object." == did_you_mean(
            "tokn", ["token", "object"]
        )

    def test_nothing_near(self) -> None:
        """Without a near name only what is known is told."""
        assert "Known: token." == did_you_mean("zzz", iter(["token"]))

    def test_nothing_known(self) -> None:
        """Nothing known is said so."""
        assert "Known: none." == did_you_mean("zzz", ())
