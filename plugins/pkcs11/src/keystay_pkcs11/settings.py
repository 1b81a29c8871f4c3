"""What a `pkcs11:` URI and `[backends.pkcs11]` say together; the URI wins.

In the URI: `module-path`, `pin-source`, `max-sessions`, `rw`, `user-type`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from keystay.errors import ConfigurationError, KeystayError
from keystay.settings import read_plugin_table, setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystay.key_uri import KeyURI

__all__ = ["Settings", "Table"]

AfterFork = Literal["reset", "refuse"]

_MOST_SESSIONS = 1024
_USER, _SECURITY_OFFICER, _CONTEXT_SPECIFIC = 1, 0, 2
_USER_TYPES = {"user": _USER, "so": _SECURITY_OFFICER}
_QUERY = ("module-path", "module-name", "pin-source", "max-sessions", "rw", "user-type")
_USERS = '"user", "so", or a number that the vendor defines'
_PIN_HINT = "Write pin-source=file:/run/secrets/pin, env:NAME, credential:NAME or prompt:."
_MODULE_HINT = (
    "`p11-kit list-modules` shows what is installed; SoftHSM is usually "
    "/usr/lib/softhsm/libsofthsm2.so."
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """`[backends.pkcs11]`."""

    module: Annotated[
        str | None,
        setting(
            "Absolute path of the PKCS#11 module.",
            example='"/usr/lib/softhsm/libsofthsm2.so"',
        ),
    ] = None
    pin_source: Annotated[
        str | None,
        setting(
            "Reference to the PIN, or an absolute path (RFC 7512 §2.4).",
            example='"file:/run/secrets/pin"',
            is_shown=False,
        ),
    ] = None
    max_sessions: Annotated[
        int,
        setting(
            "Sessions that sign at most, besides the one that is logged in.",
            ge=1,
            le=_MOST_SESSIONS,
        ),
    ] = 8
    rw: Annotated[bool, setting("Whether sessions are read-write.")] = False
    user_type: Annotated[
        str | int,
        setting("Who logs in: `user`, `so`, or the number of a vendor's user type."),
    ] = "user"
    init_args: Annotated[
        str | None,
        setting("What C_Initialize passes in pReserved (NSS).", example='"configdir=…"'),
    ] = None
    after_fork: Annotated[
        AfterFork,
        setting(
            "What a forked child does: `reset` finalises and initialises the module, `refuse` "
            "leaves it to the parent."
        ),
    ] = "reset"

    def faults(self) -> Iterator[tuple[str, KeystayError]]:
        """Each setting of the right type that still cannot be used."""
        if self.module is not None and (problem := _module_problem(self.module)):
            yield "module", ConfigurationError(problem, hint=_MODULE_HINT)
        if self.pin_source is not None and (problem := _pin_problem(self.pin_source)):
            yield "pin_source", ConfigurationError(problem, hint=_PIN_HINT)
        if _user_number(self.user_type) is None:
            yield "user_type", ConfigurationError("It is no user type.", hint=f"Write {_USERS}.")


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
    max_sessions: int = 8
    rw: bool = False
    user_type: int = _USER
    init_args: str | None = None
    after_fork: AfterFork = "reset"

    @classmethod
    def read(cls, uri: KeyURI, values: Mapping[str, object]) -> Settings:
        """Read both.

        Raises:
            KeyURIError: The URI holds something unknown or unusable.
            ConfigurationError: The table does, or no module is named.
        """
        uri.require_known(attributes=tuple(uri.attributes), query=_QUERY)
        query, fault = uri.query, uri.fault
        said = [name.replace("-", "_") for name in query]
        without = [*said, "module"] if "module-path" in query else said
        table = read_plugin_table(Table, values, "backends.pkcs11", without=without)
        if "module-name" in query:
            fault(
                "module-name",
                "module-name would search for the module; keystay loads none that it is not given "
                "by path.",
                hint=f"Write module-path=/absolute/path.so. {_MODULE_HINT}",
            )
        module = query.get("module-path", table.module)
        if module is None:
            raise ConfigurationError(
                "No PKCS#11 module is named.",
                hint="Add ?module-path=/absolute/path.so to the key URI, or module = … to "
                f"[backends.pkcs11]. {_MODULE_HINT}",
                code="module-missing",
            )
        if problem := _module_problem(module):
            fault("module-path", problem, hint=_MODULE_HINT)
        source = query.get("pin-source", table.pin_source)
        if source is not None and (problem := _pin_problem(source)):
            fault("pin-source", problem, hint=_PIN_HINT)
        most = query.get("max-sessions", str(table.max_sessions))
        if not (most.isdecimal() and len(most) <= 4 and 1 <= int(most) <= _MOST_SESSIONS):
            fault(
                "max-sessions",
                f"max-sessions is {most!r}.",
                hint=f"Write a number from 1 to {_MOST_SESSIONS}.",
            )
        user_type = _user_number(query.get("user-type", table.user_type))
        if user_type is None:
            fault("user-type", f"user-type is {query['user-type']!r}.", hint=f"Write {_USERS}.")
        rw = uri.flag("rw")
        return cls(
            module=module,
            pin_source=f"file:{source}" if source and source.startswith("/") else source,
            max_sessions=int(most),
            # The security officer cannot log in beside read-only sessions (PKCS #11 v3.1, 5.6.8).
            rw=(table.rw if rw is None else rw) or user_type == _SECURITY_OFFICER,
            user_type=user_type,
            init_args=table.init_args,
            after_fork=table.after_fork,
        )


def _module_problem(path: str) -> str | None:
    # The path stays text: dlopen takes it as it is.
    if not os.path.isabs(path):  # noqa: PTH117
        return f"The PKCS#11 module {path!r} is not an absolute path."
    if not os.path.exists(path):  # noqa: PTH110
        return f"There is no PKCS#11 module {path}."
    return None if os.path.isfile(path) else f"The PKCS#11 module {path} is not a file."  # noqa: PTH113


def _pin_problem(source: str) -> str | None:
    return "A PIN is not read from a command." if source.startswith("|") else None


def _user_number(value: str | int) -> int | None:
    """The CKU number; None for what is none.

    Context-specific is no way to log in: keystay does that itself where a key demands it.
    """
    try:
        number = _USER_TYPES[value] if value in _USER_TYPES else int(str(value), 0)
    except ValueError:
        return None
    return number if 0 <= number < 1 << 32 and number != _CONTEXT_SPECIFIC else None
