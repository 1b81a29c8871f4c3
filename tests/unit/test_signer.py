"""The signer: each promise is broken by a fake backend, and held by the core."""

from __future__ import annotations

import contextvars
import copy
import os
import pickle
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keystay import Signer, jwk, open_signer, signatures
from keystay.backends.registry import Registry
from keystay.errors import (
    AlgorithmError,
    BackendError,
    BackendMissingError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
    KeyChangedError,
    KeystayError,
    KeyUnusableError,
    KeyURIError,
    PolicyError,
    SignatureInvalidError,
    SignerClosedError,
)
from tests.support.secrets_watch import WATCH
from tests.unit.fakes import (
    PRIVATE_KEYS,
    FakeKey,
    LeasedKey,
    LyingKey,
    RaisingKey,
    RawKey,
    custody_at,
    lying,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.backends import BackendSignature, SignRequest

SECRET = WATCH.add("the PIN of the signer tests", "plaintext-pin-8265")
DEFAULTS = {
    "RSA-2048": "RS384",
    "RSA-3072": "RS384",
    "P-256": "ES256",
    "P-384": "ES384",
    "P-521": "ES512",
    "Ed25519": "EdDSA",
}
OTHER_KEY = ec.generate_private_key(ec.SECP384R1())


class FakeRegistry(Registry):
    """Opens one key, whatever the URI."""

    def __init__(self, key: Any) -> None:
        super().__init__(lambda: ())
        self.key = key
        self.contexts: list[Any] = []

    def open_key(self, uri: Any, context: Any) -> Any:
        """The key it was made with."""
        self.contexts.append(context)
        return self.key


class TestChoice:
    """Which algorithm, and what else the signer says of its key."""

    @pytest.mark.parametrize(("kind", "name"), DEFAULTS.items())
    def test_default_by_key_type(self, kind: str, name: str) -> None:
        """RS384 and ES384 as SMART wants them; other curves their own."""
        signer = Signer(FakeKey(PRIVATE_KEYS[kind]))
        assert (name, kind) == (signer.algorithm, signer.key_type)
        public = jwk.public_jwk(PRIVATE_KEYS[kind].public_key())
        assert (jwk.thumbprint(public), "key-1") == (signer.kid, signer.key_id)
        signature = signer.sign(b"message")
        signatures.verify(signer.public_key, name, b"message", signature)

    @pytest.mark.parametrize("name", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
    def test_each_that_the_key_can_do(self, name: str) -> None:
        """As configured, or per call."""
        key = PRIVATE_KEYS["RSA-2048"]
        signer = Signer(FakeKey(key), algorithm=name)
        assert name == signer.algorithm
        signatures.verify(signer.public_key, name, b"m", signer.sign(b"m"))
        signatures.verify(signer.public_key, name, b"m", Signer(FakeKey(key)).sign(b"m", name))

    @pytest.mark.parametrize(
        ("able", "default", "algorithms"),
        [
            pytest.param(("PS256", "RS256"), "RS256", ("RS256", "PS256"), id="our preference"),
            pytest.param(("PS512",), "PS512", ("PS512",), id="only one"),
            pytest.param(("RS384", "XX1", "ES256"), "RS384", ("RS384",), id="unfit ones ignored"),
        ],
    )
    def test_what_the_device_can_do(
        self, able: tuple[str, ...], default: str, algorithms: tuple[str, ...]
    ) -> None:
        """The backend says what is possible; the core chooses among it."""
        signer = Signer(FakeKey(PRIVATE_KEYS["RSA-2048"], able=able))
        assert (default, algorithms) == (signer.algorithm, signer.algorithms)

    @pytest.mark.parametrize("name", ["RS384", "ES256", "ES512", "EdDSA"])
    def test_that_the_key_cannot_do(self, name: str) -> None:
        """Refused when opened or when asked, with what it can do."""
        signer = Signer(FakeKey())
        for ask in (lambda: Signer(FakeKey(), algorithm=name), lambda: signer.sign(b"m", name)):
            with pytest.raises(AlgorithmError, match="It can do ES384"):
                ask()

    @pytest.mark.parametrize("name", ["none", "HS384", "es384", ""])
    def test_unknown(self, name: str) -> None:
        """A name that is no algorithm is not the key's fault."""
        with pytest.raises(AlgorithmError) as caught:
            Signer(FakeKey(), algorithm=name)
        assert "algorithm-unknown" == caught.value.code

    @pytest.mark.parametrize("name", [None, "ES384"])
    def test_none_possible(self, name: str | None) -> None:
        """A device without a fitting mechanism is said so."""
        with pytest.raises(AlgorithmError, match=r"no JWS algorithm|none that JWS knows"):
            Signer(FakeKey(able=()), algorithm=name)

    def test_kid(self) -> None:
        """A kid given is used as it is."""
        assert "epic-2026" == Signer(FakeKey(), kid="epic-2026").kid

    @pytest.mark.parametrize(
        "private_key",
        [
            pytest.param(rsa.generate_private_key(65537, 1024), id="RSA-1024"),
            pytest.param(ec.generate_private_key(ec.SECP256K1()), id="secp256k1"),
        ],
    )
    def test_key_that_must_not_sign(self, private_key: Any) -> None:
        """A backend that opens a weak or unknown key does not get by."""
        description = FakeKey().describe()

        class Careless(FakeKey):
            def describe(self) -> Any:
                from dataclasses import replace

                return replace(description, public_key=private_key.public_key())

        with pytest.raises(KeyUnusableError):
            Signer(Careless())

    @pytest.mark.parametrize("verify", ["never", "", None, True])
    def test_verify_is_one_of_two(self, verify: Any) -> None:
        """There is no way to spell: do not verify."""
        with pytest.raises(ConfigurationError, match="always"):
            Signer(FakeKey(), verify=verify)


LIES: dict[str, Callable[[BackendSignature], BackendSignature]] = {
    "bit flipped": lambda r: r._replace(value=r.value[:-1] + bytes((r.value[-1] ^ 1,))),
    "zeros": lambda r: r._replace(value=bytes(len(r.value))),
    "empty": lambda r: r._replace(value=b""),
    "cut": lambda r: r._replace(value=r.value[:-1]),
    "byte appended": lambda r: r._replace(value=r.value + b"\0"),
    "random raw": lambda r: r._replace(value=os.urandom(96), encoding="raw"),
    "DER called raw": lambda r: r._replace(encoding="raw"),
    "raw called DER": lambda r: r._replace(value=signatures.der_to_raw(r.value, "ES384")),
    "unknown encoding": lambda r: r._replace(encoding="DER"),  # type: ignore[arg-type]
    "r and s exchanged": lambda r: r._replace(
        value=(raw := signatures.der_to_raw(r.value, "ES384"))[48:] + raw[:48], encoding="raw"
    ),
}


class TestVerified:
    """Promise 1: verified before it leaves."""

    @pytest.mark.parametrize("lie", LIES)
    def test_bad_signature(self, lie: str) -> None:
        """No bad signature is returned, whatever is wrong with it."""
        signer = Signer(LyingKey(lie=LIES[lie]), name="pkcs11:token=a")
        with pytest.raises(SignatureInvalidError) as caught:
            signer.sign(b"message")
        assert "pkcs11:token=a returned a bad ES384 signature" in caught.value.message
        assert "The signature was not used." in (caught.value.hint or "")

    @pytest.mark.parametrize("lie", LIES)
    def test_the_lies_are_needed(self, lie: str) -> None:
        """The same backend without the lie is believed: it is the lie that is refused."""
        assert 96 == len(Signer(LyingKey(lie=lambda r: r)).sign(b"message"))
        with pytest.raises(SignatureInvalidError):
            Signer(LyingKey(lie=LIES[lie]), verify="first").sign(b"message")

    @pytest.mark.parametrize("kind", DEFAULTS)
    @pytest.mark.parametrize("make", [FakeKey, RawKey], ids=["DER", "raw"])
    def test_either_encoding(self, kind: str, make: type[FakeKey]) -> None:
        """Both encodings end in the same kind of signature."""
        signer = Signer(make(PRIVATE_KEYS[kind]))
        signature = signer.sign(b"message")
        signatures.verify(signer.public_key, signer.algorithm, b"message", signature)

    def test_der_for_rsa(self) -> None:
        """An RSA signature has no DER encoding; a backend that says so is confused."""
        key = lying(encoding="der")
        key.private_key = PRIVATE_KEYS["RSA-2048"]
        with pytest.raises(SignatureInvalidError, match="'der' does not belong"):
            Signer(key).sign(b"message")

    def test_signature_by_another_key(self) -> None:
        """A signature by a key that is not the public key's is refused, id or no id."""
        description = FakeKey().describe()

        class Swapped(FakeKey):
            def describe(self) -> Any:
                return description

        with pytest.raises(SignatureInvalidError, match="does not verify"):
            Signer(Swapped(OTHER_KEY)).sign(b"message")

    def test_digest_hashed_again(self) -> None:
        """A backend that hashes the digest once more (as moto does) is found out."""

        class Rehashing(FakeKey):
            def sign(self, request: Any) -> Any:
                from keystay.backends import SignRequest

                return super().sign(
                    SignRequest(request.algorithm, request.digest, request.deadline)
                )

        with pytest.raises(SignatureInvalidError, match="does not verify"):
            Signer(Rehashing()).sign(b"message")

    def test_first_verifies_once_a_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """verify="first" checks the first of each session and algorithm, and no other."""
        checked = []
        true_verify = signatures.verify

        def verify(*args: Any, **kwargs: Any) -> None:
            checked.append(args[1].name)
            true_verify(*args, **kwargs)

        monkeypatch.setattr(signatures, "verify", verify)
        key = FakeKey(PRIVATE_KEYS["RSA-2048"])
        signer = Signer(key, verify="first")
        for _ in range(3):
            signer.sign(b"message")
        assert ["RS384"] == checked
        signer.sign(b"message", "PS256")
        key.session = 1
        for _ in range(3):
            signer.sign(b"message")
        assert ["RS384", "PS256", "RS384"] == checked

    def test_first_finds_a_bad_session(self) -> None:
        """A session that signs badly from its start is found at its first signature."""
        key = LyingKey(lie=lambda r: r if r.session == 0 else LIES["bit flipped"](r))
        signer = Signer(key, verify="first")
        signer.sign(b"message")
        key.session = 1
        for _ in range(2):  # a failure does not count as verified
            with pytest.raises(SignatureInvalidError):
                signer.sign(b"message")

    @pytest.mark.parametrize("lie", ["empty", "cut", "byte appended", "DER called raw"])
    def test_form_is_checked_each_time(self, lie: str) -> None:
        """With verify="first" too, what has not even the form of a signature is refused."""
        key = LyingKey(lie=lambda r: r)
        signer = Signer(key, verify="first")
        signer.sign(b"message")
        key.lie = LIES[lie]
        with pytest.raises(SignatureInvalidError) as caught:
            signer.sign(b"message")
        assert "signature-malformed" == caught.value.code

    def test_first_remembers_a_bounded_number(self) -> None:
        """Thousands of sessions do not fill the memory."""
        key = RawKey(PRIVATE_KEYS["Ed25519"])
        signer = Signer(key, verify="first")
        for key.session in range(1100):
            signer.sign(b"message")
        assert 1024 > len(signer._verification._verified) > 0

    def test_always_verifies_each(self) -> None:
        """By default the hundredth signature is checked like the first."""
        key = LyingKey(lie=lambda r: r)
        signer = Signer(key)
        for _ in range(10):
            signer.sign(b"message")
        key.lie = LIES["r and s exchanged"]
        with pytest.raises(SignatureInvalidError):
            signer.sign(b"message")

    def test_software_key_is_checked_when_opened(self) -> None:
        """A key that signs here is checked once, at once, and not each time."""
        key = LyingKey(signs_here=True, lie=lambda r: r)
        signer = Signer(key)
        assert 1 == len(key.calls)
        key.lie = LIES["r and s exchanged"]
        assert 96 == len(signer.sign(b"message"))
        with pytest.raises(SignatureInvalidError):
            Signer(LyingKey(signs_here=True, lie=LIES["r and s exchanged"]))

    @pytest.mark.parametrize(
        "garbage", [None, b"signature", 7, ()], ids=["none", "bytes", "int", "tuple"]
    )
    def test_no_signature_at_all(self, garbage: Any) -> None:
        """A backend that returns something else is an error of ours, not an AttributeError."""
        with pytest.raises(BackendError) as caught:
            Signer(LyingKey(lie=lambda _: garbage)).sign(b"message")
        assert "backend-unexpected" == caught.value.code


class TestPinned:
    """Promise 2: always the key that was opened."""

    @pytest.mark.parametrize("verify", ["always", "first"])
    def test_another_key_id(self, verify: Any) -> None:
        """A good signature by another key id is refused, after any number of good ones."""
        key = FakeKey()
        signer = Signer(key, verify=verify)
        signer.sign(b"message")
        key.key_id = "key-2"
        with pytest.raises(KeyChangedError, match="signed as key-2, not as key-1"):
            signer.sign(b"message")

    def test_repointed_alias(self) -> None:
        """An alias that leads to another key is told as such, before the bad signature is."""
        key = FakeKey()
        signer = Signer(key)
        key.private_key, key.key_id = OTHER_KEY, "key-2"
        with pytest.raises(KeyChangedError, match="Publish the new public key first"):
            signer.sign(b"message")


class TestCustody:
    """Promise 3: refused at opening."""

    @pytest.mark.parametrize("location", ["in-process", "unheard-of"])
    def test_refused_and_closed(self, location: str) -> None:
        """A key that policy refuses is closed again and signs nothing."""
        key = FakeKey(custody=custody_at(location))
        with pytest.raises(PolicyError, match="out-of-process"):
            open_signer("x:y", custody="out-of-process", registry=FakeRegistry(key))
        assert (1, []) == (key.closed, key.calls)

    def test_unknown_policy_closes_too(self) -> None:
        """So does a policy that does not exist."""
        key = FakeKey()
        with pytest.raises(ConfigurationError):
            open_signer("x:y", custody="hardwear", registry=FakeRegistry(key))
        assert 1 == key.closed

    def test_refused_before_the_first_signature(self) -> None:
        """A software key is not even tried out."""
        key = FakeKey(custody=custody_at("in-process"), signs_here=True)
        with pytest.raises(PolicyError):
            Signer(key, custody="hardware")
        assert [] == key.calls

    def test_accepted(self) -> None:
        """What satisfies the policy opens."""
        key = FakeKey(custody=custody_at("other-process"))
        with open_signer("x:y", custody="out-of-process", registry=FakeRegistry(key)) as signer:
            assert "other-process" == signer.custody.location
        assert 1 == key.closed


class TestLease:
    """Promise 6: claims are stamped after waiting."""

    def test_stamped_after_the_wait(self) -> None:
        """The message is made once the session is there."""
        key = LeasedKey(wait=0.3)
        asked = time.monotonic()
        message, signature, _ = Signer(key).sign_stamped(
            lambda: b"%d" % ((time.monotonic() - asked) * 1000)
        )
        assert int(message) >= 300
        signatures.verify(key.private_key.public_key(), "ES384", message, signature)

    def test_deadline_passes_through(self) -> None:
        """Lease and signature get one deadline, the call's or the signer's."""
        key = LeasedKey(wait=0.1)
        signer = Signer(key, timeout=7)
        signer.sign(b"message")
        signer.sign(b"message", timeout=3)
        assert [7, 3] == [deadline.seconds for deadline in key.deadlines]
        assert key.deadlines == [request.deadline for request in key.calls]
        assert all(0 < call.deadline.remaining <= 7 for call in key.calls)

    def test_waiting_ends(self) -> None:
        """A wait longer than the deadline is a timeout, and nothing is stamped."""
        stamped: list[int] = []

        def stamp() -> bytes:
            stamped.append(1)
            return b"message"

        with pytest.raises(BackendTimeoutError, match=r"within 0\.1 s"):
            Signer(LeasedKey(wait=5)).sign_stamped(stamp, timeout=0.1)
        assert [] == stamped

    def test_released_after_a_failure(self) -> None:
        """Whatever goes wrong inside, the session goes back."""
        key = LeasedKey()
        signer = Signer(key)

        def stamp() -> bytes:
            raise ConfigurationError("The audience is empty.")

        for _ in range(3):
            with pytest.raises(ConfigurationError):
                signer.sign_stamped(stamp)
        assert [0, 1] == key.leased


class TestErrors:
    """What a backend raises."""

    @pytest.mark.parametrize("method", ["describe", "sign", "health", "close"])
    def test_foreign(self, method: str) -> None:
        """An SDK's exception becomes ours; its text is not repeated."""
        key = RaisingKey(error=RuntimeError(f"PIN {SECRET}"), method=method)

        def use() -> None:
            with Signer(key) as signer:
                signer.sign(b"message")
                signer.health()

        with pytest.raises(BackendError) as caught:
            use()
        assert "backend-unexpected" == caught.value.code
        assert "failed unexpectedly (RuntimeError)" in caught.value.message
        assert key.error is caught.value.__cause__
        WATCH.check(f"{caught.value} {caught.value!r}", "the error")

    def test_ours(self) -> None:
        """An error of our family passes unchanged."""
        error = BackendUnavailableError("The token is gone.")
        with pytest.raises(BackendUnavailableError) as caught:
            Signer(RaisingKey(error=error)).sign(b"message")
        assert error is caught.value

    def test_interrupt(self) -> None:
        """Ctrl-C is not an error of the backend."""
        with pytest.raises(KeyboardInterrupt):
            Signer(RaisingKey(error=KeyboardInterrupt())).sign(b"message")

    def test_failure_to_close_does_not_hide_the_reason(self) -> None:
        """When opening fails and closing too, the reason is the one of opening."""
        key = RaisingKey(error=RuntimeError("x"), method="close")
        with pytest.raises(AlgorithmError):
            open_signer("x:y", algorithm="RS384", registry=FakeRegistry(key))
        assert 1 == key.closed

    def test_text_instead_of_bytes(self) -> None:
        """A str is the caller's slip, and not put down to the backend."""
        with pytest.raises(TypeError, match="bytes-like"):
            Signer(FakeKey()).sign("message")  # type: ignore[arg-type]

    def test_error_of_the_stamp(self) -> None:
        """An error of ours in the stamp passes unchanged."""
        with pytest.raises(KeystayError, match="mine"):
            Signer(FakeKey()).sign_stamped(partial(self._fail, KeystayError("mine")))

    @staticmethod
    def _fail(error: Exception) -> bytes:
        raise error


class TestLife:
    """Open, closed, copied, shown."""

    def test_closed(self) -> None:
        """A closed signer neither signs nor is well; closing twice closes once."""
        key = FakeKey()
        signer = Signer(key)
        with signer:
            signer.sign(b"message")
        signer.close()
        assert 1 == key.closed
        for use in (lambda: signer.sign(b"message"), signer.health):
            with pytest.raises(SignerClosedError):
                use()
        assert 1 == len(key.calls)
        assert "ES384" == signer.algorithm

    def test_not_pickled(self) -> None:
        """A signer stays in its process."""
        signer = Signer(FakeKey())
        for move in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="not pickled"):
                move(signer)

    def test_shown(self) -> None:
        """What is shown is no secret: name, type, algorithm, kid, custody."""
        uri = "pkcs11:token=a?pin-source=file:/run/pin"
        signer = open_signer(uri, kid="k", registry=FakeRegistry(FakeKey()))
        assert f"<Signer {uri} P-384 ES384 kid=k hardware>" == repr(signer)
        signer.close()
        assert repr(signer).endswith("hardware, closed>")

    def test_misplaced_secret_is_not_shown(self) -> None:
        """A PIN written where its reference is due shows neither in repr nor in errors."""
        key = RaisingKey(error=RuntimeError("x"))
        signer = open_signer(f"pkcs11:token=a?pin-source={SECRET}", registry=FakeRegistry(key))
        with pytest.raises(BackendError) as caught:
            signer.sign(b"message")
        WATCH.check(f"{signer!r} {caught.value}", "what is shown")
        WATCH.check("".join(traceback.format_exception(caught.value)), "the traceback")


class TestOpen:
    """open_signer."""

    def test_context(self, tmp_path: Any) -> None:
        """The backend gets its own settings, the secrets, the timeout and the base directory."""
        registry = FakeRegistry(FakeKey())
        open_signer(
            "x:y",
            registry=registry,
            backends={"x": {"module": "m"}, "z": {"module": "n"}},
            secrets=lambda reference, purpose: f"{reference}|{purpose}",
            timeout=3,
            base_dir=str(tmp_path),
        )
        (context,) = registry.contexts
        assert ({"module": "m"}, 3, tmp_path) == (
            context.settings,
            context.timeout,
            context.base_dir,
        )
        assert "env:P|the PIN" == context.secrets.resolve("env:P", "the PIN").reveal()
        WATCH.check(repr(context), "the context")

    def test_bad_uri(self) -> None:
        """A malformed URI is refused before a backend is looked for."""
        with pytest.raises(KeyURIError):
            open_signer("client.pem")

    def test_no_backend(self) -> None:
        """A scheme nobody claims is refused."""
        with pytest.raises(BackendMissingError):
            open_signer("nosuch:key", registry=Registry(lambda: ()))


class TestConcurrency:
    """Threads and event loops."""

    def test_threads(self) -> None:
        """Eight threads sign through one signer; every signature is of its own message."""
        key = LeasedKey()
        signer, barrier = Signer(key), threading.Barrier(8)

        def work(number: int) -> None:
            barrier.wait()
            for turn in range(25):
                message = f"{number}/{turn}".encode()
                signatures.verify(signer.public_key, "ES384", message, signer.sign(message))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert (200, 0) == (len(key.calls), key.leased[0])

    async def test_async_equals_sync(self) -> None:
        """Under asyncio and trio: the same signature, for an algorithm without randomness."""
        signer = Signer(FakeKey(PRIVATE_KEYS["RSA-2048"]))
        assert signer.sign(b"message") == await signer.sign_async(b"message")
        assert signer.sign(b"message", "RS256") == await signer.sign_async(b"message", "RS256")

    async def test_async_errors(self) -> None:
        """Errors are the same too, the timeout's included."""
        with pytest.raises(BackendTimeoutError):
            await Signer(LeasedKey(wait=5)).sign_async(b"message", timeout=0.05)
        with pytest.raises(AlgorithmError):
            await Signer(FakeKey()).sign_async(b"message", "RS384")

    async def test_brief_signature(self) -> None:
        """A key as fast as a local EC key signs on the loop; others have their turn in between."""
        import anyio

        key = FakeKey(brief=True)
        signer, turns = Signer(key), 0

        async def beat() -> None:
            nonlocal turns
            while len(key.calls) < 20:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            for _ in range(20):
                await signer.sign_async(b"message")
        assert {threading.get_ident()} == set(key.threads)
        assert turns >= 10
        with anyio.CancelScope() as scope:
            scope.cancel()
            await signer.sign_async(b"message")
        assert (20, True) == (len(key.calls), scope.cancelled_caught)

    async def test_slow_signature(self) -> None:
        """Any other signs in another thread, with the task's context."""
        colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour")
        colour.set("green")
        key, seen = FakeKey(), list[str]()

        def stamp() -> bytes:
            seen.append(colour.get())
            return b"message"

        await Signer(key).sign_stamped_async(stamp)

        assert ["green"] == seen
        assert threading.get_ident() not in key.threads

    def test_late_signature(self) -> None:
        """A backend that does not mind the deadline: what it returns too late is not used."""

        class Late(FakeKey):
            def sign(self, request: SignRequest) -> BackendSignature:
                time.sleep(0.05)
                return super().sign(request)

        signer = Signer(Late(), name="late:key")
        with pytest.raises(BackendTimeoutError, match=r"A signature by late:key .* 0\.01 s"):
            signer.sign(b"message", timeout=0.01)
        signer.sign(b"message")

    async def test_event_loop_stays_free(self) -> None:
        """While one signature waits, the loop runs on; cancelling does not wait for it."""
        import anyio

        signer = Signer(LeasedKey(wait=1.5))
        started, turns = time.monotonic(), 0
        with anyio.move_on_after(0.2):
            async with anyio.create_task_group() as group:
                group.start_soon(signer.sign_async, b"message")
                while True:
                    turns += 1
                    await anyio.sleep(0.01)
        assert 5 < turns
        assert 1 > time.monotonic() - started
