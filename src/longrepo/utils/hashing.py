"""Seeded choices, and the hash by which lines are compared.

A choice that looks random depends only on the seed and on its subject, so no generator's state is kept.

Lines are text between two line feeds and are compared without white space: one that was only indented or aligned again
isn't new. What is left of a line like `}` or `else` is too short to say anything, and doesn't count.
"""

from __future__ import annotations

import hashlib

import xxhash


def seeded_int(*about: object) -> int:
    """Return a number below 2**64, the same for the same arguments on every machine."""
    text = "\x1f".join(str(one) for one in about)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def seeded_uniform(*about: object) -> float:
    """Return a number in [0, 1), the same for the same arguments on every machine."""
    return seeded_int(*about) / 2**64


def name_hash(name: str) -> int:
    """Return the 32-bit hash by which names are compared."""
    return xxhash.xxh32_intdigest(name.encode("utf-8", "surrogatepass"))


MIN_CHARACTERS = 4  # shorter lines (without white space) never count


def normalize_line(line: str) -> str:
    """Return a line without its white space."""
    return "".join(line.split())


def line_hash(line: str) -> int:
    """Return the 64-bit xxHash3 of a normalized line, or 0 if it is too short to count."""
    normalized = normalize_line(line)
    if len(normalized) < MIN_CHARACTERS:
        return 0
    return xxhash.xxh3_64_intdigest(normalized.encode("utf-8", "surrogatepass")) or 1
