"""Rotating a client's key: which step comes next, and carrying it out."""

from keystay.ops.rotation.rotation import Rotation

__all__ = ["Rotation"]
