"""Choices that look random and aren't: each is derived from the seed and from what it is about."""

from __future__ import annotations

import hashlib


def number(*about: object) -> int:
    """A number below 2**64, the same for the same arguments on every machine."""
    text = "\x1f".join(str(one) for one in about)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def share(*about: object) -> float:
    """A number in [0, 1), the same for the same arguments on every machine."""
    return number(*about) / 2**64
