"""What a `pkcs11:` URI and `[backends.pkcs11]` say together; the URI wins.

| URI            | `[backends.pkcs11]` | means                                                  |
|----------------|---------------------|--------------------------------------------------------|
| `module-path`  | `module`            | absolute path of the PKCS#11 module                    |
| `pin-source`   | `pin_source`        | reference to the PIN, or an absolute path (RFC 7512)   |
| `max-sessions` | `max_sessions`      | sessions at most, besides the one that is logged in: 8 |
| `rw`           | `rw`                | `true`: read-write sessions                            |
| `user-type`    | `user_type`         | `user`, `so`, or a vendor's number                     |
|                | `init_args`         | what C_Initialize passes in pReserved (NSS)            |
|                | `after_fork`        | `reset`, or `refuse`: a forked child leaves it alone   |
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from keystay.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystay.key_uri import KeyURI

__all__ = ["DEFAULT_MAX_SESSIONS", "Settings"]

AfterFork = Literal["reset", "refuse"]

DEFAULT_MAX_SESSIONS = 8
_MOST_SESSIONS = 1024
_USER, _SECURITY_OFFICER, _CONTEXT_SPECIFIC = 1, 0, 2
_USER_TYPES = {"user": _USER, "so": _SECURITY_OFFICER}
_QUERY = ("module-path", "module-name", "pin-source", "max-sessions", "rw", "user-type")
_KNOWN = ("module", "pin_source", "max_sessions", "rw", "user_type", "init_args", "after_fork")
_TABLE = "[backends.pkcs11]"
_MODULE_HINT = (
    "`p11-kit list-modules` shows what is installed; SoftHSM is usually "
    "/usr/lib/softhsm/libsofthsm2.so."
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the token.

    Attributes:
        module: Absolute path as given.
        pin_source: Secret reference, or None.
        max_sessions: Sessions that sign at most.
        rw: Whether sessions are read-write.
        user_type: CKU number.
        init_args: For pReserved of C_Initialize, or None.
        after_fork: What a forked child does: finalise and initialise the module, or leave it to
            the parent.
    """

    module: str
    pin_source: str | None = None
    max_sessions: int = DEFAULT_MAX_SESSIONS
    rw: bool = False
    user_type: int = _USER
    init_args: str | None = None
    after_fork: AfterFork = "reset"

    @classmethod
    def read(cls, uri: KeyURI, table: Mapping[str, object]) -> Settings:
        """Read both.

        Raises:
            KeyURIError: The URI holds something unknown or unusable.
            ConfigurationError: The table does, or no module is named.
        """
        uri.require_known(attributes=tuple(uri.attributes), query=_QUERY)
        for name in table:
            if name not in _KNOWN:
                raise ConfigurationError(
                    f"{_TABLE} has no setting called {name!r}.", hint=did_you_mean(name, _KNOWN)
                )
        read = _Reader(uri, table)
        return cls(
            module=read.module(),
            pin_source=read.pin_source(),
            max_sessions=read.max_sessions(),
            rw=read.rw(),
            user_type=read.user_type(),
            init_args=read.text("init_args"),
            after_fork=read.after_fork(),
        )


class _Reader:
    """Takes each value from the URI, else from the table, and faults the one it came from."""

    def __init__(self, uri: KeyURI, table: Mapping[str, object]) -> None:
        self._uri, self._table = uri, table

    def text(self, name: str) -> str | None:
        value = self._table.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise self._bad_setting(name, "text in quotes")
        return value

    def module(self) -> str:
        if "module-name" in self._uri.query:
            self._uri.fault(
                "module-name",
                "module-name would search for the module; keystay loads none that it is not given "
                "by path.",
                hint=f"Write module-path=/absolute/path.so. {_MODULE_HINT}",
            )
        given = self._uri.query.get("module-path")
        path = given if given is not None else self.text("module")
        if path is None:
            raise ConfigurationError(
                "No PKCS#11 module is named.",
                hint="Add ?module-path=/absolute/path.so to the key URI, or module = … to "
                f"{_TABLE}. {_MODULE_HINT}",
                code="module-missing",
            )
        problem = None
        # The path stays text: dlopen takes it as it is.
        if not os.path.isabs(path):  # noqa: PTH117
            problem = f"The PKCS#11 module {path!r} is not an absolute path."
        elif not os.path.exists(path):  # noqa: PTH110
            problem = f"There is no PKCS#11 module {path}."
        elif not os.path.isfile(path):  # noqa: PTH113
            problem = f"The PKCS#11 module {path} is not a file."
        if problem is not None:
            self._refuse("module-path", given, problem, f"{_TABLE} module", _MODULE_HINT)
        return path

    def pin_source(self) -> str | None:
        given = self._uri.query.get("pin-source")
        source = given if given is not None else self.text("pin_source")
        if source is not None and source.startswith("|"):
            self._refuse(
                "pin-source",
                given,
                "A PIN is not read from a command.",
                f"{_TABLE} pin_source",
                "Write pin-source=file:/run/secrets/pin, env:NAME or prompt:.",
            )
        # RFC 7512 §2.4: pin-source may be a bare absolute path.
        return f"file:{source}" if source and source.startswith("/") else source

    def max_sessions(self) -> int:
        given = self._uri.query.get("max-sessions")
        value: object = self._table.get("max_sessions", DEFAULT_MAX_SESSIONS)
        if given is not None:
            value = int(given) if given.isdecimal() and len(given) <= 4 else None
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_SESSIONS:
            return value
        expected = f"a number from 1 to {_MOST_SESSIONS}"
        if given is not None:
            self._uri.fault(
                "max-sessions", f"max-sessions is {given!r}.", hint=f"Write {expected}."
            )
        raise self._bad_setting("max_sessions", expected)

    def rw(self) -> bool:
        given = self._uri.flag("rw")
        value = self._table.get("rw", False) if given is None else given
        if not isinstance(value, bool):
            raise self._bad_setting("rw", "true or false")
        # The security officer cannot log in beside read-only sessions (PKCS #11 v3.1, 5.6.8).
        return value or self.user_type() == _SECURITY_OFFICER

    def user_type(self) -> int:
        given = self._uri.query.get("user-type")
        value = self._table.get("user_type", "user") if given is None else given
        if isinstance(value, str):
            try:
                value = _USER_TYPES[value] if value in _USER_TYPES else int(value, 0)
            except ValueError:
                value = None
        # Context-specific is no way to log in: keystay does that itself where a key demands it.
        if (
            isinstance(value, int)
            and not isinstance(value, bool)
            and 0 <= value < 1 << 32
            and value != _CONTEXT_SPECIFIC
        ):
            return value
        expected = '"user", "so", or a number that the vendor defines'
        if given is not None:
            self._uri.fault("user-type", f"user-type is {given!r}.", hint=f"Write {expected}.")
        raise self._bad_setting("user_type", expected)

    def after_fork(self) -> AfterFork:
        value = self._table.get("after_fork", "reset")
        if value == "reset" or value == "refuse":  # noqa: PLR1714 - narrows to the literals
            return value
        raise self._bad_setting("after_fork", '"reset" or "refuse"')

    def _refuse(
        self, name: str, given: str | None, problem: str, setting: str, hint: str
    ) -> NoReturn:
        if given is not None:
            self._uri.fault(name, problem, hint=hint)
        raise ConfigurationError(f"{problem.removesuffix('.')} ({setting}).", hint=hint)

    def _bad_setting(self, name: str, expected: str) -> ConfigurationError:
        return ConfigurationError(
            f"{_TABLE} {name} is not {expected}.", hint=f"Write {name} = {expected}."
        )
