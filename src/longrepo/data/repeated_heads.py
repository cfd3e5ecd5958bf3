"""Finds what is wrong with the lines that are repeated before a later piece of a file: brackets left alone, and imports
that nothing uses. Reads them as text, with no grammar."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"""\"(?:\\.|[^"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`[^`\n]*`""")
_LIFETIME = re.compile(r"(?<=[<&])'[a-z_]\w*(?:\s*[,:+]\s*'[a-z_]\w*)*\b(?!')")  # Rust's `'a` is no quote
_COMMENT = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)|(?:^|(?<=\s))#[^\n]*", re.DOTALL)
_PAIRS = {")": "(", "]": "[", "}": "{"}
_IMPORT = re.compile(
    r"(?:from\s+(?!__future__)[\w.]+\s+import\s+(?P<python>[^(#]+)|import\s+(?P<names>\{[^}]*\}|\w+)\s+from\b"
    r"|(?:import(?:\s+static)?|(?:pub\s+)?use)\s+(?P<last>[\w.:$]+(?:\s+as\s+\w+)?)\s*;?)\s*(?:$|[#/'\"])"
)


def stray_bracket(head: str, following: str) -> str:
    """Return the line of a bracket that a repeated head leaves alone; empty if there is none: one that nothing opens, a
    round or square one, if what follows closes another kind first, or one at the beginning of the text that follows, if
    no line of the head with its indentation opens one. Brackets in strings and comments don't count."""
    opened: list[tuple[str, str]] = []
    for line in _without_quotes(head).split("\n"):
        for one in line:
            if one in "([{":
                opened.append((one, line))
            elif one in _PAIRS:
                if not opened or opened[-1][0] != _PAIRS[one]:
                    return line.strip()
                opened.pop()
    first = next((line for line in following.split("\n") if line.strip()), "")
    if first.lstrip()[:1] in _PAIRS and indentation(first) not in {indentation(line) for _, line in opened}:
        return first.strip()
    last, line = next(((one, line) for one, line in reversed(opened)), ("{", ""))
    return line.strip() if last != "{" and _first_closed(following) not in ("", last) else ""


def _without_quotes(text: str) -> str:
    """Return code without its strings and comments."""
    return _COMMENT.sub("", _QUOTED.sub("", _LIFETIME.sub("", text)))


def _first_closed(text: str) -> str:
    """Return the kind of bracket that a text closes first without having opened it; empty if there is none."""
    depths = Counter[str]()
    for one in _without_quotes(text):
        if one in "([{":
            depths[one] += 1
        elif one in _PAIRS:
            depths[_PAIRS[one]] -= 1
            if depths[_PAIRS[one]] < 0:
                return _PAIRS[one]
    return ""


def unused_import(head: str, following: str) -> str:
    """Return the first import of a head none of whose names occurs in the text that follows; empty if there is none.
    Imports over several lines, and those that name no name, aren't judged."""
    used = set(_WORD.findall(following))
    for line in head.split("\n"):
        if (found := _IMPORT.match(line.strip())) and not used & set(_imported_names(found)):
            return line.strip()
    return ""


def _imported_names(found: re.Match[str]) -> Iterator[str]:
    """Yield the names that an import brings: the last of each part, as it is called here."""
    for part in re.split(r"[,{}]", found["python"] or found["names"] or found["last"]):
        words: list[str] = _WORD.findall(part)
        yield from words[-1:]
        if found["last"]:  # `import a.b` in Python is used as `a`
            yield from words[:1]


def indentation(line: str) -> int:
    """Return how many blanks and tabs a line begins with."""
    return len(line) - len(line.lstrip(" \t"))
