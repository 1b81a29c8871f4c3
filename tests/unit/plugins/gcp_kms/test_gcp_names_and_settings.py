"""Resource names, settings, algorithms and custody of `gcpkms:`, without a server."""

from __future__ import annotations

import pytest

from keystay import algorithms, key_uri
from keystay.errors import ConfigurationError, KeyUnusableError, KeyURIError
from keystay_gcp_kms.algorithms import CREATED_AS, algorithm_for_new, find, key_type_of
from keystay_gcp_kms.custody import judge
from keystay_gcp_kms.settings import Settings
from keystay_gcp_kms.uri import ResourceName

RING = "projects/hospital/locations/europe-west1/keyRings/smart"
KEY = f"{RING}/cryptoKeys/epic"
VERSION = f"{KEY}/cryptoKeyVersions/3"


def name_of(path: str) -> ResourceName:
    """The name in a key URI."""
    return ResourceName.read(key_uri.parse(f"gcpkms://{path}"))


def settings_of(query: str = "", **table: object) -> Settings:
    """The settings of a key URI and a table."""
    return Settings.read(key_uri.parse(f"gcpkms://{VERSION}{query}"), table)


class TestName:
    """Names are read strictly."""

    def test_levels(self) -> None:
        """A key ring, a key and a version each know what they are."""
        ring, key, version = (name_of(path) for path in (RING, KEY, VERSION))
        assert (RING, None, None, None) == (ring.key_ring, ring.key, ring.key_id, ring.version)
        assert (RING, KEY, "epic", None) == (key.key_ring, key.key, key.key_id, key.version)
        assert (KEY, VERSION) == (version.key, version.version)
        assert [RING, KEY, VERSION] == [str(ring), str(key), str(version)]

    def test_slashes(self) -> None:
        """Two or three of them after the colon."""
        assert name_of(VERSION) == name_of(f"/{VERSION}")

    @pytest.mark.parametrize("project", ["hospital", "123456789", "example.com:hospital"])
    def test_projects(self, project: str) -> None:
        """Id, number, and the id of an old project in a domain."""
        assert name_of(VERSION.replace("hospital", project)).values[0] == project

    @pytest.mark.parametrize(
        ("path", "part"),
        [
            ("project/hospital", "'project' stands where 'projects' is due"),
            ("projects", "The project is missing"),
            ("projects/hospital", "The location (locations/…) is missing"),
            ("projects/hospital/locations", "The location is missing after 'locations'"),
            (RING.replace("europe-west1", "Europe"), "The location 'Europe'"),
            (RING.replace("keyRings", "keyrings"), "'keyrings' stands where 'keyRings' is due"),
            (RING.replace("smart", "smart.ring"), "The key ring 'smart.ring'"),
            (f"{RING}/cryptoKeys/", "The key is missing after 'cryptoKeys'"),
            (f"{RING}/cryptoKeys/{'x' * 64}", "1 to 63"),
            (f"{KEY}/versions/1", "'versions' stands where 'cryptoKeyVersions' is due"),
            (f"{KEY}/cryptoKeyVersions/latest", "never a word such as latest"),
            (f"{KEY}/cryptoKeyVersions/0", "a number from 1"),
            (f"{VERSION}/more", "'more' follows the key version"),
        ],
    )
    def test_malformed(self, path: str, part: str) -> None:
        """The error says which part, and how a name looks."""
        with pytest.raises(KeyURIError) as caught:
            name_of(path)
        assert part in str(caught.value)
        assert "gcp-name-malformed" == caught.value.code
        assert "cryptoKeyVersions/N" in str(caught.value.hint)


