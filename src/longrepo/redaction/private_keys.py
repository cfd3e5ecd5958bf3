"""Private keys in blocks: PEM, OpenSSH, PGP, PuTTY; over lines, in string literals, base64 of the whole block."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import zip_longest

from longrepo.redaction.scan import Scan
from longrepo.redaction.spans import KEY, Span

_BEGIN = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    r"|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"
)
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY|---- END SSH2")
_UNENDED = re.compile(r"\n(?![\s\"'+,#*|;]*(?:[A-Za-z0-9+/=]{16}|(?:Proc-Type|DEK-Info|Version|Comment):|\n))")
_REACH = 32_000  # characters that a block may have: the longest RSA key in use takes 13,000
_BODY = re.compile(r"[A-Za-z0-9+/]{40}|(?:[A-Za-z0-9+/]{16,}\W+){2}")
_HEADER = re.compile(r"[\W\d]*(?:Proc-Type|DEK-Info|Version|Comment|Hash|MessageID|Charset|Subject|x-[\w-]+):", re.I)
_RUN = re.compile(r"(\\+[nrt])|[A-Za-z0-9+/=]{4,}")
_JOINED = re.compile(r"<KEY>(?:(?:\\+[nr])+<KEY>)+")
_PUTTY = re.compile(r"Private-Lines: (\d{1,3})\r?\n((?:[ \t]*[A-Za-z0-9+/=]+[ \t]*\r?\n?){1,200})")
_ENCODED = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/]{40,}={0,2}")


def find(scan: Scan) -> Iterator[Span]:
    """Bodies of private keys. A line of one becomes a line with `<KEY>`; a whole key within one line one `<KEY>`."""
    text = scan.text
    if scan.has("private") and "PRIVATE KEY" in text:
        begins = list(_BEGIN.finditer(text))
        for begin, after in zip_longest(begins, begins[1:]):
            reach = min(begin.end() + _REACH, after.start() if after else len(text))
            end = _END.search(text, begin.end(), reach) or _UNENDED.search(text, begin.end(), reach)
            stop = end.start() if end else reach
            body = text[begin.end() : stop]
            if _BODY.search(body.replace("\\n", " ").replace("\\r", " ")):
                yield Span(begin.end(), stop, "private key", "\n".join(map(_line, body.split("\n"))))
    if scan.has("private-lines"):
        for match in _PUTTY.finditer(text):
            lines = match[2].split("\n")
            count = min(int(match[1]), len(lines))
            stop = match.start(2) + len("\n".join(lines[:count]))
            yield Span(match.start(2), stop, "private key", "\n".join([KEY] * count))
    if scan.has("ls0tls1crudjti"):
        for match in _ENCODED.finditer(text):
            if _decodes_to_private(match[0]):
                yield Span(match.start(), match.end(), "private key", KEY)


def _line(line: str) -> str:
    if _HEADER.match(line) or "<KEY>" in line:
        return line
    return _JOINED.sub(KEY, _RUN.sub(lambda run: run[1] or KEY, line))


def _decodes_to_private(encoded: str) -> bool:
    head = encoded[:80]
    try:
        return b"PRIVATE KEY" in base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return False
