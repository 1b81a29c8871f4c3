"""Key URIs: what is understood, where a fault is, and that no secret is repeated."""

from __future__ import annotations

import string
import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keystay.errors import KeyURIError
from keystay.key_uri import KeyURI, encode_id, parse, redact

SECRET = "Tr0ub4dor"
SECRET_NAMES = [
    "pin-value", "PIN-VALUE", "pin", "pin_value", "so-pin", "user-pin", "passphrase", "password",
    "passwd", "pass", "secret", "client-secret", "client_secret", "credential", "x-pin",
    "passphrase-value", "secret-access-key", "access_key", "apikey", "private-key",
    "session-token", "token-value",
]  # fmt: skip

# Without a lone surrogate, which no URI can carry, and without the null character.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
)
names = st.sampled_from(["token", "object", "manufacturer", "serial", "model", "x-vendor"])


def fault(text: str) -> KeyURIError:
    """The error that parsing a text ends in."""
    with pytest.raises(KeyURIError) as caught:
        parse(text)
    return caught.value


class TestParse:
    """What is understood."""

    @given(texts)
    def test_path_round_trip(self, name: str) -> None:
        """Whatever a file is called, its percent-encoded name names it."""
        assert name == parse(f"file:{quote(name, safe='')}").path

    @given(texts, texts)
    def test_query_round_trip(self, region: str, endpoint: str) -> None:
        """Query values are percent-decoded, in any order and with any content."""
        uri = parse(f"awskms:///alias/x?region={quote(region)}&endpoint={quote(endpoint, safe='')}")
        assert ("awskms", "alias/x") == (uri.scheme, uri.path)
        assert {"region": region, "endpoint": endpoint} == dict(uri.query)

    @given(st.dictionaries(names, texts, max_size=5), st.binary(min_size=1, max_size=20))
    def test_pkcs11_round_trip(self, attributes: dict[str, str], key_id: bytes) -> None:
        """Attributes are text, the id any bytes."""
        parts = [f"{name}={quote(value, safe='')}" for name, value in attributes.items()]
        uri = parse("pkcs11:" + ";".join([*parts, f"id={encode_id(key_id)}"]))
        assert {**attributes} == {name: uri.attribute(name) for name in attributes}
        assert key_id == uri.attributes["id"]

    @given(st.binary(min_size=1, max_size=8))
    def test_percent_encoding_in_capitals(self, key_id: bytes) -> None:
        """Hexadecimal digits are read in either case (RFC 3986 §2.1)."""
        assert key_id == parse(f"pkcs11:id={encode_id(key_id).upper()}").attributes["id"]

    @pytest.mark.parametrize(
        ("text", "scheme", "path", "attributes", "query"),
        [
            pytest.param("file:client.pem", "file", "client.pem", {}, {}, id="relative"),
            pytest.param("file:/etc/k.pem", "file", "/etc/k.pem", {}, {}, id="absolute"),
            pytest.param("file:///etc/k.pem", "file", "/etc/k.pem", {}, {}, id="three slashes"),
            pytest.param("file://localhost/k", "file", "/k", {}, {}, id="this machine"),
            pytest.param("FILE:a", "file", "a", {}, {}, id="scheme in capitals"),
            pytest.param("file:a:b", "file", "a:b", {}, {}, id="colon in the path"),
            pytest.param("file:a/b@c", "file", "a/b@c", {}, {}, id="at sign in the path"),
            pytest.param(
                "file:k.pem?passphrase-source=env:P",
                "file",
                "k.pem",
                {},
                {"passphrase-source": "env:P"},
                id="passphrase",
            ),
            pytest.param("awskms:///alias/x", "awskms", "alias/x", {}, {}, id="empty authority"),
            pytest.param("awskms:alias/x", "awskms", "alias/x", {}, {}, id="no authority"),
            pytest.param(
                "awskms:///arn:aws:kms:eu-west-1:1:key/2?region=eu-west-1&profile=a%26b",
                "awskms",
                "arn:aws:kms:eu-west-1:1:key/2",
                {},
                {"region": "eu-west-1", "profile": "a&b"},
                id="ARN",
            ),
            pytest.param(
                "gcpkms://projects/p/cryptoKeyVersions/1",
                "gcpkms",
                "projects/p/cryptoKeyVersions/1",
                {},
                {},
                id="resource name",
            ),
            pytest.param("pkcs11:", "pkcs11", "", {}, {}, id="RFC 7512: every object"),
            pytest.param(
                "pkcs11:object=my-sign-key;type=private",
                "pkcs11",
                "",
                {"object": b"my-sign-key", "type": b"private"},
                {},
                id="RFC 7512: by label",
            ),
            pytest.param(
                "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,"
                "%20Inc.;model=1.0;object=my-certificate;serial=;id=%69%95%3E%5C%F4%BD%EC%91"
                "?pin-source=file:/etc/token_pin",
                "pkcs11",
                "",
                {
                    "token": b"The Software PKCS#11 Softtoken",
                    "manufacturer": b"Snake Oil, Inc.",
                    "model": b"1.0",
                    "object": b"my-certificate",
                    "serial": b"",
                    "id": bytes.fromhex("69953e5cf4bdec91"),
                },
                {"pin-source": "file:/etc/token_pin"},
                id="RFC 7512: token and PIN source",
            ),
            pytest.param(
                "pkcs11:slot-description=Sun%20Metaslot",
                "pkcs11",
                "",
                {"slot-description": b"Sun Metaslot"},
                {},
                id="RFC 7512: slot description",
            ),
            pytest.param(
                "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-version=3;slot-id=327",
                "pkcs11",
                "",
                {
                    "library-manufacturer": b"Snake Oil, Inc.",
                    "library-version": b"3",
                    "slot-id": b"327",
                },
                {},
                id="RFC 7512: library and slot",
            ),
            pytest.param(
                "pkcs11:object=k?module-name=mypkcs11&x-vendor=1",
                "pkcs11",
                "",
                {"object": b"k"},
                {"module-name": "mypkcs11", "x-vendor": "1"},
                id="RFC 7512: module and vendor query",
            ),
            pytest.param(
                "pkcs11:x-muppet=cookie%3Cprotein%3E",
                "pkcs11",
                "",
                {"x-muppet": b"cookie<protein>"},
                {},
                id="vendor attribute",
            ),
        ],
    )
    def test_examples(
        self,
        text: str,
        scheme: str,
        path: str,
        attributes: dict[str, bytes],
        query: dict[str, str],
    ) -> None:
        """The forms of the documentation and of RFC 7512 §3."""
        uri = parse(text)
        assert (scheme, path, attributes, query) == (
            uri.scheme,
            uri.path,
            dict(uri.attributes),
            dict(uri.query),
        )
        assert text == str(uri)
        assert f"KeyURI({text!r})" == repr(uri)

    def test_attributes_cannot_be_changed(self) -> None:
        """A parsed URI is a value."""
        uri = parse("pkcs11:token=a?x=b")
        for mapping in (uri.attributes, uri.query):
            with pytest.raises(TypeError):
                mapping["token"] = "b"  # type: ignore[index]

    def test_flag(self) -> None:
        """true, false and nothing are flags; anything else is a fault at its name."""
        uri = parse("pkcs11:token=a?rw=true&ro=false&odd=yes")
        assert (True, False, None) == (uri.flag("rw"), uri.flag("ro"), uri.flag("none"))
        with pytest.raises(KeyURIError, match="Write odd=true or odd=false") as caught:
            uri.flag("odd")
        assert 32 == caught.value.position

    def test_require_known(self) -> None:
        """An unknown name is refused at its position, with the nearest known one."""
        uri = parse("awskms:///alias/x?regoin=eu")
        uri.require_known(query=["regoin"])
        with pytest.raises(KeyURIError, match="Did you mean 'region'") as caught:
            uri.require_known(query=["region", "endpoint"])
        assert (18, "regoin") == (caught.value.position, uri.text[18:24])

    def test_attribute_that_is_no_text(self) -> None:
        """Bytes that are not UTF-8 are refused when asked for as text."""
        assert None is parse("pkcs11:id=%ff").attribute("token")
        with pytest.raises(KeyURIError, match="id is not UTF-8"):
            parse("pkcs11:id=%ff").attribute("id")


