"""When two lines count as the same: one rule for choosing the lines that are scored and for checking that none leaked.

A line is what stands between two "\\n". Lines are compared without their white space, so that a line that was only
indented anew or aligned is not news; what is left of a line like `}` or `else` in few characters stands in every file
and tells nothing.
"""

from __future__ import annotations

import xxhash

LEAST_CHARACTERS = 4  # a line with fewer, without its white space, never counts


def normalise_line(line: str) -> str:
    """A line without any white space."""
    return "".join(line.split())


def line_hash(line: str) -> int:
    """64 bits of a normalised line (xxHash3), 0 for one too short to count."""
    kept = normalise_line(line)
    if len(kept) < LEAST_CHARACTERS:
        return 0
    return xxhash.xxh3_64_intdigest(kept.encode("utf-8", "surrogatepass")) or 1
