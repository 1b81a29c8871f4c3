"""What every backend promises, as tests: subclass `SignerContract`, add one fixture, run pytest.

    from keystay.testing import SignerContract

    class TestMyBackend(SignerContract):
        cannot = {
            "secrets": "it needs no PIN", "slow": "it waits for nothing", "swap": "it has one key",
        }

        @pytest.fixture
        def open_signer(self):
            return lambda **options: keystay.open_signer("my:key", **options)

Nothing is skipped in silence. What a key, or the store behind it, cannot do stands in `cannot` with
the reason, and the contract fails when the table is wrong in either direction. A standard test that
is overridden makes the class fail to come into being.

pytest, PyJWT, joserfc and trio must be installed: `pip install 'keystay[testing]'`.
"""

from __future__ import annotations

from keystay.testing.contract.base import OpenSigner, Slow, SwapKey
from keystay.testing.contract.identity import IdentityTests
from keystay.testing.contract.lifetime import LifetimeTests
from keystay.testing.contract.secrecy import SecrecyTests
from keystay.testing.contract.signatures import SignatureTests

__all__ = ["OpenSigner", "SignerContract", "Slow", "SwapKey"]

_FEWEST_SIGNATURES = 50


class SignerContract(SignatureTests, IdentityTests, LifetimeTests, SecrecyTests):
    """Subclass it, provide the fixture `open_signer`, and run pytest.

    Attributes:
        keys: Names of the keys to test. Each test runs for each key, and `open_signer` gets the
            name as its one positional argument. Leave it empty when there is only one key.
        cannot: What cannot be done, and why: a JWS algorithm that fits one of the keys and that
            the store has no mechanism for, or a key type that it cannot hold; `fork` when
            parent or child cannot sign after a fork, and get a `KeystayError`; `long` when EdDSA,
            which takes the message whole, takes none of 5 KB; `secrets` when the tests know no
            secret that could show; `slow` when nothing can make the store slow and no lease can be
            taken; `swap` when a test cannot put another key in the place of an opened one.
        expected_location: Where the key is known to be, or None to accept what the signer says.
        ecdsa_signatures: How many ECDSA signatures to check; at least 50.
        soak_signatures: How many each of 8 threads makes.
        timeout: Seconds that any one signature may take on this store.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        changed = sorted(
            name
            for name in dir(SignerContract)
            if name.startswith(("test_", "pytest_"))
            and getattr(cls, name, None) is not getattr(SignerContract, name)
        )
        if changed:
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(changed)}: these tests are the contract. "
                "Say in `cannot` what the key cannot do, and why; add tests under other names."
            )
        if cls.ecdsa_signatures < _FEWEST_SIGNATURES:
            raise TypeError(
                f"{cls.__name__}.ecdsa_signatures is {cls.ecdsa_signatures}: fewer than "
                f"{_FEWEST_SIGNATURES} prove nothing."
            )
