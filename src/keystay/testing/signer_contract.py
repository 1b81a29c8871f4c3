"""What every backend promises, as tests: subclass `SignerContract`, add one fixture, run pytest.

    from keystay.testing import SignerContract

    class TestMyBackend(SignerContract):
        @pytest.fixture
        def open_signer(self):
            return lambda **options: keystay.open_signer("my:key", **options)

Nothing is skipped in silence. What a key, or the store behind it, cannot do stands in `cannot` with
the reason, and the contract fails when the table is wrong in either direction. A standard test that
is overridden makes the class fail to come into being.

pytest, PyJWT, joserfc and trio must be installed: `pip install 'keystay[testing]'`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, ClassVar, Protocol, get_args

import anyio
import pytest

from keystay import jwk, signatures
from keystay.algorithms import ALGORITHMS, for_key
from keystay.assertion import ClientAssertion
from keystay.backends.port import Deadline, LeasesKey, SignRequest
from keystay.custody import Evidence, Location, enforce
from keystay.errors import (
    AlgorithmError,
    BackendTimeoutError,
    KeystayError,
    PolicyError,
    SignatureInvalidError,
    SignerClosedError,
    did_you_mean,
)
from keystay.jwk import JWKSet
from keystay.signer import Signer
from keystay.testing.contract.fork import in_child
from keystay.testing.contract.tampering import TAMPERINGS, TamperedKey
from keystay.testing.contract.verifiers import verify_elsewhere, verify_with_joserfc

if TYPE_CHECKING:
    from keystay.backends.port import BackendKey

__all__ = ["OpenSigner", "SignerContract", "Slow", "SwapKey"]

MESSAGE = b"eyJhbGciOiJFUzM4NCJ9.eyJpc3MiOiJjb250cmFjdCJ9"
LONG_MESSAGE = MESSAGE * 112
"""5152 bytes: more than any cloud takes whole (AWS: 4096)."""

KEY_TYPES = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519")
FEATURES = ("fork", "long", "slow", "swap")
_FEWEST_SIGNATURES = 50
_THREADS = 8
_GRACE = 2.0
_MOST_LEASES = 256
_OUT_OF_PROCESS = ("other-process", "remote-service", "hardware")


class OpenSigner(Protocol):
    """Opens the key under test anew; the caller closes it."""

    def __call__(self, *args: str, **options: object) -> Signer:
        """Open it.

        Args:
            *args: One of `SignerContract.keys`, if the class names any.
            **options: For `keystay.open_signer`: `algorithm`, `verify`, `timeout`, `custody`.
        """
        ...


Slow = Callable[[float], AbstractContextManager[object]]
"""Makes the store answer so many seconds late, for as long as the block runs."""

SwapKey = Callable[[], object]
"""Puts another key in the place of the one under test."""


class SignerContract:
    """Subclass it, provide the fixture `open_signer`, and run pytest.

    Attributes:
        keys: Names of the keys to test. Each test runs for each key, and `open_signer` gets the
            name as its one positional argument. Leave it empty when there is only one key.
        cannot: What cannot be done, and why: a JWS algorithm that fits one of the keys and that
            the store has no mechanism for, or a key type that it cannot hold; `fork` when
            parent or child cannot sign after a fork, and get a `KeystayError`; `long` when EdDSA,
            which takes the message whole, takes none of 5 KB; `slow` when nothing
            can make the store slow and no lease can be taken; `swap` when a test cannot put another
            key in the place of an opened one.
        expected_location: Where the key is known to be, or None to accept what the signer says.
        ecdsa_signatures: How many ECDSA signatures to check; at least 50.
        soak_signatures: How many each of 8 threads makes.
        timeout: Seconds that any one signature may take on this store.
    """

    keys: ClassVar[Sequence[str]] = ()
    cannot: ClassVar[Mapping[str, str]] = {}
    expected_location: ClassVar[Location | None] = None
    ecdsa_signatures: ClassVar[int] = 500
    soak_signatures: ClassVar[int] = 25
    timeout: ClassVar[float] = 10.0

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        changed = sorted(
            name
            for name, test in vars(SignerContract).items()
            if name.startswith(("test_", "pytest_")) and getattr(cls, name, None) is not test
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

    # --- what a subclass provides ------------------------------------------------

    @pytest.fixture
    def open_signer(self) -> OpenSigner:
        """Opens the key under test; a subclass must provide this."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture open_signer")

    @pytest.fixture
    def secrets(self) -> Sequence[str]:
        """Strings that must never show: the PIN, the token, the passphrase."""
        return ()

    @pytest.fixture
    def slow(self) -> Slow | None:
        """Makes the store slow, or None."""
        return None

    @pytest.fixture
    def swap_key(self) -> SwapKey | None:
        """Puts another key in the place of the one under test, or None."""
        return None

    # --- what the tests use ------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for each of `keys`."""
        if "contract_key" in metafunc.fixturenames:
            names = list(self.keys) or [""]
            metafunc.parametrize("contract_key", names, ids=[n or "key" for n in names])

    @pytest.fixture
    def opened(self, open_signer: OpenSigner, contract_key: str) -> Iterator[Callable[..., Signer]]:
        """Opens signers for one test and closes them after it."""
        with ExitStack() as stack:

            def open_one(**options: object) -> Signer:
                signer = open_signer(*filter(None, (contract_key,)), **options)
                stack.callback(_close_quietly, signer)
                return signer

            yield open_one

    @pytest.fixture
    def signer(self, opened: Callable[..., Signer]) -> Signer:
        """The key under test, opened with defaults."""
        return opened()

    # --- algorithms and encodings ------------------------------------------------

    def test_every_algorithm_verifies_elsewhere(self, signer: Signer) -> None:
        """PyJWT and joserfc accept a signature by each algorithm claimed, of any length."""
        for name in signer.algorithms:
            for message in (b".", MESSAGE, LONG_MESSAGE):
                if message is LONG_MESSAGE and self._too_long(name):
                    with pytest.raises(KeystayError):
                        signer.sign(message, name)
                    continue
                signature = signer.sign(message, name)
                verify_elsewhere(signer.public_key, name, message, signature)

    def test_table_of_what_cannot_be_done(self, signer: Signer) -> None:
        """Each algorithm that fits the key is claimed or in `cannot`, and never in both."""
        for item in self.cannot:
            known = (*ALGORITHMS, *KEY_TYPES, *FEATURES)
            assert item in known, f"cannot has {item!r}. {did_you_mean(item, known)}"
            assert self.cannot[item].strip(), f"cannot[{item!r}] gives no reason"
        kty, curve, _ = jwk.key_kind(signer.public_key)
        fitting = for_key(kty, curve)
        unclaimed = [n for n in fitting if n not in signer.algorithms and n not in self.cannot]
        assert not unclaimed, f"neither claimed nor in cannot: {', '.join(unclaimed)}"
        wrong = [item for item in self.cannot if item in (*signer.algorithms, signer.key_type)]
        assert not wrong, f"in cannot, and claimed all the same: {', '.join(wrong)}"

    def test_algorithms_fit_the_key(self, opened: Callable[..., Signer]) -> None:
        """Only fitting algorithms are claimed; others are refused, when opening and later."""
        signer = opened()
        kty, curve, _ = jwk.key_kind(signer.public_key)
        claimed = _port_key(signer).describe().algorithms
        assert claimed, "the key claims no algorithm"
        assert len(set(claimed)) == len(claimed), "an algorithm is claimed twice"
        foreign = [name for name in claimed if name not in for_key(kty, curve)]
        assert not foreign, f"algorithms that do not fit the key: {', '.join(foreign)}"
        assert signer.algorithm in claimed
        for name in (*(n for n in ALGORITHMS if n not in claimed), "none", "HS256"):
            with pytest.raises(AlgorithmError):
                signer.sign(MESSAGE, name)
            with pytest.raises(AlgorithmError):
                opened(algorithm=name)

    def test_many_ecdsa_signatures(self, signer: Signer) -> None:
        """Also short r and s come in full width, padded on the left."""
        algorithm = ALGORITHMS[signer.algorithm]
        size = algorithm.coordinate_size
        if not size:
            assert jwk.key_kind(signer.public_key)[0] != "EC"
            return
        wanted, made = self.ecdsa_signatures, 0
        short = {"r": False, "s": False}
        # A byte of r, or s, is zero in 1 of 256; both have occurred after 500 as a rule.
        while made < wanted or (wanted >= 500 and not all(short.values()) and made < 10 * wanted):
            message = MESSAGE + made.to_bytes(4, "big")
            signature = signer.sign(message)
            assert len(signature) == 2 * size
            signatures.verify(signer.public_key, algorithm, message, signature)
            short["r"] |= signature[0] == 0
            short["s"] |= signature[size] == 0
            made += 1
        assert wanted < 500 or all(short.values()), "no short r or s in ten times as many"

    def test_signature_length(self, signer: Signer) -> None:
        """A JOSE signature has the length that its algorithm and key give it."""
        _, _, bits = jwk.key_kind(signer.public_key)
        signature = signer.sign(MESSAGE)
        assert len(signature) == ALGORITHMS[signer.algorithm].signature_size(bits)

    def test_encoding_is_as_declared(self, signer: Signer) -> None:
        """What the backend returns has the encoding it names, and its own key id."""
        key, algorithm = _port_key(signer), ALGORITHMS[signer.algorithm]
        result = key.sign(SignRequest(algorithm, MESSAGE, None, self._deadline()))
        assert result.key_id == key.describe().key_id
        assert result.encoding in ("raw", "der")
        value = result.value
        if result.encoding == "der":
            assert algorithm.kty == "EC", "only ECDSA signatures come as DER"
            value = signatures.der_to_raw(value, algorithm)
        signatures.verify(signer.public_key, algorithm, MESSAGE, value)
        assert value.hex() not in repr(result)

    def test_wrong_digest_length(self, signer: Signer) -> None:
        """A digest of another length is refused, by keystay and by the backend itself."""
        algorithm = ALGORITHMS[signer.algorithm]
        if not algorithm.digest_size:
            with pytest.raises(AlgorithmError):
                signer.sign_digest(bytes(64))
            return
        for size in (0, algorithm.digest_size - 1, algorithm.digest_size + 1, 1000):
            with pytest.raises(AlgorithmError):
                signer.sign_digest(bytes(size))
            request = SignRequest(algorithm, None, bytes(size), self._deadline())
            try:
                _port_key(signer).sign(request)
            except Exception:  # noqa: BLE001, S112  (whatever the library underneath says)
                continue
            pytest.fail(f"the backend signed {size} bytes as a digest for {algorithm.name}")

    def test_digest_signs_as_message(self, signer: Signer) -> None:
        """A signature of a digest is one of the message, wherever the backend takes digests."""
        for name in signer.algorithms:
            algorithm = ALGORITHMS[name]
            digest = algorithm.digest(MESSAGE)
            if digest is None:
                continue
            try:
                signature = signer.sign_digest(digest, name)
            except AlgorithmError as error:
                if error.code != "message-needed":
                    raise
                continue
            signatures.verify(signer.public_key, name, MESSAGE, signature)

    # --- what keystay does for the backend, and the backend may not turn off -----

    def test_bad_signatures_are_caught(self, signer: Signer) -> None:
        """A wrong mechanism, encoding, key or length never leaves the signer."""
        key = _port_key(signer)
        for name, tamper in TAMPERINGS.items():
            with pytest.raises(KeystayError) as caught:
                Signer(TamperedKey(key, tamper)).sign(MESSAGE)
            assert caught.value.code in (
                "signature-invalid", "signature-malformed", "key-changed",
            ), f"{name}: {caught.value}"  # fmt: skip

    def test_first_of_each_session_is_verified(self, opened: Callable[..., Signer]) -> None:
        """`verify="first"` gives good signatures too, and catches a bad first one."""
        signer = opened(verify="first")
        for _ in range(3):
            verify_elsewhere(signer.public_key, signer.algorithm, MESSAGE, signer.sign(MESSAGE))
        with pytest.raises(SignatureInvalidError):
            Signer(
                TamperedKey(_port_key(signer), TAMPERINGS["a flipped bit"]), verify="first"
            ).sign(MESSAGE)

    def test_key_swap(self, opened: Callable[..., Signer], swap_key: SwapKey | None) -> None:
        """Another key in the place of the opened one never signs for it."""
        if swap_key is None:
            assert "swap" in self.cannot, (
                "provide the fixture swap_key, or say in cannot['swap'] why a test cannot"
            )
            return
        assert "swap" not in self.cannot, "in cannot, and swap_key is there all the same: swap"
        # Verified is only the first signature: the backend has to see the rest by itself.
        signer = opened(verify="first")
        public_key, kid, key_id = signer.public_key, signer.kid, signer.key_id
        signer.sign(MESSAGE)
        swap_key()
        for _ in range(3):
            try:
                signature = signer.sign(MESSAGE)
            except KeystayError:
                continue
            signatures.verify(public_key, signer.algorithm, MESSAGE, signature)
        assert (signer.public_key, signer.kid, signer.key_id) == (public_key, kid, key_id)

    # --- who the key is ----------------------------------------------------------

    def test_description_is_stable(self, signer: Signer) -> None:
        """The backend says the same of the key at every call."""
        key = _port_key(signer)
        before = key.describe()
        signer.sign(MESSAGE)
        signer.health()
        after = key.describe()
        assert after.public_key == before.public_key
        assert tuple(after.algorithms) == tuple(before.algorithms)
        assert (after.key_id, after.label) == (before.key_id, before.label)
        assert after.custody == before.custody
        assert after.signs_here == before.signs_here

    def test_key_id_is_stable(self, opened: Callable[..., Signer]) -> None:
        """Opened again, it is the same key under the same ids."""
        first, second = opened(), opened()
        assert first.key_id
        assert (second.key_id, second.kid) == (first.key_id, first.kid)
        assert second.public_key == first.public_key

    def test_jwk_round_trip(self, signer: Signer) -> None:
        """The published JWK is the key, to other libraries as well."""
        published = JWKSet.from_json(JWKSet.from_signers([signer]).to_json())
        (member,) = published
        assert jwk.public_key_from_jwk(member) == signer.public_key
        assert member["kid"] == signer.kid
        signature = signer.sign(MESSAGE)
        verify_with_joserfc(dict(member), signer.algorithm, MESSAGE, signature)

    def test_assertion(self, signer: Signer) -> None:
        """A client assertion of more than 4096 bytes verifies with PyJWT."""
        import jwt

        size = 1000 if self._too_long(signer.algorithm) else 5000
        assertion = ClientAssertion(
            client_id="contract", signer=signer, extra_claims={"macaroon": "m" * size}
        ).build(audience="https://ehr.example.org/token")
        claims = jwt.decode(
            assertion,
            signer.public_key,  # type: ignore[arg-type]
            algorithms=[signer.algorithm],
            audience="https://ehr.example.org/token",
        )
        assert claims["sub"] == "contract"

    def test_custody_is_honest(self, opened: Callable[..., Signer]) -> None:
        """The location is one that the facts allow, with evidence, and policy goes by it."""
        signer = opened()
        custody = signer.custody
        assert custody.location in get_args(Location)
        assert custody.evidence in get_args(Evidence)
        assert custody.reason.strip(), "custody gives no reason"
        assert json.dumps(custody.to_dict())
        if self.expected_location is not None:
            assert custody.location == self.expected_location
        for name, weak in (("extractable", True), ("sensitive", False)):
            fact = custody.facts.get(name)
            if fact is not None and fact.value is weak:
                assert custody.location in ("in-process", "other-process"), (
                    f"a key with {name}={weak} cannot be {custody.location}"
                )
        if _port_key(signer).describe().signs_here:
            assert custody.location == "in-process", (
                "signs_here is for keys in this process: elsewhere, each signature is verified"
            )
        for minimum in ("any", "out-of-process", "hardware"):
            try:
                enforce(custody, minimum, key="it")
            except PolicyError:
                with pytest.raises(PolicyError):
                    opened(custody=minimum)
            else:
                opened(custody=minimum).sign(MESSAGE)

    # --- time, threads, processes ------------------------------------------------

    def test_deadline(self, opened: Callable[..., Signer], slow: Slow | None) -> None:
        """A store that is slow, or busy, gives an error when the deadline is due."""
        signer = opened(timeout=self.timeout)
        signer.sign(MESSAGE)
        with ExitStack() as stack:
            key = _port_key(signer)
            if slow is not None:
                stack.enter_context(slow(30.0))
            elif isinstance(key, LeasesKey):
                _take_all_leases(key, stack)
            else:
                assert "slow" in self.cannot, (
                    "provide the fixture slow, or say in cannot['slow'] why a test cannot"
                )
                started = time.monotonic()
                with contextlib.suppress(BackendTimeoutError):
                    signer.sign(MESSAGE, timeout=0.001)
                assert time.monotonic() - started < _GRACE, "it can be slow after all"
                return
            assert "slow" not in self.cannot, "in cannot, and possible all the same: slow"
            started = time.monotonic()
            with pytest.raises(BackendTimeoutError):
                signer.sign(MESSAGE, timeout=0.5)
            assert time.monotonic() - started < 0.5 + _GRACE, "the error came too late"
        if not isinstance(key, LeasesKey) or slow is not None:
            return
        signer.sign(MESSAGE)

    def test_threads(self, signer: Signer) -> None:
        """8 threads sign with one signer, each its own messages."""
        start = threading.Barrier(_THREADS)

        def work(thread: int) -> None:
            start.wait(30)
            for number in range(self.soak_signatures):
                name = signer.algorithms[number % len(signer.algorithms)]
                message = f"{thread}.{number}".encode()
                signatures.verify(signer.public_key, name, message, signer.sign(message, name))

        with ThreadPoolExecutor(_THREADS) as pool:
            for done in [pool.submit(work, thread) for thread in range(_THREADS)]:
                done.result()

    def test_async_equals_sync(self, signer: Signer) -> None:
        """`sign_async` gives what `sign` gives, under asyncio and trio, the loop free meanwhile."""

        async def work() -> None:
            for name in signer.algorithms:
                signature = await signer.sign_async(MESSAGE, name)
                signatures.verify(signer.public_key, name, MESSAGE, signature)
                if ALGORITHMS[name].family in ("RSASSA-PKCS1-v1_5", "EdDSA"):
                    assert signature == signer.sign(MESSAGE, name)
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(signer.sign_async, MESSAGE)
            with pytest.raises(AlgorithmError):
                await signer.sign_async(MESSAGE, "HS256")

        for backend in ("asyncio", "trio"):
            anyio.run(work, backend=backend)

    def test_fork(self, signer: Signer) -> None:
        """After a fork, parent and child both sign; or are told in time that they cannot."""
        message = b"after the fork"

        def parent() -> None:
            signatures.verify(signer.public_key, signer.algorithm, MESSAGE, signer.sign(MESSAGE))

        parent()
        told = None
        try:
            child = in_child(
                lambda: signer.sign(message), seconds=2 * self.timeout + 5, meanwhile=parent
            )
            parent()
        except KeystayError as error:
            told = f"the parent: {error}"
        else:
            if child.signature is None:
                told = f"the child: {child.error}"
                assert child.is_keystay_error, f"not told by a KeystayError: {told}"
            else:
                signatures.verify(signer.public_key, signer.algorithm, message, child.signature)
        if "fork" in self.cannot:
            assert told is not None, "in cannot, and possible all the same: fork"
        else:
            assert told is None, f"could not sign after the fork: {told}"

    # --- the end -----------------------------------------------------------------

    def test_health(self, signer: Signer) -> None:
        """A key that can sign is in good health; a closed one is not."""
        signer.health()
        key = _port_key(signer)
        signer.close()
        with pytest.raises(SignerClosedError):
            signer.health()
        with pytest.raises(KeystayError):
            key.health(self._deadline())

    def test_closed(self, signer: Signer) -> None:
        """After `close()` neither the signer nor the backend's key signs."""
        key = _port_key(signer)
        signer.sign(MESSAGE)
        signer.close()
        with pytest.raises(SignerClosedError):
            signer.sign(MESSAGE)
        with pytest.raises(KeystayError):
            key.sign(SignRequest(ALGORITHMS[signer.algorithm], MESSAGE, None, self._deadline()))

    def test_close_is_idempotent(self, signer: Signer) -> None:
        """Closing twice is closing once, for the signer and for the backend's key."""
        key = _port_key(signer)
        signer.close()
        signer.close()
        key.close()
        assert "closed" in repr(signer)

    def test_others_survive_a_close(self, opened: Callable[..., Signer]) -> None:
        """Closing one signer leaves the others of the same key alone."""
        first, second = opened(), opened()
        first.sign(MESSAGE)
        first.close()
        second.sign(MESSAGE)
        with opened() as third:
            third.sign(MESSAGE)
        second.sign(MESSAGE)

    # --- nothing secret is shown -------------------------------------------------

    def test_no_secret_in_repr(self, signer: Signer, secrets: Sequence[str]) -> None:
        """Neither the signer nor anything of the backend shows one, nor is it pickled."""
        key = _port_key(signer)
        result = key.sign(
            SignRequest(ALGORITHMS[signer.algorithm], MESSAGE, None, self._deadline())
        )
        for thing in (signer, key, key.describe(), signer.custody, result):
            _check_shown(f"{thing!r} {thing!s} {thing}", secrets, f"a {type(thing).__name__}")
        with pytest.raises(TypeError):
            pickle.dumps(signer)

    def test_no_secret_in_pickle(self, signer: Signer, secrets: Sequence[str]) -> None:
        """The backend's key is not pickled, or without anything secret."""
        try:
            pickled = pickle.dumps(_port_key(signer))
        except Exception:  # noqa: BLE001  (pickle raises anything)
            return
        _check_shown(pickled.decode("latin-1"), secrets, "the pickled key")

    def test_no_secret_in_errors(
        self, opened: Callable[..., Signer], secrets: Sequence[str]
    ) -> None:
        """No error shows one, nor its causes, nor their tracebacks."""
        signer = opened()
        key = _port_key(signer)
        algorithm = ALGORITHMS[signer.algorithm]

        def fail_to_sign() -> None:
            key.sign(SignRequest(algorithm, None, b"no digest", self._deadline()))
            raise AssertionError

        def fail_to_open() -> None:
            opened(algorithm="HS256")

        def fail_in_time() -> None:
            signer.sign(MESSAGE, timeout=0.0)

        def fail_closed() -> None:
            signer.close()
            key.sign(SignRequest(algorithm, MESSAGE, None, self._deadline()))

        for attempt in (fail_to_sign, fail_to_open, fail_in_time, fail_closed):
            try:
                attempt()
            except Exception as error:  # noqa: BLE001
                text = "".join(traceback.format_exception(error))
                shown = f"{error} {error!r} {text}"
                if isinstance(error, KeystayError):
                    shown += json.dumps(error.to_dict())
                _check_shown(shown, secrets, f"{attempt.__name__}: {type(error).__name__}")

    def test_no_secret_in_logs(
        self,
        opened: Callable[..., Signer],
        secrets: Sequence[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Opening, signing and closing log none, also at DEBUG."""
        with caplog.at_level(logging.DEBUG):
            signer = opened()
            signature = signer.sign(MESSAGE)
            signer.health()
            signer.close()
        text = "\n".join(
            f"{record.getMessage()} {record.exc_text or ''} {record.__dict__}"
            for record in caplog.records
        )
        _check_shown(text, secrets, "the log")
        _check_shown(text, [signature.hex(), repr(signature)[2:-1]], "the log")

    # --- helpers -----------------------------------------------------------------

    def _too_long(self, algorithm: str) -> bool:
        return "long" in self.cannot and not ALGORITHMS[algorithm].digest_size

    def _deadline(self) -> Deadline:
        return Deadline.after(self.timeout)


def _port_key(signer: Signer) -> BackendKey:
    """What the backend opened: the contract is about it, not about keystay's own part."""
    return signer._key


def _close_quietly(signer: Signer) -> None:
    with contextlib.suppress(KeystayError):
        signer.close()


def _take_all_leases(key: LeasesKey, stack: ExitStack) -> None:
    for _ in range(_MOST_LEASES):
        try:
            stack.enter_context(key.lease(Deadline.after(0.2)))
        except BackendTimeoutError:
            return
    pytest.fail(f"the key gave out {_MOST_LEASES} leases; limit them, or provide the fixture slow")


def _check_shown(text: str, secrets: Sequence[str], where: str) -> None:
    # Not `assert secret not in text`: pytest would show the secret.
    if any(secret in text for secret in secrets):
        pytest.fail(f"{where} shows a secret", pytrace=False)
