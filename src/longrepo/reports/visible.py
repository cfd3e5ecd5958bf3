"""Repository text for a terminal: what could move the cursor, colour or reorder it is shown, not obeyed."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """Text in which control and format characters (but line breaks and tabs) are spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"‹{code:04X}›"
