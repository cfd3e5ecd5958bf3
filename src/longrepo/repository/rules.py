"""Which files of a repository are left out, and by which rule.

In order: the folder asked for, `data.exclude`, `data.include`, the repository's `.git/info/attributes` and
`.gitattributes` (those of Linguist), and last the names that usually mean somebody else's or generated files.
Attributes are looked up by git itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from longrepo.errors import InputError
from longrepo.repository.encodings import NOTEBOOK_SUFFIX
from longrepo.repository.filters import VendorFolders, context_noise, path_noise
from longrepo.repository.git import ObjectReader
from longrepo.repository.languages import language_of, named_language

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


_ATTRIBUTES = (
    "linguist-vendored",
    "linguist-generated",
    "gitlab-generated",
    "linguist-documentation",
    "linguist-language",
    "working-tree-encoding",
    "encoding",
)
_ATTRIBUTES_FILE = ".gitattributes"
NOTEBOOK = "notebook"  # the form of a file that isn't read by its encoding
CHOICES = ("outside --path", "excluded")  # reasons that a person chose
_YES, _NO = ("set", "true"), ("unset", "false")  # as `git check-attr` prints them


@dataclass(frozen=True)
class FileSelection:
    """What a person chose: gitignore patterns of files to use or to leave out, and the only folder ("": all)."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    folder: str = ""

    def __str__(self) -> str:
        """The settings that leave files out, as a message names them."""
        named = [f"--path {self.folder}"] if self.folder else []
        return ", ".join([*named, *(["data.exclude"] if self.exclude else [])])


class PathRule(NamedTuple):
    """What the rules say about a path: `reason`, "" if it is read, and the `rule` behind it; `own`: somebody said that
    it is the repository's own, so its text isn't judged; `language` and `encoding`, if somebody named them."""

    reason: str = ""
    rule: str = ""
    own: bool = False
    language: str = ""
    encoding: str = ""


class PathRules:
    """The rules of a repository at a commit, for paths of that commit and of its history."""

    def __init__(
        self,
        reader: ObjectReader,
        files: Iterable[tuple[str, str, str]] = (),
        selection: FileSelection | None = None,
    ) -> None:
        """`files`: (mode, blob, path) of the commit. Raises InputError for a pattern that isn't one, or for a folder
        that isn't there."""
        self._reader = reader
        self.selection = selection or FileSelection()
        self._include = _patterns(self.selection.include, "data.include")
        self._exclude = _patterns(self.selection.exclude, "data.exclude")
        self._folder = f"{self.selection.folder}/" if self.selection.folder else ""
        regular = [(blob, path) for mode, blob, path in files if mode.startswith("100")]
        self._paths = [path for _, path in regular]
        if self._folder and not any(path.startswith(self._folder) for path in self._paths):
            where = f"--path {self.selection.folder}"
            raise InputError(f"{where}: no such folder with files in it; give its path from the repository's top")
        self._attribute_files = [one for one in regular if one[1].rpartition("/")[2] == _ATTRIBUTES_FILE]
        self._vendor_folders = VendorFolders(self._paths)
        self._attributes: dict[str, dict[str, str]] = {}
        self._rules: dict[str, PathRule] = {}

    def load(self, paths: Iterable[str]) -> None:
        """Look up the attributes of many paths at once: one by one each costs a process."""
        if self._attribute_files or self._reader.has_local_attributes:
            new = [path for path in dict.fromkeys(paths) if path not in self._attributes]
            self._attributes.update(self._reader.attributes(self._attribute_files, new, _ATTRIBUTES) if new else ())

    def of(self, path: str) -> PathRule:
        """Return what the rules say about a path."""
        if path not in self._rules:
            self.load([path])
            self._rules[path] = self._judge(path, self._attributes.get(path, {}))
        return self._rules[path]

    def language_of(self, path: str, text: str = "", content_language: str = "") -> str:
        """Return the language of a file: as somebody named it, as its content names it, or by its name and text."""
        return self.of(path).language or content_language or language_of(path, text)

    def form_of(self, path: str) -> str:
        """Return how a file's bytes are read: "notebook", the encoding that somebody named, or ""."""
        return NOTEBOOK if path.endswith(NOTEBOOK_SUFFIX) else self.of(path).encoding

    def unused_patterns(self) -> list[str]:
        """Return the patterns that match no file of the commit, each with its setting."""
        return [
            f"{setting}: {pattern}"
            for setting, patterns in (
                ("data.include", self.selection.include),
                ("data.exclude", self.selection.exclude),
            )
            for pattern in patterns
            if not pattern.startswith("!") and not any(_patterns([pattern], setting).match_files(self._paths))
        ]

    def _judge(self, path: str, attributes: dict[str, str]) -> PathRule:
        language, encoding = _attribute_language(attributes), _attribute_encoding(attributes)
        if self._folder and not path.startswith(self._folder):
            return PathRule(CHOICES[0], f"--path {self.selection.folder}")
        excluded = self._exclude.check_file(path)
        if excluded.include and excluded.index is not None:
            return PathRule(CHOICES[1], f"data.exclude: {self.selection.exclude[excluded.index]}")
        if self._include.check_file(path).include:
            return PathRule("", "data.include", True, language, encoding)
        vendored = attributes.get("linguist-vendored", "")
        generated = next(
            (value for name in ("linguist-generated", "gitlab-generated") if (value := attributes.get(name))), ""
        )
        for reason, value in (("vendored", vendored), ("generated", generated)):
            if value in _YES:
                return PathRule(reason, f"{_ATTRIBUTES_FILE}: linguist-{reason}", False, language)
        own = generated in _NO
        if found := path_noise(path, self._vendor_folders):
            reason, rule = found
            if (vendored if reason == "vendored" else generated) not in _NO:
                return PathRule(reason, rule, own, language)
        return PathRule("", "", own, language, encoding)


def context_paths(paths: Iterable[str]) -> frozenset[str]:
    """Return the paths of files that may be shown as context of others: not licences, changelogs, fixtures and the like
    (`context_noise`). All of them if nothing else is left."""
    every = frozenset(paths)
    return frozenset(path for path in every if context_noise(path) is None) or every


def _patterns(patterns: Sequence[str], setting: str) -> GitIgnoreSpec:
    """Return the patterns, ready to match. Raises InputError if one isn't a gitignore pattern."""
    from pathspec import GitIgnoreSpec

    for pattern in patterns:
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            raise InputError(f"{setting}: {error}; write it as in a .gitignore file, such as docs/ or *.sql") from None
    return GitIgnoreSpec.from_lines(patterns)


def _attribute_encoding(attributes: dict[str, str]) -> str:
    """Return the encoding of the working tree, which git stores as UTF-8 if it knows it, or else git gui's."""
    for name in ("working-tree-encoding", "encoding"):
        if (value := attributes.get(name, "")) not in ("", *_YES, *_NO):
            return value
    return ""


def _attribute_language(attributes: dict[str, str]) -> str:
    if attributes.get("linguist-documentation") in _YES:
        return "Text"
    value = attributes.get("linguist-language", "")
    return "" if value in ("", *_YES, *_NO) else named_language(value)
