"""One table of settings: a msgspec Struct, from which everything else about them comes.

The names in TOML, in the environment and of keyword arguments, types, defaults, units, checks, the
message for a wrong value and the reference page: all are read off the Struct's fields.

    class AuditSettings(msgspec.Struct, frozen=True, kw_only=True):
        path: Annotated[str, setting("The file that lines are appended to.", example="audit.jsonl")]
        fsync: Annotated[bool, setting("Wait for the disk after each line.")] = False

A table that can check more than types has a method `faults`, which yields each key whose value
cannot be used, with the error that says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Literal, Protocol, TypeVar, Union, cast, get_args, get_origin

import msgspec

from keystay.errors import ConfigurationError, KeystayError, did_you_mean

__all__ = [
    "SECRET_SCHEMES",
    "Field",
    "Place",
    "SecretReference",
    "Values",
    "as_keyword",
    "check",
    "environment_name",
    "fields",
    "from_text",
    "make",
    "read_plugin_table",
    "read_table",
    "setting",
]

Place = Callable[[str | None], str]
"""Where a key, or with None its table, is written: `keystay.toml:12: [http] timeout:`."""

T = TypeVar("T", bound=msgspec.Struct)

SECRET_SCHEMES = ("file:", "env:", "credential:", "keyring:", "prompt:")
"""How a reference to a secret begins."""

_SECRET_NAME = re.compile(r"(?i)(?:^|_)(?:pin|password|passphrase|secret|private_key|token)$")
_LONGEST_SHOWN = 100
_NOT_SHOWN = "a value that is not repeated here"


def setting(
    meaning: str,
    *,
    example: str = "",
    unit: str = "",
    default: str = "",
    is_shown: bool = True,
    is_secret_reference: bool = False,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> msgspec.Meta:
    """What is said of a setting, to stand in its `Annotated` type.

    Args:
        meaning: For the reference and for `help()`.
        example: A value as TOML has it, for remedies.
        unit: Such as `seconds`.
        default: What holds without it, where the type's default does not say so.
        is_shown: Whether messages may repeat its value.
        is_secret_reference: Whether it refers to a secret.
        ge: The least number.
        gt: More than this number.
        le: The greatest number.
        lt: Less than this number.
    """
    if is_secret_reference and not example:
        example = '"file:/run/secrets/…"'
    extra = {
        "example": example, "unit": unit, "default": default,
        "is_shown": is_shown and not is_secret_reference,
        "is_secret_reference": is_secret_reference,
    }  # fmt: skip
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return cast("_MakeMeta", msgspec.Meta)(description=meaning, extra=extra, **bounds)


SecretReference = Annotated[str, setting("A secret reference.", is_secret_reference=True)]
"""A reference to a secret, never the secret itself; `keystay.backends.secrets` resolves it."""


@dataclass(frozen=True, slots=True)
class Field:
    """A setting, as its Struct describes it.

    Attributes:
        name: Its key.
        type: What msgspec converts to.
        default: Its default value; `msgspec.NODEFAULT` when it is required.
        meta: What `setting` said.
        expectation: What its value has to be, for messages.
    """

    name: str
    type: object
    default: object
    meta: msgspec.Meta
    expectation: str

    @property
    def extra(self) -> Mapping[str, object]:
        """What `setting` said beyond meaning and bounds."""
        return self.meta.extra or {}

    @property
    def is_table(self) -> bool:
        """Whether it is a table of settings itself."""
        return any(isinstance(k, type) and issubclass(k, msgspec.Struct) for k in _kinds(self.type))

    def shown(self, value: object) -> str:
        """A refused value, as messages may repeat it."""
        if isinstance(value, list | dict) and "a list" not in self.expectation:
            return "a list" if isinstance(value, list) else "a table"
        text = repr(value) if isinstance(value, str) else str(value)
        # What stands before an @ in a URL is a password, more often than not.
        if not self.extra.get("is_shown", True) or ("://" in text and "@" in text):
            return _NOT_SHOWN
        return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


@cache
def fields(table: type[msgspec.Struct]) -> dict[str, Field]:
    """The settings of a table, by key."""
    found = {}
    for info in msgspec.structs.fields(table):
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = cast("Callable[[], object]", info.default_factory)()
        meta = next(_metas(info.type), msgspec.Meta())
        unit = (meta.extra or {}).get("unit")
        expected = _expected(info.type) + (f", in {unit}" if unit else "")
        found[info.name] = Field(info.name, info.type, default, meta, expected)
    return found


def environment_name(table: str, key: str) -> str:
    """The variable for a setting: `KEYSTAY_HTTP_TIMEOUT`; `table` is "" for those of a client."""
    return "_".join(("KEYSTAY", *filter(None, (table.upper(), key.upper()))))


def from_text(field: Field, text: str) -> object:
    """The value that a variable's text means; the text itself if it means none of the type."""
    kinds = _kinds(field.type)
    if any(get_origin(kind) in _LISTS for kind in kinds):
        return [part for part in re.split(r"[\s,]+", text) if part]
    if str in kinds or not text:
        return text
    try:
        return msgspec.convert(text, cast("type[object]", field.type), strict=False)
    except msgspec.ValidationError:
        return text