class TestFaults:
    """Where the fault is."""

    @pytest.mark.parametrize(
        ("text", "position", "says"),
        [
            pytest.param("", None, "empty", id="empty"),
            pytest.param("client.pem", 0, "scheme", id="a path"),
            pytest.param("/etc/client.pem", 0, "scheme", id="an absolute path"),
            pytest.param(":client.pem", 0, "scheme", id="nothing before the colon"),
            pytest.param("1file:x", 0, "scheme", id="scheme begins with a digit"),
            pytest.param("fi le:x", 0, "scheme", id="space in the scheme"),
            pytest.param("C:\\keys\\client.pem", 0, "Windows", id="a Windows path"),
            pytest.param("c:/keys/client.pem", 0, "Windows", id="a Windows path with slashes"),
            pytest.param("file:" + "x" * 4096, None, "4101 characters", id="too long"),
            pytest.param("file:my key.pem", 7, "Write %20", id="space"),
            pytest.param("file:schlüssel.pem", 9, "Write %C3%BC", id="not ASCII"),
            pytest.param("file:a\x7f", 6, "Write %7F", id="control character"),
            pytest.param("file:a\n", 6, "Write %0A", id="newline"),
            pytest.param("file:a\ud800", 6, "percent-encoded", id="half a surrogate pair"),
            pytest.param("pkcs11:token=a|b", 14, "Write %7C", id="forbidden delimiter"),
            pytest.param("file:a#b", 6, "fragment", id="fragment"),
            pytest.param("file:a?", 6, "question mark", id="nothing after the question mark"),
            pytest.param("file:", 5, "names no key", id="no path"),
            pytest.param("file:?passphrase-source=env:X", 5, "names no key", id="only a query"),
            pytest.param("awskms://", 9, "names no key", id="only slashes"),
            pytest.param("file://host/key.pem", 7, "no other machine", id="another machine"),
            pytest.param("file:a%", 6, "hexadecimal", id="percent at the end"),
            pytest.param("file:a%4", 6, "hexadecimal", id="one digit"),
            pytest.param("file:a%zz", 6, "hexadecimal", id="no digits"),
            pytest.param("file:///a%zz", 9, "hexadecimal", id="after an empty host"),
            pytest.param("file://localhost/a%zz", 18, "hexadecimal", id="after a host"),
            pytest.param("awskms:///a%zz", 11, "hexadecimal", id="after an empty authority"),
            pytest.param("gcpkms://a%zz", 10, "hexadecimal", id="in the authority"),
            pytest.param("file:%ff", 5, "UTF-8", id="path is not UTF-8"),
            pytest.param("file:a%00b", 5, "null", id="null character"),
            pytest.param("awskms:///x?region=%ff", 19, "UTF-8", id="query is not UTF-8"),
            pytest.param("awskms:///x?region=a&%zz=b", 21, "valid name", id="encoded name"),
            pytest.param("awskms:///x?a=1&region", 16, "name=value", id="name without value"),
            pytest.param("awskms:///x?a=1&=b", 16, "valid name", id="value without name"),
            pytest.param("awskms:///x?a=1&&b=2", 16, "shell", id="two separators"),
            pytest.param("awskms:///x?a=1&a=2", 16, "given twice", id="repeated"),
            pytest.param("pkcs11:token=a;", 15, "shell", id="separator at the end"),
            pytest.param("pkcs11:token", 7, "name=value", id="attribute without value"),
            pytest.param("pkcs11:token=a;token=b", 15, "token is given twice", id="two tokens"),
            pytest.param("pkcs11:tokn=a", 7, "Did you mean 'token'", id="misspelt"),
            pytest.param("pkcs11:token=%ff", 7, "token is not UTF-8", id="token is not UTF-8"),
            pytest.param("pkcs11:token=a;id=", 15, "id is empty", id="empty id"),
            pytest.param("pkcs11:type=public", 7, "Only private keys", id="public key"),
            pytest.param("pkcs11:slot-id=one", 7, "not a number", id="slot is a word"),
            pytest.param("pkcs11:slot-id=%D9%A1", 7, "not a number", id="slot in Arabic digits"),
            pytest.param("pkcs11:slot-id=-1", 7, "not a number", id="negative slot"),
            pytest.param("awskms://user@host/x", 7, "user information", id="user information"),
            pytest.param("pkcs11:token=a?pin-value=1", 15, "put a secret", id="pin-value"),
            pytest.param("pkcs11:pin-value=1;token=a", 7, "put a secret", id="pin in the path"),
            pytest.param("pkcs11:token=a?pin%2Dvalue=1", 15, "put a secret", id="pin encoded"),
        ],
    )
    def test_position(self, text: str, position: int | None, says: str) -> None:
        """The error says what is wrong, and where."""
        error = fault(text)
        assert (position, True) == (error.position, says in str(error)), str(error)

    @given(st.text(max_size=80))
    @example("file:\udcff")
    @example("pkcs11:id=%")
    @example("c:\\")
    def test_nothing_else_is_raised(self, text: str) -> None:
        """Any text is understood or refused with a KeyURIError."""
        try:
            uri = parse(text)
        except KeyURIError as error:
            position = error.position or 0
        else:
            assert uri == parse(text)
            position = 0
        assert 0 <= position <= len(text)

    @given(
        st.sampled_from(["pkcs11:", "file:", "awskms:///", "gcpkms://"]),
        st.text(st.sampled_from("%;&?=:/@#|~ " + string.hexdigits + "pin-value"), max_size=40),
    )
    def test_nothing_else_is_raised_by_near_misses(self, scheme: str, rest: str) -> None:
        """The same with texts made of what has a meaning."""
        try:
            uri = parse(scheme + rest)
        except KeyURIError as error:
            position = error.position or 0
        else:
            assert redact(scheme + rest) == str(uri)
            position = 0
        assert 0 <= position <= len(scheme + rest)


