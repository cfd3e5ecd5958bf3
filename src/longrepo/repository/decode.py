"""From git's bytes to text: file names and contents."""

from __future__ import annotations

import codecs
from contextlib import suppress

_CONTROL = bytes(sorted({*range(32), 127} - set(b"\t\n\r\f\v\x1b\b")))
_HIGH = bytes(range(128, 256))
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decode_path(raw: bytes) -> str:
    """A path as text. Each undecodable byte becomes U+FFFD and its two hex digits, so that two paths that differ in
    such a byte stay different, whatever other paths there are."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        escaped = raw.decode("utf-8", "surrogateescape")
        return "".join(f"\ufffd{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in escaped)


def decode_text(raw: bytes) -> str | None:
    """A file's text, or None for a binary one.

    UTF-8 (or UTF-16 that says so by its mark), else Latin-1 where few bytes are above ASCII and none is a control
    byte: then it is prose or code of a Western language, and any wrong guess touches only those letters.
    """
    for bom, encoding in _BOMS.items():
        if raw.startswith(bom):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                return None
    if b"\0" in raw:
        return None
    with suppress(UnicodeDecodeError):
        return raw.decode("utf-8")
    high = len(raw) - len(raw.translate(None, _HIGH))
    control = len(raw) - len(raw.translate(None, _CONTROL))
    return raw.decode("latin-1") if not control and high <= 0.3 * len(raw) else None
