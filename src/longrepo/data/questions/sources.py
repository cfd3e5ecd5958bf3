"""What questions are made from: outlined files, changes, and the words of files left out of training.

Also tests how a text uses a name at a position: whether it may define, call or import it. They all err on the side of
yes, so that a question is dropped if there is a doubt.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from longrepo.repository.imports.graph import ImportGraph
from longrepo.repository.languages import NON_CODE_LANGUAGES

if TYPE_CHECKING:
    from longrepo.repository.definitions import Call, Definition
    from longrepo.repository.outline import Outline


SCRIPT_LANGUAGES = ("JavaScript", "TypeScript")
# Languages whose answers an independent parser confirmed; for C++, Kotlin and C# one in fifty was wrong.
ASKED_LANGUAGES = frozenset((*SCRIPT_LANGUAGES, "Python", "Rust", "Go", "Java", "C", "PHP"))
FUNCTIONS = ("function", "method")
MAX_HOLDERS = 40  # files; a name that occurs in more is an everyday word
_MIN_NAME_LETTERS = 4  # shorter names are ambiguous
_WORD = re.compile(r"[A-Za-z_]\w{3,}", re.ASCII)
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w+", re.ASCII)
_TEST = re.compile(
    r"(^|/)(tests?|__tests__|specs?|testing|testdata|fixtures)/|(^|/)test_[^/]*$|[._-](test|tests|spec)\.\w+$"
    r"|(Test|Tests|IT)\.\w+$|(^|/)conftest\.py$"
)
_MAX_FILE_BYTES = 32_000_000  # left-out files larger than this aren't read


@dataclass(frozen=True)
class SourceFile:
    """A training file, redacted, with its outline. `hidden`: its path holds a name, so nothing is asked about it."""

    path: str
    text: str
    language: str
    outline: Outline
    hidden: bool = False


@dataclass(frozen=True)
class ChangedFile:
    """A file's change in a training commit (full id). `files` counts all files the commit changed."""

    commit: str
    path: str
    message: str
    files: int


@dataclass(frozen=True)
class ExcludedFiles:
    """The files of the commit that aren't sources: their paths, and every word of four letters or more in them."""

    paths: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SourceDefinition:
    """A definition in a source; `index` is its position in the outline's definitions."""

    source: SourceFile
    index: int

    @property
    def definition(self) -> Definition:
        """Return the definition from the source's outline."""
        return self.source.outline.definitions[self.index]


def is_test(path: str) -> bool:
    """Return whether a path is that of a test or of a file among tests."""
    return _TEST.search(path) is not None


def read_excluded_files(repository: Path, commit: str, known: Iterable[str]) -> ExcludedFiles:
    """Read the files of a commit whose paths aren't `known` (binary ones and those above 32 MB by path alone)."""
    from longrepo.repository.encodings import decode_text
    from longrepo.repository.git import object_reader
    from longrepo.repository.snapshot import tracked_entries

    used = frozenset(known)
    words: set[str] = set()
    with object_reader(repository, commit) as reader:
        rest = [one for one in tracked_entries(reader, commit) if one.path not in used]
        blobs = {one.blob for one in rest if one.size is not None and one.size <= _MAX_FILE_BYTES}
        with reader.batch() as batch:
            for blob in sorted(blobs):
                batch.ask([blob])
                content = batch.content(batch.header()[1])
                if (text := decode_text(content)) is not None:
                    words.update(_WORD.findall(text))
                elif b"\0" not in content[:8000]:  # in an unknown encoding: its ASCII words are known all the same
                    words.update(_WORD.findall(content.decode("ascii", "replace")))
    return ExcludedFiles(frozenset(one.path for one in rest), frozenset(words))


def read_subjects(repository: Path, commit: str) -> list[str]:
    """Return the first line of the message of each commit that a commit reaches."""
    from longrepo.repository.git import object_reader

    with object_reader(repository, commit) as reader:
        return reader.output("log", "--format=%s", commit, "--").decode("utf-8", "replace").splitlines()


