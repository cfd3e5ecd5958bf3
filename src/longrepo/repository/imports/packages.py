"""Names that files share without an import: those of one package, module or namespace, and who may use them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from longrepo.repository.imports.paths import PathNearness
from longrepo.repository.imports.statements import Import

_TEST_PATH = re.compile(
    r"(^|/)(tests?|__tests__|specs?|testing|testdata|testlib|fixtures|\w+Tests?|[a-z]+[._-]tests?)/"
    r"|(^|/)(tests?_[^/]*|conftest\.py)$|[._-](tests?|spec|unittests?)\.\w+$|[a-z0-9](Tests?|Spec|Suite|IT)\.\w+$"
)
_PLATFORM = re.compile(r"(?:^|/)src/([a-z]\w*?)(?:Main|Test)/")
_SOURCE_SET = re.compile(r"(^|.*?/)(?:src|Sources|Tests)/")


class SharedNames(NamedTuple):
    """A package as one file sees it. `named`: the names that the file may mean by it, in order; `declared`: name → the
    paths that declare it; `members` returns the package's files, an index by nearness; `sees`: whether the file may use
    what another declares."""

    named: Iterable[str]
    declared: Mapping[str, Sequence[str]]
    members: Callable[[], PathNearness]
    sees: Callable[[str], bool]


class PassedOn(NamedTuple):
    """A file whose names another hands on; `used`: one of them is used, or it can't be told."""

    path: str
    used: bool


@dataclass(frozen=True)
class HandedNames:
    """What a module hands on: imports by the names they have, and those it has everything of."""

    by_name: dict[str, list[Import]]
    whole: list[Import]

    def used(self, names: dict[str, None]) -> list[tuple[str, Import]]:
        """Return (name, import) for those of `names` that it hands on."""
        if len(names) < len(self.by_name):  # a hub hands on thousands, and thousands import it
            shared = [name for name in names if name in self.by_name]
        else:
            shared = [name for name in self.by_name if name in names]
        return [(name, one) for name in shared for one in self.by_name[name]]

    def passed_on(
        self,
        names: dict[str, None],
        resolve: Callable[[Import], Iterable[str]],
        defined: Callable[[str], Collection[str]],
    ) -> Iterator[PassedOn]:
        """Yield the files that it has `names` from, and those that it has everything of, used if one of `names` is
        `defined` there. `resolve`: the files that an import of the module means."""
        for _, one in self.used(names):
            yield from (PassedOn(found, True) for found in resolve(one))
        for one in self.whole:
            yield from (PassedOn(found, any(name in names for name in defined(found))) for found in resolve(one))


@lru_cache(maxsize=1 << 16)
def is_test_path(path: str) -> bool:
    """Return whether a path is that of a test, or of a file among tests."""
    return _TEST_PATH.search(path) is not None


def sees_across(path: str) -> Callable[[str], bool]:
    """Return whether a file may use another of its package: a test uses its module's tests and everything that is no
    test; anything else uses no tests. Kotlin's common code uses no platform's, the JVM's none of the others."""
    test, own, platform = is_test_path(path), module_folder(path), _platform(path)

    def sees(other: str) -> bool:
        if is_test_path(other) and not (test and module_folder(other) == own):
            return False
        of_other = _platform(other)
        either = of_other in ("", "common", platform) or not platform
        return either or (platform not in ("common", "jvm") and of_other != "jvm")

    return sees


@lru_cache(maxsize=1 << 14)
def _platform(path: str) -> str:
    """Return what a source set of Kotlin is compiled for: "common", "jvm" (Android too), another name, or ""."""
    match = _PLATFORM.search(path)
    found = match.group(1) if match else ""
    return "jvm" if found == "android" else found


def module_folder(path: str) -> str:
    """Return the folder that a build tool's module has: the one that holds `src`, or else the first folder."""
    match = _SOURCE_SET.match(path)
    return match.group(1).rstrip("/") if match else path.partition("/")[0] if "/" in path else ""


_NON_CODE = re.compile(  # an unclosed one runs to the end of the text: otherwise broken code takes quadratic time
    r"""//[^\n]*+|/\*(?:.*?\*/|.*+)|`[^`]*+`?|"(?:[^"\\\n]++|\\[^\n])*+"?|'(?:[^'\\\n]++|\\[^\n])*+'?""", re.DOTALL
)
_FREE_WORD = re.compile(r"(?<![\w.])[^\W\d]\w*")
_WORD = re.compile(r"[^\W\d]\w*")


@lru_cache(maxsize=64)
def words_in(text: str) -> dict[str, None]:
    """Return the words of a text in order, once each."""
    return dict.fromkeys(_WORD.findall(text))


def strip_non_code(text: str) -> str:
    """Return a text of a language with C's comments and quotes without them."""
    return _NON_CODE.sub('""', text)


def identifiers(code: str, members: bool) -> dict[str, None]:
    """Return the identifiers of code in order, once each; without `members`, only those that don't follow a dot."""
    return dict.fromkeys((_WORD if members else _FREE_WORD).findall(code))
