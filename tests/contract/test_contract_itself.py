"""`SignerContract` cannot be weakened without anybody noticing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keystay import Signer
from keystay.errors import BackendUnavailableError
from keystay.testing import SignerContract
from tests.unit.fakes import FakeKey, RaisingKey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Case(SignerContract):
    """For tests of its tests."""


def fake_signer() -> Signer:
    return Signer(FakeKey(ec.generate_private_key(ec.SECP256R1())))


def test_overriding_a_test_fails() -> None:
    """Whoever leaves a test out is told where to say so instead."""
    with pytest.raises(TypeError, match=r"Weaker overrides test_fork.*`cannot`"):

        class Weaker(SignerContract):
            def test_fork(self) -> None:  # type: ignore[override]
                """Nothing."""


def test_overriding_a_test_by_none_fails() -> None:
    """pytest would not collect it."""
    with pytest.raises(TypeError, match="test_threads"):

        class Weaker(SignerContract):
            test_threads: ClassVar = None  # type: ignore[assignment]


def test_overriding_a_test_in_a_mixin_fails() -> None:
    """Also when it comes from another class."""

    class Mixin:
        def test_closed(self) -> None:
            """Nothing."""

    with pytest.raises(TypeError, match="test_closed"):

        class Weaker(Mixin, SignerContract):  # type: ignore[misc]
            pass


def test_overriding_the_parametrisation_fails() -> None:
    """It could leave out every key."""
    with pytest.raises(TypeError, match="pytest_generate_tests"):

        class Weaker(SignerContract):
            def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
                """Nothing."""


def test_too_few_signatures_fail() -> None:
    """49 are too few."""
    with pytest.raises(TypeError, match="ecdsa_signatures is 49"):

        class Weaker(SignerContract):
            ecdsa_signatures = 49


@pytest.mark.parametrize(
    ("cannot", "message"),
    [
        ({"ES256": "no reason why not"}, "claimed all the same: ES256"),
        ({"P-256": "no such key"}, "claimed all the same: P-256"),
        ({"slow": "it is fast"}, None),
        ({"slwo": "it is fast"}, "slwo.*Did you mean 'slow'"),
        ({"ES384": " "}, "gives no reason"),
    ],
)
def test_wrong_tables_fail(
    monkeypatch: pytest.MonkeyPatch, cannot: dict[str, str], message: str | None
) -> None:
    """What the table says is compared with what the signer claims."""
    monkeypatch.setattr(Case, "cannot", cannot)
    signer = fake_signer()
    if message is None:
        Case().test_table_of_what_cannot_be_done(signer)
        return
    with pytest.raises(AssertionError, match=message):
        Case().test_table_of_what_cannot_be_done(signer)


def test_no_secrets_without_a_reason_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for nothing proves nothing; nor does a secret that is empty."""
    signer = fake_signer()
    looks: tuple[Callable[[Sequence[str]], None], ...] = (
        lambda secrets: Case().test_no_secret_in_repr(signer, secrets),
        lambda secrets: Case().test_no_secret_in_pickle(signer, secrets),
        lambda secrets: Case().test_no_secret_in_errors(lambda **_: signer, secrets),
    )
    for look in looks:
        for secrets in ((), ("",)):
            with pytest.raises(AssertionError, match="secret"):
                look(secrets)
    monkeypatch.setattr(Case, "cannot", {"secrets": "it needs none"})
    looks[0](())
    with pytest.raises(AssertionError, match="given all the same: secrets"):
        looks[0](("a secret",))


def test_swap_that_changes_nothing_fails() -> None:
    """The key that goes on signing may be the only one there is."""
    signer = fake_signer()
    with pytest.raises(AssertionError, match="swap_key changed nothing"):
        Case().test_key_swap(lambda **_: signer, lambda: None)


def test_swap_noticed_by_accident_fails() -> None:
    """An error that has nothing to do with the other key does not show that it was noticed."""
    error = BackendUnavailableError("The network is down.")
    key = RaisingKey(ec.generate_private_key(ec.SECP256R1()), error=error, method="none")
    signer = Signer(key)

    def swap() -> None:
        key.method = "sign"

    with pytest.raises(BackendUnavailableError):
        Case().test_key_swap(lambda **_: signer, swap)


def test_a_class_without_the_fixture_says_so(tmp_path: Path) -> None:
    """The one thing that is needed is named."""
    case = tmp_path / "test_case.py"
    case.write_text(
        "from keystay.testing import SignerContract\n\nclass TestNothing(SignerContract): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "health", "-p", "no:cacheprovider", case],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TestNothing has no fixture open_signer" in done.stdout


def test_keystay_testing_does_not_import_pytest() -> None:
    """The SMART test server is for programs as well; the contract loads when asked for."""
    source = (
        "import sys, keystay.testing; assert not {'pytest', 'jwt', 'joserfc'} & set(sys.modules); "
        "from keystay.testing import SignerContract; assert 'pytest' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", source], check=True)
