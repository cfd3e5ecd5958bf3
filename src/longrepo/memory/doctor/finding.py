"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`ok`, `note` (works, but costs something) or `problem` (the main job won't run); about what; what was found; and
    what to do about it."""

    status: Literal["ok", "note", "problem"]
    topic: str
    what: str
    remedy: str = ""
