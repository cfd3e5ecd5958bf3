"""Checks an answer by another route than the one that made it: git's own commands, Python's own parser, and brackets.

No grammar, no outline and no import graph is asked. What can't be judged is not confirmed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from longrepo.data.questions.evidence import Evidence, asked_name
from longrepo.data.questions.python_ast import default_of, same_expression, same_signature

_SNIPPET = re.compile(r", in ?<\|SNIPPET_(\d+)\|>$")
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")


@dataclass(frozen=True)
class AnswerVerdict:
    """`kind` is "" where the question is of none that is known; `why` says what speaks against the answer."""

    confirmed: bool
    kind: str
    why: str = ""


@dataclass(frozen=True)
class _AnswerPlace:
    """What is right, as far as a path goes: where the answer stands, and the word to be seen there."""

    path: str = ""
    word: str = ""


class _AnswerRefuted(Exception):
    pass


class AnswerChecker:
    """Checks questions on one commit of a repository. Close it, or use it in a `with`."""

    def __init__(self, repository: Path, commit: str) -> None:
        """Raises InputError where the repository can't be read or doesn't hold the commit."""
        self._evidence = Evidence(repository, commit)

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(self, *_: object) -> None:
        self._evidence.close()

    def look_up(self, questions: list[str]) -> None:
        """Ask git for what these questions need all at once, which is much faster than one by one."""
        self._evidence.tree.look_up(name for one in questions if (name := asked_name(one)))

    def check(self, question: str, answer: str, snippets: Mapping[int, tuple[str, str]] | None = None) -> AnswerVerdict:
        """The verdict on an answer as the model sees it. `snippets`: number -> (path, code) of those shown, to check
        the one that the answer points to."""
        for kind, (pattern, judge) in _CHECKS.items():
            if asked := re.fullmatch(pattern, question):
                pointed = _SNIPPET.search(answer)
                try:
                    told = judge(self._evidence, asked.groups(), _SNIPPET.sub("", answer))
                    _check_snippet(told, pointed, snippets)
                except _AnswerRefuted as reason:
                    return AnswerVerdict(False, kind, str(reason))
                return AnswerVerdict(True, kind)
        return AnswerVerdict(False, "", "a question of no kind that is known")


def check_answer(
    question: str,
    answer: str,
    repository: Path,
    commit: str,
    snippets: Mapping[int, tuple[str, str]] | None = None,
) -> AnswerVerdict:
    """The verdict on one answer; for many questions a `Checker` is faster."""
    with AnswerChecker(repository, commit) as checker:
        return checker.check(question, answer, snippets)


def _check_snippet(
    told: _AnswerPlace, pointed: re.Match[str] | None, snippets: Mapping[int, tuple[str, str]] | None
) -> None:
    if snippets is None or not told.path:
        return
    _require(pointed is not None, "the answer points to no snippet")
    path, code = snippets.get(int(pointed.group(1)) if pointed else -1, ("", ""))
    _require(bool(path) and told.path.endswith(path), f"the snippet pointed to is {path or 'not there'}")
    _require(re.search(rf"\b{told.word}\b", code) is not None, f"the snippet pointed to doesn't hold {told.word}")


def _check_where(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    kind, name = asked
    found = evidence.definitions(name, kind)
    _require(len(found) == 1, f"defined at {_join_items(found)}")
    _require(found[0][0] == answer, f"defined in {found[0][0]}")
    return _AnswerPlace(answer, name)


def _sole_definition(evidence: Evidence, name: str, kind: str = "") -> tuple[str, int]:
    found = evidence.definitions(name, kind or evidence.kind_of(name))
    _require(len(found) == 1, f"{name} is defined at {_join_items(found)}")
    return found[0]


def _check_signature(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    path, line = _sole_definition(evidence, name)
    if python := evidence.python(path):
        functions = python.functions[name]
        _require(len(functions) == 1 and same_signature(functions[0], answer), "the parser reads another signature")
        return _AnswerPlace(path, name)
    braces = evidence.braces(path)
    spelled = re.compile(r"\s*".join(map(re.escape, "".join(answer.split()))))
    at = braces.position(line, name)
    found = next((one for one in spelled.finditer(braces.text) if one.start() <= at < one.end()), None)
    _require(found is not None, "the definition doesn't read like this")
    start, end = found.span() if found else (0, 0)
    _require(braces.begins(start), "the signature begins earlier")
    _require(braces.masked[end:].lstrip()[:1] in ("{", ";", "="), "the signature goes on")
    return _AnswerPlace(path, name)


def _check_default(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    parameter, name = asked
    path, line = _sole_definition(evidence, name)
    if python := evidence.python(path):
        functions = python.functions[name]
        default = default_of(functions[0], parameter) if len(functions) == 1 else None
        _require(default is not None and same_expression(default, answer), "the parser reads another default")
        return _AnswerPlace(path, name)
    braces = evidence.braces(path)
    parameters = braces.parameters(braces.position(line, name))
    value = re.escape("".join(answer.split()))
    found = re.search(rf"(?:^|,){parameter}\??(?::[^=]*)?={value}(?:,|$)", parameters)
    _require(found is not None, f"the parameters are {parameters[:80]}")
    return _AnswerPlace(path, name)


def _check_owner(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    path, line = _sole_definition(evidence, name, "method")
    if python := evidence.python(path):
        _require(python.owners(name) == [answer], f"the parser finds it in {python.owners(name)}")
        return _AnswerPlace(path, name)
    braces = evidence.braces(path)
    if path.endswith(".go"):
        shown = evidence.tree.text(path).split("\n")[line - 1]
        receiver = re.match(r"\s*func\s*\(\s*(?:\w+\s+)?\*?\s*(\w+)", shown)
        _require(receiver is not None and receiver.group(1) == answer, f"its receiver reads {shown[:80]}")
    else:
        owner = braces.type_around(braces.position(line, name))
        _require(owner == answer, f"it stands in {owner or 'no type'}")
    return _AnswerPlace(path, name)


def _check_base(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    path, line = _sole_definition(evidence, name, "class")
    if python := evidence.python(path):
        bases = [one.bases for one in python.classes if one.name == name]
        _require(bases == [(answer,)], f"the parser reads {bases}")
        return _AnswerPlace(path, name)
    braces = evidence.braces(path)
    head = braces.head(braces.position(line, name))
    found = re.findall(r"\bextends\s+([\w.]+)", re.sub(rf"^{name}\s*<.*?>\s+(?=extends)", f"{name} ", head))
    _require(found == [answer], f"it reads {head[:80]}")
    return _AnswerPlace(path, name)


def _check_caller(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    function, _, path = answer.partition(" in ")
    definition = _sole_definition(evidence, name)
    found = evidence.callers(name, definition)
    _require(found == {(path, function)}, f"named by {_join_items(sorted(found))}")
    return _AnswerPlace(path, name)


def _check_subclass(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    child, _, path = answer.partition(" in ")
    _sole_definition(evidence, name, "class")
    found = evidence.subclasses(name)
    _require(found == [(path, child)], f"extended by {_join_items(found)}")
    return _AnswerPlace(path, child)


def _check_test(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    kind, name = asked
    definition = _sole_definition(evidence, name, kind)
    tests = evidence.tests(name)
    _require(tests == [answer], f"named by the tests {_join_items(tests)}")
    _require(evidence.calls(answer, name), "the test doesn't call it")
    _require(evidence.sees(answer, definition[0]), f"the test doesn't import {definition[0]}")
    return _AnswerPlace(answer, name)


def _check_importers(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    found = evidence.importers(asked[0])
    _require(found == set(answer.split(", ")), f"imported by {_join_items(sorted(found))}")
    return _AnswerPlace()


def _check_imports(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    found = evidence.imports(asked[0])
    _require(found is not None, "its language isn't read here")
    _require(found == set(answer.split(", ")), f"it imports {_join_items(sorted(found or ()))}")
    return _AnswerPlace()


def _check_change(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    prefix, subject = asked
    ids = evidence.tree.ids(prefix)
    _require(len(ids) == 1, f"{len(ids)} commits of the training history begin like this")
    pattern = ".*".join(re.escape(part) for part in _PLACEHOLDER.split(" ".join(json.loads(subject).split())))
    shown = " ".join(evidence.tree.subject(ids[0]).split())
    _require(re.match(pattern, shown) is not None, f"its subject is {shown[:80]}")
    found = sorted(evidence.tree.changed(ids[0]))
    _require(found == sorted(answer.split(", ")), f"it changed {_join_items(found)}")
    return _AnswerPlace()


def _require(right: bool, why: str) -> None:
    if not right:
        raise _AnswerRefuted(why)


def _join_items(found: object) -> str:
    items = list(found) if isinstance(found, list | set | tuple) else [found]
    return ", ".join(str(one) for one in items[:6]) or "nothing"


_Check = Callable[[Evidence, tuple[str, ...], str], _AnswerPlace]
_CHECKS: dict[str, tuple[str, _Check]] = {
    "where": (r"In which file is the (\w+) (\w+) defined\?", _check_where),
    "signature": (r"What is the signature of (\w+)\?", _check_signature),
    "default": (r"What is the default of the parameter (\w+) of (\w+)\?", _check_default),
    "owner": (r"Which type has the method (\w+)\?", _check_owner),
    "base": (r"Which class does (\w+) extend\?", _check_base),
    "caller": (r"Which function calls (\w+), and in which file\?", _check_caller),
    "subclass": (r"Which class extends (\w+), and in which file\?", _check_subclass),
    "test": (r"Which test file calls the (\w+) (\w+)\?", _check_test),
    "importers": (r"Which files import (.+)\?", _check_importers),
    "imports": (r"Which files of the repository does (.+) import\?", _check_imports),
    "change": (r"Which files did commit ([0-9a-f]{8}) (\".*\") change\?", _check_change),
}
