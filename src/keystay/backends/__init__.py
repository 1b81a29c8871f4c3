"""The port between the core and the plugins that open keys.

Plugin authors import from here: everything else in keystay is the core's own.
"""

from keystay.backends.hookspecs import hookimpl
from keystay.backends.port import (
    API_VERSION,
    BackendContext,
    BackendKey,
    BackendSignature,
    GeneratesKeys,
    KeyDescription,
    KeyRecord,
    KeyStore,
    LeasesKey,
    ListsKeys,
    NamesSuccessors,
    ResumesKeys,
    SigningKey,
    SignRequest,
    TellsCustody,
)
from keystay.backends.secrets import Secret, SecretResolver
from keystay.concurrency.clock import Deadline

__all__ = [
    "API_VERSION",
    "BackendContext",
    "BackendKey",
    "BackendSignature",
    "Deadline",
    "GeneratesKeys",
    "KeyDescription",
    "KeyRecord",
    "KeyStore",
    "LeasesKey",
    "ListsKeys",
    "NamesSuccessors",
    "ResumesKeys",
    "Secret",
    "SecretResolver",
    "SignRequest",
    "SigningKey",
    "TellsCustody",
    "hookimpl",
]
