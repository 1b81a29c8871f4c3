"""Keys made in a token stay in it; those that are there are listed with URIs that open them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keystay
from keystay import key_uri
from keystay.backends import BackendContext, GeneratesKeys, KeyRecord, ListsKeys
from keystay.errors import ConfigurationError, KeystayError, KeyUnusableError, SignerClosedError
from keystay_pkcs11.store import Pkcs11Store

if TYPE_CHECKING:
    from tests.support.p11kit import P11KitServer
    from tests.support.p11shim import ShimmedToken
    from tests.support.softhsm import SoftHSM

TYPES = ["P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519"]
GOOD = {
    "sensitive": True, "extractable": False, "always_sensitive": True, "never_extractable": True,
    "local": True, "sign": True,
}  # fmt: skip


def store(uri: str) -> Pkcs11Store:
    """The store a URI means."""
    return Pkcs11Store.open(key_uri.parse(uri), BackendContext())


def generate(uri: str, key_type: str) -> KeyRecord:
    """Generate a key and close the store."""
    opened = store(uri)
    try:
        return opened.generate_key(key_type)
    finally:
        opened.close()


def test_capabilities(softhsm: SoftHSM) -> None:
    """It says what it can do."""
    opened = store(softhsm.key_uri("any"))

    assert isinstance(opened, GeneratesKeys)
    assert isinstance(opened, ListsKeys)
    opened.close()
    opened.close()
    with pytest.raises(SignerClosedError):
        opened.list_keys()


@pytest.mark.parametrize("key_type", TYPES)
def test_generate(softhsm: SoftHSM, key_type: str) -> None:
    """Each type: attributes as they must be, OpenSC agrees, and the record's URI opens it."""
    record = generate(softhsm.key_uri(f"made%20{key_type}"), key_type)

    assert (key_type, f"made {key_type}") == (record.key_type, record.label)
    assert GOOD.items() <= record.attributes.items()
    key_id = str(record.attributes["id"])
    assert 8 == len(bytes.fromhex(key_id))
    listing = softhsm.pkcs11_tool("--login", "--list-objects", "--id", key_id)
    assert "Usage:      sign\n" in listing
    assert "Usage:      verify\n" in listing
    assert "sensitive, always sensitive, never extractable, local" in listing
    with keystay.open_signer(record.uri) as signer:
        assert key_type == signer.key_type
        assert record.key_id == signer.key_id
        signer.sign(b"message")


def test_generate_remoted(p11kit: P11KitServer) -> None:
    """A key is made in a token in another process as well."""
    record = generate(p11kit.key_uri("made-remoted"), "P-384")

    with keystay.open_signer(record.uri) as signer:
        assert "other-process" == signer.custody.location
        signer.sign(b"message")


def test_generate_with_id(softhsm: SoftHSM) -> None:
    """The URI's id is used, and an id that is taken is refused like a label."""
    uri = f"{softhsm.uri};object=made-id;id=%c1%c2?{softhsm.query}"
    assert "c1c2" == generate(uri, "P-256").attributes["id"]

    with pytest.raises(KeyUnusableError, match="id c1c2") as caught:
        generate(uri.replace("made-id", "made-id-2"), "P-256")
    assert "key-exists" == caught.value.code


def test_generate_never_replaces(softhsm: SoftHSM) -> None:
    """A label that is taken is refused, and the key stays."""
    uri = softhsm.key_uri("made-once")
    first = generate(uri, "P-256")
    with pytest.raises(KeyUnusableError, match="label 'made-once'"):
        generate(uri, "RSA-2048")

    opened = store(uri)
    try:
        assert [first] == opened.list_keys()
    finally:
        opened.close()


FAULTS = {
    "type": ("object=x", "P-348", "no key type 'P-348'", "P-384"),
    "label": ("id=%01", "P-384", "gives the new key no label", "object=LABEL"),
}


@pytest.mark.parametrize(("path", "key_type", "message", "hint"), FAULTS.values(), ids=FAULTS)
def test_generate_faults(
    softhsm: SoftHSM, path: str, key_type: str, message: str, hint: str
) -> None:
    """An unknown type and a URI without a label are refused."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        generate(f"{softhsm.uri};{path}?{softhsm.query}", key_type)

    assert hint in (caught.value.hint or "")


def test_generate_destroys_what_can_leave(shimmed: ShimmedToken) -> None:
    """A token that ignores CKA_EXTRACTABLE: its key is destroyed, and the error says so."""
    shimmed.run(
        """
        from keystay import key_uri
        from keystay.backends import BackendContext
        from keystay_pkcs11.store import Pkcs11Store
        store = Pkcs11Store.open(key_uri.parse(sys.argv[1]), BackendContext())
        shim.attribute(0x162, value=True)
        try:
            store.generate_key("P-256")
        except errors.KeyUnusableError as error:
            assert error.code == "key-attributes-ignored", error
            assert "extractable is True" in error.message and "destroyed" in error.message
        else:
            raise SystemExit("accepted")
        assert store.list_keys() == []
        store.close()
        """,
        shimmed.key_uri("leaky"),
    )
    assert "leaky" not in shimmed.token.pkcs11_tool("--login", "--list-objects")


def test_list(softhsm: SoftHSM) -> None:
    """Every key is listed, and its URI keeps the module and the PIN's reference."""
    generate(softhsm.key_uri("list%3Bodd%20%C3%A9%26"), "P-256")
    opened = store(f"{softhsm.uri}?{softhsm.query}")
    try:
        records = {record.label: record for record in opened.list_keys()}
    finally:
        opened.close()

    odd = records["list;odd é&"]
    assert "object=list%3Bodd%20%C3%A9%26;id=%" in odd.uri
    assert f"?module-path={softhsm.module}&pin-source=file:{softhsm.pin_file}" in odd.uri
    with keystay.open_signer(odd.uri) as signer:
        assert odd.key_id == signer.key_id


def test_list_nothing(softhsm: SoftHSM) -> None:
    """No match is an empty list, not an error."""
    opened = store(softhsm.key_uri("no-such-key"))
    try:
        assert [] == opened.list_keys()
    finally:
        opened.close()


def test_module_from_settings(softhsm: SoftHSM) -> None:
    """A module that the configuration names is part of the record's URI."""
    uri = key_uri.parse(f"{softhsm.uri};object=made-settings?pin-source={softhsm.pin_file}")
    opened = Pkcs11Store.open(uri, BackendContext({"module": softhsm.module}))
    try:
        record = opened.generate_key("P-256")
    finally:
        opened.close()

    assert f"module-path={softhsm.module}" in record.uri
    with keystay.open_signer(record.uri):
        pass


def test_pin_missing(softhsm: SoftHSM) -> None:
    """A store logs in when it is opened."""
    with pytest.raises(KeystayError, match="wants a PIN"):
        store(f"{softhsm.uri};object=x?module-path={softhsm.module}")
