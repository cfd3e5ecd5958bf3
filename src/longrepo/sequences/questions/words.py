"""How a name is used where it stands: whether a place may define it again, call it, or import it. All of these err on
the side of yes, so that a question is dropped where the text leaves a doubt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from longrepo.sequences.questions.sources import NO_CODE, SCRIPTS, Place, Source

_KEYWORDS = (
    "def class func fn function fun struct enum union trait interface type typedef module namespace mod macro "
    "macro_rules! record object protocol define sub"
)
_BINDINGS = "const let var val static abstract public private protected readonly get set async"
_C = ("C", "C++")
_MEMBERS_BEGIN_LINES = (*SCRIPTS, "Go")
_DEFINES = re.compile(rf"(?:^|[^\w.])(?:{'|'.join(map(re.escape, _KEYWORDS.split()))})[ \t]*\*?[ \t]*$")
_BINDS = re.compile(rf"\b(?:{'|'.join(_BINDINGS.split())})[ \t]+[*#]?$")
_RENAMES = re.compile(r"\bas[ \t]+$")
_TAG = re.compile(r"\b(?:struct|enum|union|class)[ \t]+$")
_ASSIGNED = re.compile(r"[ \t]*(?::=|=(?![=>~]))")
_ANNOTATES = re.compile(r"(?::|->)[ \t]*$")
_KEY = re.compile(r"[ \t]*\??:(?!:)[ \t]*(?:async\b|function\b|\(|\w+[ \t]*=>)")
_HAS_BODY = re.compile(r"[ \t]*(?:final[ \t]*)?(?:\{|:[^:]|\n)")
_C_HEAD = re.compile(r"(?:[A-Za-z_][\w \t*&:<>,]*)?")
_C_BODY = re.compile(r"\s*\([^;{}]*\)\s*(?:const\s*)?\{")
_ENDS_TYPEDEF = re.compile(r"\s*\)?\s*[;(\[]")
_DELEGATE = re.compile(r"\bdelegate[ \t]+\S+[ \t]+$")
_VALUES = ("Kotlin", "Swift", "Scala", "Rust", "Go")
_VALUE = re.compile(r"\b(?:val|var|let|const)[ \t]+$")
_TYPED_MEMBER = re.compile(r"\??(?:<[^;{}()=]*>\s*\(|\s*\([^()]*\)\s*:)")
_FIELD = re.compile(r"[ \t]*(?:\w+\.)?")
_LOOPS = re.compile(r"\bfor[ \t][\w \t,(*]*$")
_IN = re.compile(r"[\w \t,)]*\bin\b")
_UNPACKS = re.compile(r"[ \t\w,.*(\[]*")
_UNPACKED = re.compile(r"[ \t\w,.*)\]]*=(?!=)")
_ANNOTATED = re.compile(r"[ \t]*:[ \t]*[\w\"'\[]")
_CALLED = re.compile(r"\s*(?:<[\w\s,<>]*>|::<[^()]*>|!)?\s*\(")
_IMPORTING = re.compile(r"\b(?:import|from|require|include|use|using|load|export|mod)\b")


def plain(text: str) -> str:
    """Small letters and digits alone, to compare names written in different styles."""
    return "".join(c for c in text.lower() if c.isalnum())


def given_away(name: str, path: str) -> bool:
    """Whether a path's last part answers a question that names `name`."""
    return plain(name) in plain(PurePosixPath(path).name.partition(".")[0])


def stands(word: str, text: str) -> Iterator[int]:
    """Where a word stands whole in a text."""
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (at and _is_letter(text[at - 1])) and not (end < len(text) and _is_letter(text[end])):
            yield at
        at = text.find(word, end)


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def name_at(place: Place) -> int:
    """Where a definition's own name stands."""
    text, one = place.source.text, place.definition
    found = [one.start + at for at in stands(one.name, text[one.start : one.body])]
    sure = (at for at in found if may_define(place.source, one.name, at, one.kind) or called_at(text, at, one.name))
    return next(sure, found[0] if found else one.start)


def may_define(source: Source, name: str, at: int, kind: str) -> bool:
    """Whether the word at `at` may be another definition of that name."""
    text, end = source.text, at + len(name)
    before, after = text[text.rfind("\n", 0, at) + 1 : at], text[end : end + 80]
    language = source.language
    if language in _C and _TAG.search(before):
        return _HAS_BODY.match(after) is not None
    if language in _C and _C_HEAD.fullmatch(before) and _C_BODY.match(text, end):
        return True  # where the grammar lost its way between #if and #else
    if _DEFINES.search(before) or _declared_otherwise(language, before, after):
        return True
    if language in ("Python", *SCRIPTS) and _RENAMES.search(before):
        return language == "Python" or before.lstrip().startswith(("import", "export", "}"))
    if language in SCRIPTS and (_BINDS.search(before) or _KEY.match(after)):
        return True
    if language in SCRIPTS and not before.strip() and _TYPED_MEMBER.match(after):
        return True
    if language in _MEMBERS_BEGIN_LINES and kind == "method" and not before.strip() and _CALLED.match(after):
        return True
    return _ASSIGNED.match(after) is not None and not _ANNOTATES.search(before)


def _declared_otherwise(language: str, before: str, after: str) -> bool:
    if language in _C:
        return before.lstrip().startswith("typedef") and _ENDS_TYPEDEF.match(after) is not None
    if language == "C#":
        return _DELEGATE.search(before) is not None
    if language in _VALUES:
        return _VALUE.search(before) is not None
    if language != "Python":
        return False
    if _FIELD.fullmatch(before) and _ANNOTATED.match(after):
        return True
    looped = _LOOPS.search(before) and _IN.match(after)
    return bool(looped or (_UNPACKS.fullmatch(before) and _UNPACKED.match(after)))


def called_at(text: str, at: int, name: str) -> bool:
    """Whether an argument list follows the word at `at`."""
    return _CALLED.match(text, at + len(name)) is not None


def imports_it(source: Source, name: str, at: int) -> bool:
    """Whether the word at `at` only imports the name."""
    if called_at(source.text, at, name):
        return False
    line = source.text[source.text.rfind("\n", 0, at) + 1 : at]
    if _IMPORTING.search(line):
        return True
    return bool(re.fullmatch(r"[\s(]*(?:\w+,\s*)*", line)) and any(name in one.names for one in source.outline.imports)


def may_import(source: Source, stem: str) -> bool:
    """Whether a source names a file's stem where it imports something."""
    for one in source.outline.imports:
        if stem in one.names or stem in re.split(r"\W+", one.module):
            return True
    text = source.text
    lines = (text[text.rfind("\n", 0, at) + 1 : text.find("\n", at)] for at in stands(stem, text))
    return source.language not in NO_CODE and any(_IMPORTING.search(line) for line in lines)


def begins_statement(text: str, at: int) -> bool:
    """Whether nothing of the same statement stands before a position: not in its line, nor (C) as a macro above it."""
    start = text.rfind("\n", 0, at) + 1
    if text[start:at].strip():
        return False
    while start:
        end, start = start - 1, text.rfind("\n", 0, start - 1) + 1
        line = text[start:end].strip()
        if line and not line.startswith("#"):
            return line.endswith(("}", ";", "{", "/", ":", ">", ")", "\\")) or "//" in line
    return True