def as_keyword(key: str | None) -> str:
    """The `Place` of keyword arguments."""
    return f"{key}:" if key else "keyword arguments:"


def read_table(table: type[T], values: Mapping[str, object], place: Place) -> T:
    """A table's values, checked.

    Args:
        table: The Struct.
        values: By key.
        place: Where each is written, for messages.

    Raises:
        ConfigurationError: A key is unknown or missing, or a value is not what it has to be.
    """
    known = fields(table)
    for key in values:
        if key not in known:
            raise _unknown(key, table, place)
    try:
        made = msgspec.convert(values, table)
    except msgspec.ValidationError:
        for name, field in known.items():
            _convert(field, values.get(name, field.default), place)
        raise  # not reached: a table is refused for one of its fields
    check(made, place)
    return made


class Values(dict[str, object]):
    """A plugin's table, as the configuration holds it until the plugin is used.

    Attributes:
        place: Where each key is written.
        variables: The keys whose values are texts of environment variables.
    """

    def __init__(
        self, values: Mapping[str, object], place: Place, variables: Iterable[str] = ()
    ) -> None:
        super().__init__(values)
        self.place, self.variables = place, frozenset(variables)


def read_plugin_table(
    table: type[T],
    values: Mapping[str, object],
    name: str,
    *,
    without: Collection[str] = (),
) -> T:
    """A plugin's table, checked.

    Args:
        table: The plugin's own Struct.
        values: What it is given as its settings.
        name: The table's, such as `backends.pkcs11`.
        without: Keys that the key URI says instead; they need not be of use.

    Raises:
        ConfigurationError: As `read_table`.
    """
    used = {key: value for key, value in values.items() if key not in without}
    if not isinstance(values, Values):
        return read_table(table, used, lambda key: f"[{name}]{f' {key}:' if key else ':'}")
    known = fields(table)
    meant = {
        key: from_text(known[key], str(value))
        if key in values.variables and key in known
        else value
        for key, value in used.items()
    }
    return read_table(table, meant, values.place)


def check(table: msgspec.Struct, place: Place) -> None:
    """Refuse what is of the right type in a table, and still cannot be used.

    Raises:
        ConfigurationError: With the place.
    """
    known = fields(type(table))
    for name, field in known.items():
        if field.extra.get("is_secret_reference"):
            _require_reference(name, getattr(table, name), place)
    for name, error in cast("_Checked", table).faults() if hasattr(table, "faults") else ():
        value = getattr(table, name)
        shown = known[name].shown(value)
        is_said = value in (None, "", ()) or shown == _NOT_SHOWN or str(value) in error.message
        said = "" if is_said else f" It is {shown}."
        raise ConfigurationError(
            f"{place(name)} {error.message}{said}",
            cause=error.cause,
            hint=error.hint,
            code=error.code,
        )


def make(table: type[T], values: Mapping[str, object]) -> T:
    """A table of values that are checked already."""
    return cast("Callable[..., T]", table)(**values)