class QuestionIndex:
    """The sources, indexed. `unique`: names defined once in the whole repository; `holders`: the sources that contain
    such a name, or a file's stem, as a word; `commits`: the changes of each commit; `sole_definitions`: cached results
    of `sole_definition`; `subjects`: the words of the first line of each message in the training history."""

    def __init__(
        self,
        sources: Iterable[SourceFile],
        graph: ImportGraph,
        changes: Iterable[ChangedFile],
        outside: ExcludedFiles,
        dropped: Counter[str],
        subjects: Iterable[str] = (),
    ) -> None:
        self.sources = {source.path: source for source in sorted(sources, key=lambda one: one.path)}
        self.graph = graph
        self.excluded = outside
        self._owners: dict[str, list[int | None]] = {}
        self.unique = self._defined_once(dropped)
        self.commits: defaultdict[str, list[ChangedFile]] = defaultdict(list)
        for change in changes:
            self.commits[change.commit].append(change)
        wanted = self.unique.keys() | self.stems.keys()
        self.holders: defaultdict[str, list[SourceFile]] = defaultdict(list)
        for source in self.sources.values():
            for word in wanted.intersection(_WORD.findall(source.text)):
                self.holders[word].append(source)
        self.sole_definitions: dict[str, SourceDefinition | str] = {}
        self.subjects = [set(_WORD.findall(subject)) for subject in subjects]

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """Map each file name without its suffix to the commit's paths that have it."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in (*self.sources, *sorted(self.excluded.paths)):
            found[PurePosixPath(path).name.partition(".")[0]].append(path)
        return dict(found)

    @cached_property
    def tests(self) -> frozenset[str]:
        """Return the paths of the sources that are tests."""
        return frozenset(filter(is_test, self.sources))

    @cached_property
    def calls(self) -> dict[str, list[tuple[SourceFile, Call]]]:
        """Return the calls of each unique name that occurs in 2 to `MAX_HOLDERS` files."""
        asked = {name for name in self.unique if 1 < len(self.holders[name]) <= MAX_HOLDERS}
        found: defaultdict[str, list[tuple[SourceFile, Call]]] = defaultdict(list)
        for source in self.sources.values():
            for call in source.outline.calls:
                if call.name in asked:
                    found[call.name].append((source, call))
        return dict(found)

    @cached_property
    def folders(self) -> frozenset[str]:
        """Return the names of all folders."""
        paths = (*self.sources, *self.excluded.paths)
        return frozenset(part for path in paths for part in PurePosixPath(path).parts[:-1])

    def owner(self, place: SourceDefinition) -> Definition | None:
        """Return the innermost definition around `place`, or None at the top level."""
        path = place.source.path
        if path not in self._owners:
            self._owners[path] = _owner_indices(place.source.outline.definitions)
        above = self._owners[path][place.index]
        return None if above is None else place.source.outline.definitions[above]

    def _defined_once(self, dropped: Counter[str]) -> dict[str, SourceDefinition]:
        places: defaultdict[str, list[SourceDefinition]] = defaultdict(list)
        for source in self.sources.values():
            for index, one in enumerate(source.outline.definitions):
                places[one.name].append(SourceDefinition(source, index))
        found: dict[str, SourceDefinition] = {}
        for name, all_of_it in places.items():
            meant = _without_constructors(all_of_it)
            if len(meant) != 1:
                dropped["name defined more than once"] += 1
            elif len(name) < _MIN_NAME_LETTERS or name.startswith("__") or not _PLAIN_NAME.fullmatch(name):
                dropped["name too short or reserved"] += 1
            elif meant[0].source.path in self.tests:
                dropped["a name of tests"] += 1
            elif (holder := self.owner(meant[0])) is not None and holder.kind in FUNCTIONS:
                dropped["a name nested in a function"] += 1
            elif name in self.excluded.words:
                dropped["name stands in a file that is left out"] += 1
            elif meant[0].source.language not in ASKED_LANGUAGES or meant[0].definition.kind == "module":
                dropped["definition of a sort that isn't asked about"] += 1
            else:
                found[name] = meant[0]
        return found


def _without_constructors(places: list[SourceDefinition]) -> list[SourceDefinition]:
    """Drop constructors, which have their class's name, and the inner node of C's `typedef struct x {…} x`."""
    outermost: list[SourceDefinition] = []
    for place in places:
        one, last = place.definition, outermost[-1] if outermost else None
        inside = last is not None and last.source is place.source and one.end <= last.definition.end
        language = place.source.language
        repeated = (language in ("Java", "C#", "C++") and one.kind == "method") or language in ("C", "C++")
        if not (inside and repeated):
            outermost.append(place)
    return outermost


def _owner_indices(definitions: tuple[Definition, ...]) -> list[int | None]:
    owners: list[int | None] = []
    stack: list[int] = []
    for index, one in enumerate(definitions):
        while stack and definitions[stack[-1]].end <= one.start:
            stack.pop()
        owners.append(stack[-1] if stack else None)
        stack.append(index)
    return owners


_KEYWORDS = (
    "def class func fn function fun struct enum union trait interface type typedef module namespace mod macro "
    "macro_rules! record object protocol define sub"
)
_BINDINGS = "const let var val static abstract public private protected readonly get set async"
_C_LANGUAGES = ("C", "C++")
_MEMBERS_BEGIN_LINES = (*SCRIPT_LANGUAGES, "Go")
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
_VALUE_LANGUAGES = ("Kotlin", "Swift", "Scala", "Rust", "Go")
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


def normalize_name(text: str) -> str:
    """Return lower-case letters and digits alone, to compare names written in different styles."""
    return "".join(c for c in text.lower() if c.isalnum())


def path_reveals(name: str, path: str) -> bool:
    """Return whether a path's last part contains `name` and so gives the answer away."""
    return normalize_name(name) in normalize_name(PurePosixPath(path).name.partition(".")[0])


