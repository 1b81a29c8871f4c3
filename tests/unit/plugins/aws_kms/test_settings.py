"""What `awskms:` URIs and `[backends.awskms]` may say."""

from __future__ import annotations

import pytest

from keystay.errors import ConfigurationError, KeyURIError
from keystay.key_uri import parse
from keystay_aws_kms.settings import Settings, endpoint_problem, is_loopback
from keystay_aws_kms.uri import KeyReference

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MULTI = "mrk-1234abcd12ab34cd56ef1234567890ab"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{KEY_ID}"
ALIAS_ARN = "arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/epic/prod"


@pytest.mark.parametrize(
    ("path", "text", "region", "alias"),
    [
        ("alias/epic", "alias/epic", None, "alias/epic"),
        ("alias/alias/alias/x", "alias/alias/alias/x", None, "alias/alias/alias/x"),
        (KEY_ID, KEY_ID, None, None),
        (f"key/{KEY_ID}", KEY_ID, None, None),
        (MULTI, MULTI, None, None),
        (ARN, ARN, "eu-west-1", None),
        (ALIAS_ARN, ALIAS_ARN, "us-gov-west-1", "alias/epic/prod"),
    ],
)
def test_reference(path: str, text: str, region: str | None, alias: str | None) -> None:
    """An alias, a key id or an ARN."""
    found = KeyReference.of(parse(f"awskms:///{path}"))
    assert (text, region, alias) == (found.text, found.region, found.alias)


@pytest.mark.parametrize(
    "path",
    ["epic", "alias/", "alias/a%20b", "key/epic", KEY_ID[:-1], "arn:aws:kms:eu-west-1:1:key/x",
     f"arn:aws:s3:eu-west-1:111122223333:key/{KEY_ID}", f"{ARN}/more", f"{KEY_ID}%0a"],
)  # fmt: skip
def test_no_reference(path: str) -> None:
    """Anything else is refused with the forms."""
    with pytest.raises(KeyURIError, match="names no KMS key") as caught:
        KeyReference.of(parse(f"awskms:///{path}"))
    assert "awskms:///alias/NAME" in str(caught.value.hint)


def test_uri_wins() -> None:
    """The URI's values stand above the table's; an ARN's region above a default."""
    table = {"region": "us-east-1", "profile": "other", "endpoint": "https://kms.example.org"}
    uri = parse("awskms:///alias/x?region=eu-west-1&profile=p&endpoint=http://127.0.0.1:4570")
    assert Settings("eu-west-1", "p", "http://127.0.0.1:4570") == Settings.read(uri, table)
    uri = parse("awskms:///alias/x")
    expected = Settings("us-east-1", "other", "https://kms.example.org")
    assert expected == Settings.read(uri, table)
    assert "eu-west-1" == Settings.read(uri, table, "eu-west-1").region
    assert Settings() == Settings.read(uri, {})
    assert {"app": "epic"} == Settings.read(uri, {"tags": {"app": "epic"}}).tags


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("regoin=eu-west-1", "'region'"),
        ("region=Ireland", "region=eu-west-1"),
        ("region=us-east-1", "Leave region out"),
        ("endpoint=http://kms.example.org", "emulators on this machine only"),
        ("endpoint=ftp://kms.example.org", "not an absolute URL"),
        ("endpoint=https://a:b@kms.example.org", "user information"),
        ("endpoint=https://kms.example.org/x", "a path"),
        ("endpoint=https://kms.example.org:99999", "not a URL"),
        ("aws-access=AKIA", "credentials"),
        ("sessiontoken=x", "credentials"),
    ],
)
def test_bad_query(query: str, said: str) -> None:
    """What a URI cannot say is refused where it stands, never repeating a credential."""
    with pytest.raises(KeyURIError) as caught:
        Settings.read(parse(f"awskms:///{ARN}?{query}"), {}, "eu-west-1")
    assert said in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"regoin": "x"}, "'region'"),
        ({"region": 7}, "region: it is 7; expected text"),
        ({"region": "Ireland"}, "no AWS region"),
        ({"profile": ""}, "profile is empty"),
        ({"endpoint": "http://kms.example.org"}, "plain HTTP to another machine"),
        ({"tags": {"a": 1}}, "tags"),
        ({"tags": "a=b"}, "tags"),
        ({"aws_secret_access_key": "hunter2"}, "credentials"),
    ],
)
def test_bad_table(table: dict[str, object], said: str) -> None:
    """The same for the table."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.read(parse("awskms:///alias/x"), table)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_loopback() -> None:
    """Plain HTTP is for this machine."""
    for url in ("http://localhost:1", "http://127.9.9.9", "http://[::1]:4570"):
        assert is_loopback(url)
        assert endpoint_problem(url) is None
    for url in ("http://10.0.0.1", "http://localhost.example.org"):
        assert not is_loopback(url)
        assert endpoint_problem(url) is not None
    assert endpoint_problem("https://vpce-1.kms.eu-west-1.vpce.amazonaws.com") is None
