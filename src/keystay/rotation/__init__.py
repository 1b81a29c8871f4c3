"""A key's life: which key is next, current, retiring or retired, and how one becomes the other."""

from keystay.rotation.client_keys import ClientKeys, published_keys
from keystay.rotation.publication import Publication, publication_flow
from keystay.rotation.rotation import Rotation
from keystay.rotation.state import RotationKey, RotationState

__all__ = [
    "ClientKeys",
    "Publication",
    "Rotation",
    "RotationKey",
    "RotationState",
    "publication_flow",
    "published_keys",
]
