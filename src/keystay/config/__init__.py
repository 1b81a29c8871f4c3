"""keystay.toml and the environment: which clients there are, and how to reach their servers.

A fault is told with file, line where it can be found, key, and what was expected. No secret
stands in the file, only references.
"""

from keystay.config.client import ClientConfig
from keystay.config.config import Config
from keystay.config.loading import load_config, open_client_signer
from keystay.config.policy import PolicyConfig
from keystay.http.settings import HttpSettings

__all__ = [
    "ClientConfig",
    "Config",
    "HttpSettings",
    "PolicyConfig",
    "load_config",
    "open_client_signer",
]
