"""Questions about how two definitions meet: the only caller, the only subclass, the only test."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from longrepo.repository.syntax.outline import Call, Definition
from longrepo.sequences.questions.kind import Kind, Question
from longrepo.sequences.questions.names import FUNCTIONS, base_of, only
from longrepo.sequences.questions.sources import NO_CODE, Book, Place, Source
from longrepo.sequences.questions.words import (
    called_at,
    given_away,
    imports_it,
    name_at,
    stands,
)

_NESTED = re.compile(r"\bfunction\b|=>|->|\bfunc\s*\(|\blambda\b|\|\w*\||\bnew \w+(?:<[^>]*>)?\([^)]*\)\s*\{")
_IMPORTING_TESTS = ("Python", "JavaScript", "TypeScript")


def _called(book: Book) -> Iterator[str]:
    return (name for name in book.calls if book.unique[name].definition.kind in FUNCTIONS)


def _caller(book: Book, name: str) -> Question | str:
    calls = book.calls[name]
    source, first = calls[0]
    caller = _around(source, first)
    if any(one is not source or _around(one, call) != caller for one, call in calls):
        return "called from more than one place"
    place = only(book, name)
    if isinstance(place, str):
        return place
    if source is place.source:
        return "caller in the file of the definition"
    if caller is None or not _sure(source, caller, first):
        return "caller can't be told from its text"
    if not _only_there(book, place, source, caller):
        return "name stands in more places than its caller"
    answer = f"{caller.name} in {source.path}, in {{snippet}}"
    needs = ((source.path, source.text.find(name, first.at)), (place.source.path, name_at(place)))
    return Question("caller", f"Which function calls {name}, and in which file?", answer, needs)


def _around(source: Source, call: Call) -> Definition | None:
    """The innermost definition around a call."""
    definitions = source.outline.definitions
    first = bisect_right(definitions, call.at, key=lambda one: one.start)
    return next((one for one in reversed(definitions[:first]) if one.end > call.at), None)


def _sure(source: Source, caller: Definition, call: Call) -> bool:
    """Whether the caller is a function of its own name in its file, and no unnamed one stands around the call."""
    same_name = sum(one.name == caller.name for one in source.outline.definitions)
    if caller.kind not in FUNCTIONS or same_name > 1 or not caller.name.isidentifier():
        return False
    return "{" not in caller.signature and not _NESTED.search(source.text[caller.body : call.at])


def _only_there(book: Book, place: Place, caller_in: Source, caller: Definition) -> bool:
    """Whether the name stands nowhere in code but in its definition, its caller and imports."""
    name, one = place.definition.name, place.definition
    for source in book.holders[name]:
        if source.language in NO_CODE:
            continue
        for at in stands(name, source.text):
            own = source is place.source and one.start <= at < one.body
            in_caller = source is caller_in and caller.start <= at < caller.end
            if not (own or in_caller or imports_it(source, name, at)):
                return False
    return True


def _extended(book: Book) -> Iterator[str]:
    return iter(_subclasses(book))


def _subclasses(book: Book) -> dict[str, list[Place]]:
    """The last part of a base class's name -> the classes that extend it alone."""
    found: defaultdict[str, list[Place]] = defaultdict(list)
    for name, place in book.unique.items():
        if place.definition.kind == "class" and (base := base_of(place)):
            last = base.rpartition(".")[2]
            if last in book.unique and last != name:
                found[last].append(place)
    return found


def _subclass(book: Book, name: str) -> Question | str:
    place = only(book, name)
    if isinstance(place, str):
        return place
    heads = [
        Place(source, index)
        for source in book.holders[name]
        for index, one in enumerate(source.outline.definitions)
        if one.kind == "class" and one.name != name and name in one.signature and any(stands(name, one.signature))
    ]
    if len(heads) != 1 or (base_of(heads[0]) or "").rpartition(".")[2] != name:
        return "not exactly one class extends it"
    child = heads[0]
    if child.definition.name not in book.unique:
        return "name defined more than once"
    answer = f"{child.definition.name} in {child.source.path}, in {{snippet}}"
    needs = ((child.source.path, name_at(child)), (place.source.path, name_at(place)))
    return Question("subclass", f"Which class extends {name}, and in which file?", answer, needs)


def _tested(book: Book) -> Iterator[str]:
    """What isn't a test itself and is called in one."""
    for name, calls in book.calls.items():
        if book.unique[name].source.path not in book.tests and any(source.path in book.tests for source, _ in calls):
            yield name


def _test(book: Book, name: str) -> Question | str:
    tests = [source for source in book.holders[name] if source.path in book.tests]
    if len(tests) != 1:
        return "not exactly one test file names it"
    place = only(book, name)
    if isinstance(place, str):
        return place
    test = tests[0]
    if not any(called_at(test.text, at, name) for at in stands(name, test.text)):
        return "its test doesn't call it"
    if not _belongs(book, test, place.source):
        return "its test doesn't import its file"
    if given_away(name, test.path):
        return "answered by the question itself"
    text = f"Which test file calls the {place.definition.kind} {name}?"
    at = next(call.at for source, call in book.calls[name] if source is test)
    needs = ((test.path, test.text.find(name, at)), (place.source.path, name_at(place)))
    return Question("test", text, f"{test.path}, in {{snippet}}", needs)


def _belongs(book: Book, test: Source, source: Source) -> bool:
    """Whether a test imports a file, or sees it without (Go: the same folder)."""
    if source.language == "Go":
        return PurePosixPath(test.path).parent == PurePosixPath(source.path).parent
    return source.language in _IMPORTING_TESTS and source.path in book.graph.imports.get(test.path, ())


RELATION_KINDS = (
    Kind("caller", _called, _caller),
    Kind("subclass", _extended, _subclass),
    Kind("test", _tested, _test),
)
