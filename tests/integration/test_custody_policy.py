"""What `out-of-process` and `hardware` accept and refuse, on the real parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.cloud import kms_v1

import keystay
from keystay.backends import Deadline
from keystay.errors import PolicyError
from keystay.policy import Policy
from keystay.signer import Signer
from keystay_gcp_kms.client import Connection
from keystay_gcp_kms.key import GcpKey
from keystay_gcp_kms.settings import Settings
from keystay_gcp_kms.uri import ResourceName

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws_fixtures import KmsUri
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.ministack import MiniStack
    from tests.support.p11kit import P11KitServer
    from tests.support.softhsm import SoftHSM

OUT = Policy(custody="out-of-process")
HARDWARE = Policy(custody="hardware")


@pytest.fixture(scope="module")
def perfect_key(softhsm: SoftHSM) -> str:
    """A SoftHSM key whose attributes are as good as an HSM's."""
    softhsm.generate_key("EC:secp384r1", "perfect", "77")
    return "perfect"


def refused(uri: str, policy: Policy) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        keystay.open_signer(uri, policy=policy)
    return caught.value


@pytest.mark.parametrize("policy", [OUT, HARDWARE])
def test_pem(pem_file: Path, policy: Policy) -> None:
    """A PEM key is in this process."""
    assert "in-process" in refused(f"file:{pem_file}", policy).message


@pytest.mark.parametrize("policy", [OUT, HARDWARE])
def test_softhsm_directly(softhsm: SoftHSM, perfect_key: str, policy: Policy) -> None:
    """So is SoftHSM's, however its attributes are set."""
    uri = softhsm.key_uri(perfect_key)
    with keystay.open_signer(uri) as signer:
        facts = {name: fact.value for name, fact in signer.custody.facts.items()}

    assert (True, False, True, True) == (
        facts["sensitive"], facts["extractable"], facts["never_extractable"], facts["local"],
    )  # fmt: skip
    assert "in-process" in refused(uri, policy).message


def test_softhsm_remoted(p11kit: P11KitServer, perfect_key: str) -> None:
    """Behind p11-kit it is another process's: out of this one, and no hardware."""
    uri = p11kit.key_uri(perfect_key)
    with keystay.open_signer(uri, policy=OUT) as signer:
        assert signer.sign(b"x")

    assert "other-process" in refused(uri, HARDWARE).message


def test_aws(ministack: MiniStack, kms_uri: KmsUri) -> None:
    """AWS KMS: out of this process. That it is hardware, nothing shows."""
    uri = kms_uri(ministack.key("P-384"))
    with keystay.open_signer(uri, policy=OUT) as signer:
        assert signer.sign(b"x")

    refused(uri, HARDWARE)


@pytest.mark.parametrize("level", ["SOFTWARE", "HSM"])
def test_google_emulated(gcp_kms: GcpKmsServer, level: str) -> None:
    """Google Cloud KMS: out of this process. An emulator is no hardware, whatever it says."""
    uri = gcp_kms.add("a", "EC_SIGN_P384_SHA384", level=level)
    with keystay.open_signer(uri, policy=OUT) as signer:
        assert signer.sign(b"x")

    refused(uri, HARDWARE)


class AsGoogle:
    """The emulator's answers, taken for those of Google's own host: what TLS would show."""

    def __init__(self, server: GcpKmsServer, **settings: str) -> None:
        self.server, self.settings = server, Settings(**settings)  # type: ignore[arg-type]

    def open(self, name: str, policy: Policy) -> Signer:
        from keystay_gcp_kms.client import _make_client

        connection = Connection(
            self.settings, lambda _: _make_client(Settings(endpoint=self.server.endpoint))
        )
        resource = ResourceName(tuple(name.split("/")[1::2]))
        key = GcpKey(connection, resource, self.settings, Deadline.after(10))
        return Signer(key, policy=policy, backend="gcpkms")


def test_google_hsm(gcp_kms: GcpKmsServer) -> None:
    """Protection level HSM, said by Google: hardware. SOFTWARE and EXTERNAL are not."""
    google = AsGoogle(gcp_kms)
    with google.open(gcp_kms.service.add("hsm", "EC_SIGN_P384_SHA384", level="HSM"), HARDWARE) as s:
        assert s.sign(b"x")
        assert "hardware" == s.custody.location
        assert s.custody.statement

    for level in ("SOFTWARE", "EXTERNAL", "EXTERNAL_VPC"):
        name = gcp_kms.service.add(level.lower(), "EC_SIGN_P384_SHA384", level=level)
        google.open(name, OUT).close()
        with pytest.raises(PolicyError, match="remote-service"):
            google.open(name, HARDWARE)


def test_google_reported_is_not_attested(gcp_kms: GcpKmsServer) -> None:
    """Where attested evidence is demanded, Google's word alone is refused."""
    name = gcp_kms.service.add("hsm", "EC_SIGN_P384_SHA384", level="HSM")
    with pytest.raises(PolicyError, match="evidence"):
        AsGoogle(gcp_kms).open(name, Policy(custody="hardware", evidence="attested"))


def test_google_age(gcp_kms: GcpKmsServer) -> None:
    """Google says when a key was generated; of an imported one nobody knows."""
    made = gcp_kms.add("a", "EC_SIGN_P384_SHA384")
    keystay.open_signer(made, policy=Policy(max_key_age=3650, evidence="asserted")).close()
    assert "max_key_age" in refused(made, Policy(max_key_age=1)).message

    imported = gcp_kms.add("b", "EC_SIGN_P384_SHA384", imported=True)
    assert "nobody says" in refused(imported, Policy(max_key_age=36500)).message


def test_google_moves_after_opening(gcp_kms: GcpKmsServer) -> None:
    """A key that comes back at a weaker level after a reconnection signs no more."""
    google = AsGoogle(gcp_kms)
    name = gcp_kms.service.add("hsm", "EC_SIGN_P384_SHA384", level="HSM")
    signer = google.open(name, HARDWARE)
    signer.sign(b"x")
    version = gcp_kms.service.versions[name]
    version.answer = kms_v1.CryptoKeyVersion(version.answer, protection_level="SOFTWARE")
    gcp_kms.service.faults.level = "HSM"  # the signatures go on claiming it
    key = signer._key
    assert isinstance(key, GcpKey)
    key._connection._client._reset()  # a new client, as after a fork

    with pytest.raises(PolicyError, match="remote-service"):
        signer.sign(b"x")