def word_positions(word: str, text: str) -> Iterator[int]:
    """Yield the positions of a whole word in a text."""
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (at and _is_letter(text[at - 1])) and not (end < len(text) and _is_letter(text[end])):
            yield at
        at = text.find(word, end)


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def name_position(place: SourceDefinition) -> int:
    """Return the position of a definition's own name."""
    text, one = place.source.text, place.definition
    found = [one.start + at for at in word_positions(one.name, text[one.start : one.body])]
    sure = (at for at in found if may_define(place.source, one.name, at, one.kind) or is_call(text, at, one.name))
    return next(sure, found[0] if found else one.start)


def may_define(source: SourceFile, name: str, at: int, kind: str) -> bool:
    """Return whether the word at `at` may be another definition of that name."""
    text, end = source.text, at + len(name)
    before, after = text[text.rfind("\n", 0, at) + 1 : at], text[end : end + 80]
    language = source.language
    if language in _C_LANGUAGES and _TAG.search(before):
        return _HAS_BODY.match(after) is not None
    if language in _C_LANGUAGES and _C_HEAD.fullmatch(before) and _C_BODY.match(text, end):
        return True  # the grammar may have missed it between #if and #else
    if _DEFINES.search(before) or _declared_otherwise(language, before, after):
        return True
    if language in ("Python", *SCRIPT_LANGUAGES) and _RENAMES.search(before):
        return language == "Python" or before.lstrip().startswith(("import", "export", "}"))
    if language in SCRIPT_LANGUAGES and (_BINDS.search(before) or _KEY.match(after)):
        return True
    if language in SCRIPT_LANGUAGES and not before.strip() and _TYPED_MEMBER.match(after):
        return True
    if language in _MEMBERS_BEGIN_LINES and kind == "method" and not before.strip() and _CALLED.match(after):
        return True
    return _ASSIGNED.match(after) is not None and not _ANNOTATES.search(before)


def _declared_otherwise(language: str, before: str, after: str) -> bool:
    if language in _C_LANGUAGES:
        return before.lstrip().startswith("typedef") and _ENDS_TYPEDEF.match(after) is not None
    if language == "C#":
        return _DELEGATE.search(before) is not None
    if language in _VALUE_LANGUAGES:
        return _VALUE.search(before) is not None
    if language != "Python":
        return False
    if _FIELD.fullmatch(before) and _ANNOTATED.match(after):
        return True
    looped = _LOOPS.search(before) and _IN.match(after)
    return bool(looped or (_UNPACKS.fullmatch(before) and _UNPACKED.match(after)))


def is_call(text: str, at: int, name: str) -> bool:
    """Return whether an argument list follows the word at `at`."""
    return _CALLED.match(text, at + len(name)) is not None


def is_import(source: SourceFile, name: str, at: int) -> bool:
    """Return whether the word at `at` only imports the name."""
    if is_call(source.text, at, name):
        return False
    line = source.text[source.text.rfind("\n", 0, at) + 1 : at]
    if _IMPORTING.search(line):
        return True
    return bool(re.fullmatch(r"[\s(]*(?:\w+,\s*)*", line)) and any(name in one.names for one in source.outline.imports)


def mentions_in_import(source: SourceFile, stem: str) -> bool:
    """Return whether a source mentions a file's stem in an import."""
    return import_position(source, stem) is not None


def import_position(source: SourceFile, stem: str) -> int | None:
    """Return the character at which a source mentions a file's stem in an import; None if it doesn't."""
    text = source.text
    for one in source.outline.imports:
        if stem in one.names or stem in re.split(r"\W+", one.module):
            start = sum(len(row) + 1 for row in text.split("\n", one.line - 1)[: one.line - 1])
            return max(start, text.find(stem, start))
    for at in word_positions(stem, text) if source.language not in NON_CODE_LANGUAGES else ():
        if _IMPORTING.search(text[text.rfind("\n", 0, at) + 1 : text.find("\n", at)]):
            return at
    return None


def begins_statement(text: str, at: int) -> bool:
    """Return whether a statement begins at a position: nothing before it in its line, no macro (C) above it."""
    start = text.rfind("\n", 0, at) + 1
    if text[start:at].strip():
        return False
    while start:
        end, start = start - 1, text.rfind("\n", 0, start - 1) + 1
        line = text[start:end].strip()
        if line and not line.startswith("#"):
            return line.endswith(("}", ";", "{", "/", ":", ">", ")", "\\")) or "//" in line
    return True