class TestSettings:
    """The URI wins over the table; what cannot be used says where it stands."""

    def test_defaults(self) -> None:
        """gRPC to Google."""
        settings = settings_of()
        assert Settings() == settings
        assert settings.is_google
        assert not settings.loopback

    def test_the_uri_wins(self) -> None:
        """Each may stand in both."""
        settings = settings_of(
            "?transport=rest&endpoint=kms.example:8443",
            transport="grpc",
            endpoint="other.example",
            protection="hsm",
        )
        assert Settings(transport="rest", endpoint="kms.example:8443", protection="hsm") == settings

    @pytest.mark.parametrize(
        ("endpoint", "loopback", "is_google"),
        [
            ("127.0.0.1:9000", True, False),
            ("127.1.2.3:9000", True, False),
            ("[::1]:9000", True, False),
            ("localhost:9000", False, False),
            ("10.0.0.1:9000", False, False),
            ("127.0.0.1.example.org", False, False),
            ("cloudkms.europe-west3.rep.googleapis.com", False, True),
            ("evilgoogleapis.com", False, False),
        ],
    )
    def test_endpoints(self, endpoint: str, loopback: bool, is_google: bool) -> None:
        """Plaintext is for loopback addresses: a name may resolve to anything."""
        settings = settings_of(f"?endpoint={endpoint.replace('[', '%5B').replace(']', '%5D')}")
        assert (loopback, is_google) == (settings.loopback, settings.is_google)

    @pytest.mark.parametrize(
        "endpoint",
        [
            "https://kms.example",
            "kms.example/path",
            "kms.example:0",
            "kms.example:99999",
            "",
            "a b",
        ],
    )
    def test_bad_endpoints(self, endpoint: str) -> None:
        """Only HOST or HOST:PORT."""
        with pytest.raises(ConfigurationError, match="endpoint"):
            settings_of(endpoint=endpoint)

    @pytest.mark.parametrize(
        ("query", "match"),
        [
            ("?transports=rest", "Did you mean 'transport'"),
            ("?transport=http", "grpc or rest"),
            ("?protection=HSM", "software or hsm"),
            ("?endpoint=https://x", "without https"),
        ],
    )
    def test_in_the_uri(self, query: str, match: str) -> None:
        """With the position."""
        with pytest.raises(KeyURIError, match=match) as caught:
            settings_of(query)
        assert caught.value.position

    @pytest.mark.parametrize(
        ("table", "match"),
        [
            ({"transprot": "rest"}, "Did you mean 'transport'"),
            ({"transport": 1}, "transport: it is 1; expected one of 'grpc', 'rest'"),
            ({"protection": "external"}, "expected one of 'software', 'hsm'"),
            ({"endpoint": 443}, "endpoint: it is 443"),
            ({"endpoint": "https://x"}, "It is 'https://x'."),
        ],
    )
    def test_in_the_table(self, table: dict[str, object], match: str) -> None:
        """With the table's name."""
        with pytest.raises(ConfigurationError, match=match) as caught:
            settings_of("", **table)
        assert "[backends.gcpkms]" in caught.value.message


class TestCustody:
    """Google's word, as far as it is Google's."""

    @pytest.mark.parametrize(
        ("level", "location"),
        [
            ("SOFTWARE", "remote-service"),
            ("HSM", "hardware"),
            ("HSM_SINGLE_TENANT", "hardware"),
            ("EXTERNAL", "remote-service"),
            ("EXTERNAL_VPC", "remote-service"),
            ("PROTECTION_LEVEL_UNSPECIFIED", "remote-service"),
            ("7", "remote-service"),
        ],
    )
    def test_levels(self, level: str, location: str) -> None:
        """Hardware only for the HSM levels."""
        custody = judge(level, Settings(), {"imported": False})
        assert (location, "reported") == (custody.location, custody.evidence)
        assert level in custody.reason
        assert level == custody.facts["protection_level"].value

    @pytest.mark.parametrize(
        ("endpoint", "location"),
        [
            ("cloudkms.europe-west3.rep.googleapis.com", "hardware"),
            ("kms.example.org", "remote-service"),
            ("127.0.0.1:9000", "other-process"),
        ],
    )
    def test_who_says_so(self, endpoint: str, location: str) -> None:
        """An HSM on somebody else's word is none."""
        assert location == judge("HSM", Settings(endpoint=endpoint), {}).location

    def test_universe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Google's library can be led to a partner's cloud, which is not Google either."""
        monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "partner.example")
        custody = judge("HSM", Settings(), {})
        assert "remote-service" == custody.location
        assert "cloudkms.partner.example is not one of Google's" in custody.reason


class TestAlgorithms:
    """Google's names against JWS."""

    def test_what_is_created_can_do_what_smart_wants(self) -> None:
        """RSA keys do RS384, P-384 does ES384."""
        assert "RS384" in find(CREATED_AS["RSA-3072"], "k").able
        assert ("ES384",) == find(CREATED_AS["P-384"], "k").able
        for key_type, name in CREATED_AS.items():
            assert key_type == find(name, "k").key_type == key_type_of(name)
            assert name == algorithm_for_new(key_type)
            assert set(find(name, "k").able) <= set(algorithms.ALGORITHMS)

    def test_unknown(self) -> None:
        """A name from the future is refused, and listed as it is."""
        assert "FUTURE" == key_type_of("FUTURE")
        with pytest.raises(KeyUnusableError, match="does not know") as caught:
            find("FUTURE", "k")
        assert "gcp-algorithm-unusable" == caught.value.code
