"""The contract's part about what nobody may see."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from typing import TYPE_CHECKING

import pytest

from keystay.algorithms import ALGORITHMS
from keystay.backends.port import SignRequest
from keystay.errors import KeystayError
from keystay.testing.contract.base import MESSAGE, ContractBase, port_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keystay.signer import Signer

__all__ = ["SecrecyTests"]


class SecrecyTests(ContractBase):
    """No PIN, key, token or passphrase shows, wherever a program prints something."""

    def test_no_secret_in_repr(self, signer: Signer, secrets: Sequence[str]) -> None:
        """Neither the signer nor anything of the backend shows one, nor is it pickled."""
        hidden, key = self._hidden(secrets), port_key(signer)
        result = key.sign(SignRequest(ALGORITHMS[signer.algorithm], MESSAGE, self._deadline()))
        for thing in (signer, key, key.describe(), signer.custody, result):
            _check_shown(f"{thing!r} {thing!s} {thing}", hidden, f"a {type(thing).__name__}")
        with pytest.raises(TypeError):
            pickle.dumps(signer)

    def test_no_secret_in_pickle(self, signer: Signer, secrets: Sequence[str]) -> None:
        """The backend's key is not pickled, or without anything secret."""
        hidden = self._hidden(secrets)
        try:
            pickled = pickle.dumps(port_key(signer))
        except Exception:  # noqa: BLE001  (pickle raises anything)
            return
        _check_shown(pickled.decode("latin-1"), hidden, "the pickled key")

    def test_no_secret_in_errors(
        self, opened: Callable[..., Signer], secrets: Sequence[str]
    ) -> None:
        """No error shows one, nor its causes, nor their tracebacks."""
        hidden, signer = self._hidden(secrets), opened()
        key = port_key(signer)
        algorithm = ALGORITHMS[signer.algorithm]

        def fail_to_sign() -> None:
            key.sign(SignRequest(algorithm, None, self._deadline(), b"no digest"))
            raise AssertionError

        def fail_to_open() -> None:
            opened(algorithm="HS256")

        def fail_in_time() -> None:
            signer.sign(MESSAGE, timeout=0.0)

        def fail_closed() -> None:
            signer.close()
            key.sign(SignRequest(algorithm, MESSAGE, self._deadline()))

        for attempt in (fail_to_sign, fail_to_open, fail_in_time, fail_closed):
            try:
                attempt()
            except Exception as error:  # noqa: BLE001
                text = "".join(traceback.format_exception(error))
                shown = f"{error} {error!r} {text}"
                if isinstance(error, KeystayError):
                    shown += json.dumps(error.to_dict())
                _check_shown(shown, hidden, f"{attempt.__name__}: {type(error).__name__}")

    def test_no_secret_in_logs(
        self,
        opened: Callable[..., Signer],
        secrets: Sequence[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Opening, signing and closing log none, also at DEBUG."""
        hidden = self._hidden(secrets)
        with caplog.at_level(logging.DEBUG):
            signer = opened()
            signature = signer.sign(MESSAGE)
            signer.health()
            signer.close()
        text = "\n".join(
            f"{record.getMessage()} {record.exc_text or ''} {record.__dict__}"
            for record in caplog.records
        )
        _check_shown(text, hidden, "the log")
        _check_shown(text, [signature.hex(), repr(signature)[2:-1]], "the log")


def _check_shown(text: str, secrets: Sequence[str], where: str) -> None:
    # Not `assert secret not in text`: pytest would show the secret.
    if any(secret in text for secret in secrets):
        pytest.fail(f"{where} shows a secret", pytrace=False)