class _Checked(Protocol):
    def faults(self) -> Iterator[tuple[str, KeystayError]]: ...


class _MakeMeta(Protocol):  # its own overloads know no bound that may be None
    def __call__(
        self, *, description: str, extra: Mapping[str, object], **bounds: float | None
    ) -> msgspec.Meta: ...


def _convert(field: Field, value: object, place: Place) -> None:
    if value is msgspec.NODEFAULT:
        raise ConfigurationError(
            f"{place(None)} the required key {field.name!r} is missing.",
            hint=f"Add {field.name} = {field.extra.get('example') or '…'}",
            code="config-key-missing",
        )
    try:
        msgspec.convert(value, cast("type[object]", field.type))
    except msgspec.ValidationError:
        where = place(field.name)
        variable = where.removesuffix(":") if where.startswith("KEYSTAY_") else None
        expected = "0 or 1" if variable and bool in _kinds(field.type) else field.expectation
        raise ConfigurationError(
            f"{where} it is {field.shown(value)}; expected {expected}.",
            hint=f"Set {variable} to {expected}." if variable else _remedy(field),
            code="config-value-invalid",
        ) from None


def _remedy(field: Field) -> str:
    example = field.extra.get("example") or json.dumps(field.default)
    return f"Write {field.name} = {example}."


def _unknown(key: str, table: type[msgspec.Struct], place: Place) -> ConfigurationError:
    known = tuple(fields(table))
    if renamed := cast("Mapping[str, str]", getattr(table, "RENAMED", {})).get(key):
        return ConfigurationError(
            f"{place(key)} this setting has another name now: {renamed}.",
            hint=f"Write {renamed} = instead.",
            code="config-key-renamed",
        )
    if _SECRET_NAME.search(key):
        return ConfigurationError(
            f"{place(key)} a secret does not belong into this file.",
            hint='Refer to it from the key URI: key = "pkcs11:token=prod;object=epic'
            '?pin-source=file:/run/secrets/pin", or passphrase-source=… for a PEM file.',
            code="config-secret",
        )
    return ConfigurationError(
        f"{place(key)} there is no such key.",
        hint=did_you_mean(key, known),
        code="config-key-unknown",
    )


def _require_reference(name: str, value: object, place: Place) -> None:
    if isinstance(value, str) and not value.startswith(SECRET_SCHEMES):
        raise ConfigurationError(
            f"{place(name)} it is no secret reference.",
            cause="The secret itself may have been written here.",
            hint=f'Refer to it: {name} = "file:/run/secrets/…", env:NAME, credential:NAME, '
            "keyring:SERVICE/USER or prompt:.",
            code="config-secret",
        )


# --- types ---------------------------------------------------------------------------------------

_LISTS = (list, tuple, Sequence)


def _metas(kind: object) -> Iterator[msgspec.Meta]:
    for part in getattr(kind, "__metadata__", ()):
        if isinstance(part, msgspec.Meta):
            yield part
    for part in get_args(kind):
        yield from _metas(part)


def _kinds(kind: object) -> tuple[object, ...]:
    """The alternatives of a type, without annotations and None."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _kinds(get_args(kind)[0])
    if origin in (Union, UnionType):
        return tuple(k for part in get_args(kind) for k in _kinds(part) if k is not NoneType)
    return (kind,)


def _expected(kind: object) -> str:
    return " or ".join(
        _described(part, next(_metas(kind), msgspec.Meta())) for part in _kinds(kind)
    )


def _described(kind: object, meta: msgspec.Meta) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _bounds(meta)
    if kind is date:
        return "a date such as 2026-01-31"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return "a table"
    return "text in quotes" if kind is str else 'a list such as ["…", "…"]'


def _bounds(meta: msgspec.Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge:g} to {meta.le:g}"
    least = f" of at least {meta.ge:g}" if meta.ge is not None else ""
    least = f" greater than {meta.gt:g}" if meta.gt is not None else least
    if (most := meta.lt if meta.lt is not None else meta.le) is None:
        return least
    most_said = f"less than {most:g}" if meta.lt is not None else f"at most {most:g}"
    return f"{least} and {most_said}" if least else f" of {most_said}"
