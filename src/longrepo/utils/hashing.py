"""Seeded hashes instead of RNG state; line hashes.

Choices that look random and aren't: each is derived from the seed and from what it is about.

When two lines count as the same: one rule for choosing the lines that are scored and for checking that none leaked.

A line is what stands between two "
". Lines are compared without their white space, so that a line that was only
indented anew or aligned is not news; what is left of a line like `}` or `else` in few characters stands in every file
and tells nothing.
"""

from __future__ import annotations

import hashlib

import xxhash


def seeded_int(*about: object) -> int:
    """A number below 2**64, the same for the same arguments on every machine."""
    text = "\x1f".join(str(one) for one in about)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def seeded_uniform(*about: object) -> float:
    """A number in [0, 1), the same for the same arguments on every machine."""
    return seeded_int(*about) / 2**64


MIN_CHARACTERS = 4  # a line with fewer, without its white space, never counts


def normalize_line(line: str) -> str:
    """A line without any white space."""
    return "".join(line.split())


def line_hash(line: str) -> int:
    """64 bits of a normalised line (xxHash3), 0 for one too short to count."""
    kept = normalize_line(line)
    if len(kept) < MIN_CHARACTERS:
        return 0
    return xxhash.xxh3_64_intdigest(kept.encode("utf-8", "surrogatepass")) or 1