def everything_shown(text: str) -> str:
    """All that people could see of a URI: its redaction, and either its text or its error."""
    shown = [redact(text)]
    try:
        uri = parse(text)
    except KeyURIError as error:
        shown += [str(error), repr(error), str(error.to_dict()), *traceback.format_exception(error)]
    else:
        shown += [str(uri), repr(uri), f"{uri}"]
    return "\n".join(shown)


class TestSecrets:
    """No secret is repeated."""

    @pytest.mark.parametrize("name", SECRET_NAMES)
    @pytest.mark.parametrize(
        "template",
        [
            pytest.param("pkcs11:token=a?{}={}", id="query"),
            pytest.param("pkcs11:token=a?x=b&{}={}&y=c", id="between"),
            pytest.param("pkcs11:{}={};token=a", id="path"),
            pytest.param("awskms:///alias/x?{}={}", id="cloud"),
            pytest.param("file:k.pem?{}={}", id="file"),
            pytest.param("file:my key.pem?{}={}", id="behind another fault"),
        ],
    )
    def test_refused_without_an_echo(self, name: str, template: str) -> None:
        """Whatever the secret's name, the remedy is told and the value is not."""
        text = template.format(name, SECRET)
        error = fault(text)
        assert "key-uri-secret" == error.code
        assert name == text[error.position or 0 :][: len(name)]
        assert "pin-source=file:" in (error.hint or "")
        assert SECRET not in everything_shown(text)

    @given(
        st.sampled_from(SECRET_NAMES),
        st.text(min_size=1, max_size=12),
        st.sampled_from(["pkcs11:token=a?{}={}", "pkcs11:{}={};token=a", "file:k?a=b&{}={}"]),
    )
    def test_any_secret(self, name: str, filler: str, template: str) -> None:
        """Any characters in the secret, separators too: no part of it is shown."""
        secret = f"{filler}{SECRET}{filler}"
        shown = everything_shown(template.format(name, secret))
        assert (False, False) == (SECRET in shown, f"{filler}{SECRET}" in shown)

    @given(st.text(string.ascii_letters + string.digits + ";&?:/=@%", max_size=10))
    def test_secret_where_a_reference_is_due(self, filler: str) -> None:
        """A PIN written straight into pin-source is hidden as well."""
        secret = SECRET + filler
        assert SECRET not in everything_shown(f"pkcs11:token=a?pin-source={secret}")
        assert SECRET not in everything_shown(f"file:k?passphrase-source={secret}")

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(f"awskms://user:{SECRET}@host/key", id="password"),
            pytest.param(f"awskms://user:a@{SECRET}@host/key", id="password with an at sign"),
            pytest.param(f"file://{SECRET}@host/key", id="user"),
            pytest.param(f"pin-value={SECRET}", id="no scheme"),
            pytest.param(f"pkcs11:pin%2Dvalue={SECRET}", id="encoded name"),
            pytest.param(f"-----BEGIN PRIVATE KEY-----\n{SECRET}", id="a PEM document"),
            pytest.param(f"file:-----BEGIN PRIVATE KEY-----\n{SECRET}", id="PEM behind a scheme"),
        ],
    )
    def test_other_places(self, text: str) -> None:
        """User information and whole keys are not repeated in an error either."""
        error = fault(text)
        assert SECRET not in str(error)
        assert SECRET not in "".join(traceback.format_exception(error))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param("pkcs11:token=a?pin-value=1&b=c", "pkcs11:token=a?pin-value=***", id="q"),
            pytest.param("pkcs11:pin-value=a;b&c?d", "pkcs11:pin-value=***", id="to the end"),
            pytest.param("x:?pin%2Dvalue=a", "x:?pin%2Dvalue=***", id="encoded name"),
            pytest.param("x://u:p@h/k?a=b", "x://***@h/k?a=b", id="user information"),
            pytest.param("file:///a/b@c.pem", "file:///a/b@c.pem", id="at sign in a path"),
            pytest.param(
                "pkcs11:token=a?pin-source=file:/run/pin&rw=true",
                "pkcs11:token=a?pin-source=file:/run/pin&rw=true",
                id="a reference is shown",
            ),
            pytest.param(
                "file:k?passphrase-source=env%3AP",
                "file:k?passphrase-source=env%3AP",
                id="an encoded reference",
            ),
            pytest.param("pkcs11:spin=1;pinned=2", "pkcs11:spin=1;pinned=2", id="similar names"),
            pytest.param("nonsense", "nonsense", id="nothing to hide"),
        ],
    )
    def test_redact(self, text: str, expected: str) -> None:
        """Only what may be a secret is hidden."""
        assert expected == redact(text)

    @given(st.text(max_size=60))
    def test_redact_is_idempotent(self, text: str) -> None:
        """A redacted text holds nothing more to hide."""
        assert redact(text) == redact(redact(text))


def test_values_compare_by_content() -> None:
    """Equal texts give equal URIs."""
    uri = parse("pkcs11:token=a;object=b?rw=true")
    assert isinstance(uri, KeyURI)
    assert uri == parse("pkcs11:token=a;object=b?rw=true")
    assert uri != parse("pkcs11:token=a;object=c?rw=true")
