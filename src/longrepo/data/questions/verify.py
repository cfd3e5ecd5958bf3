"""Checks an answer by another route than the one that made it: git's own commands, Python's own parser, and brackets.

No grammar, no outline and no import graph is asked. What can't be judged is not confirmed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from longrepo.data.questions.evidence import Evidence, name_asked
from longrepo.data.questions.python_ast import default_of, same_expression, same_signature

_SNIPPET = re.compile(r", in ?<\|SNIPPET_(\d+)\|>$")
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")


@dataclass(frozen=True)
class Verdict:
    """`kind` is "" where the question is of none that is known; `why` says what speaks against the answer."""

    confirmed: bool
    kind: str
    why: str = ""


@dataclass(frozen=True)
class _Told:
    """What is right, as far as a path goes: where the answer stands, and the word to be seen there."""

    path: str = ""
    word: str = ""


class _Refuted(Exception):
    pass


class Checker:
    """Checks questions on one commit of a repository. Close it, or use it in a `with`."""

    def __init__(self, repository: Path, commit: str) -> None:
        """Raises InputError where the repository can't be read or doesn't hold the commit."""
        self._evidence = Evidence(repository, commit)

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self._evidence.close()

    def look_up(self, questions: list[str]) -> None:
        """Ask git for what these questions need all at once, which is much faster than one by one."""
        self._evidence.tree.look_up(name for one in questions if (name := name_asked(one)))

    def check(self, question: str, answer: str, snippets: Mapping[int, tuple[str, str]] | None = None) -> Verdict:
        """The verdict on an answer as the model sees it. `snippets`: number -> (path, code) of those shown, to check
        the one that the answer points to."""
        for kind, (pattern, judge) in _KINDS.items():
            if asked := re.fullmatch(pattern, question):
                pointed = _SNIPPET.search(answer)
                try:
                    told = judge(self._evidence, asked.groups(), _SNIPPET.sub("", answer))
                    _check_snippet(told, pointed, snippets)
                except _Refuted as reason:
                    return Verdict(False, kind, str(reason))
                return Verdict(True, kind)
        return Verdict(False, "", "a question of no kind that is known")


def check(
    question: str,
    answer: str,
    repository: Path,
    commit: str,
    snippets: Mapping[int, tuple[str, str]] | None = None,
) -> Verdict:
    """The verdict on one answer; for many questions a `Checker` is faster."""
    with Checker(repository, commit) as checker:
        return checker.check(question, answer, snippets)


def _check_snippet(told: _Told, pointed: re.Match[str] | None, snippets: Mapping[int, tuple[str, str]] | None) -> None:
    if snippets is None or not told.path:
        return
    _expect(pointed is not None, "the answer points to no snippet")
    path, code = snippets.get(int(pointed.group(1)) if pointed else -1, ("", ""))
    _expect(bool(path) and told.path.endswith(path), f"the snippet pointed to is {path or 'not there'}")
    _expect(re.search(rf"\b{told.word}\b", code) is not None, f"the snippet pointed to doesn't hold {told.word}")


def _where(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    kind, name = asked
    found = evidence.definitions(name, kind)
    _expect(len(found) == 1, f"defined at {_list(found)}")
    _expect(found[0][0] == answer, f"defined in {found[0][0]}")
    return _Told(answer, name)


def _definition(evidence: Evidence, name: str, kind: str = "") -> tuple[str, int]:
    found = evidence.definitions(name, kind or evidence.kind_of(name))
    _expect(len(found) == 1, f"{name} is defined at {_list(found)}")
    return found[0]


def _signature(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    name = asked[0]
    path, line = _definition(evidence, name)
    if python := evidence.python(path):
        functions = python.functions[name]
        _expect(len(functions) == 1 and same_signature(functions[0], answer), "the parser reads another signature")
        return _Told(path, name)
    braces = evidence.braces(path)
    spelled = re.compile(r"\s*".join(map(re.escape, "".join(answer.split()))))
    at = braces.position(line, name)
    found = next((one for one in spelled.finditer(braces.text) if one.start() <= at < one.end()), None)
    _expect(found is not None, "the definition doesn't read like this")
    start, end = found.span() if found else (0, 0)
    _expect(braces.begins(start), "the signature begins earlier")
    _expect(braces.masked[end:].lstrip()[:1] in ("{", ";", "="), "the signature goes on")
    return _Told(path, name)


def _default(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    parameter, name = asked
    path, line = _definition(evidence, name)
    if python := evidence.python(path):
        functions = python.functions[name]
        default = default_of(functions[0], parameter) if len(functions) == 1 else None
        _expect(default is not None and same_expression(default, answer), "the parser reads another default")
        return _Told(path, name)
    braces = evidence.braces(path)
    parameters = braces.parameters(braces.position(line, name))
    value = re.escape("".join(answer.split()))
    found = re.search(rf"(?:^|,){parameter}\??(?::[^=]*)?={value}(?:,|$)", parameters)
    _expect(found is not None, f"the parameters are {parameters[:80]}")
    return _Told(path, name)


def _owner(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    name = asked[0]
    path, line = _definition(evidence, name, "method")
    if python := evidence.python(path):
        _expect(python.owners(name) == [answer], f"the parser finds it in {python.owners(name)}")
        return _Told(path, name)
    braces = evidence.braces(path)
    if path.endswith(".go"):
        shown = evidence.tree.text(path).split("\n")[line - 1]
        receiver = re.match(r"\s*func\s*\(\s*(?:\w+\s+)?\*?\s*(\w+)", shown)
        _expect(receiver is not None and receiver.group(1) == answer, f"its receiver reads {shown[:80]}")
    else:
        owner = braces.type_around(braces.position(line, name))
        _expect(owner == answer, f"it stands in {owner or 'no type'}")
    return _Told(path, name)


def _base(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    name = asked[0]
    path, line = _definition(evidence, name, "class")
    if python := evidence.python(path):
        bases = [one.bases for one in python.classes if one.name == name]
        _expect(bases == [(answer,)], f"the parser reads {bases}")
        return _Told(path, name)
    braces = evidence.braces(path)
    head = braces.head(braces.position(line, name))
    found = re.findall(r"\bextends\s+([\w.]+)", re.sub(rf"^{name}\s*<.*?>\s+(?=extends)", f"{name} ", head))
    _expect(found == [answer], f"it reads {head[:80]}")
    return _Told(path, name)


def _caller(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    name = asked[0]
    function, _, path = answer.partition(" in ")
    definition = _definition(evidence, name)
    found = evidence.callers(name, definition)
    _expect(found == {(path, function)}, f"named by {_list(sorted(found))}")
    return _Told(path, name)


def _subclass(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    name = asked[0]
    child, _, path = answer.partition(" in ")
    _definition(evidence, name, "class")
    found = evidence.subclasses(name)
    _expect(found == [(path, child)], f"extended by {_list(found)}")
    return _Told(path, child)


def _test(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    kind, name = asked
    definition = _definition(evidence, name, kind)
    tests = evidence.tests(name)
    _expect(tests == [answer], f"named by the tests {_list(tests)}")
    _expect(evidence.calls(answer, name), "the test doesn't call it")
    _expect(evidence.sees(answer, definition[0]), f"the test doesn't import {definition[0]}")
    return _Told(answer, name)


def _importers(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    found = evidence.importers(asked[0])
    _expect(found == set(answer.split(", ")), f"imported by {_list(sorted(found))}")
    return _Told()


def _imports(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    found = evidence.imports(asked[0])
    _expect(found is not None, "its language isn't read here")
    _expect(found == set(answer.split(", ")), f"it imports {_list(sorted(found or ()))}")
    return _Told()


def _change(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _Told:
    prefix, subject = asked
    ids = evidence.tree.ids(prefix)
    _expect(len(ids) == 1, f"{len(ids)} commits of the training history begin like this")
    pattern = ".*".join(re.escape(part) for part in _PLACEHOLDER.split(" ".join(json.loads(subject).split())))
    shown = " ".join(evidence.tree.subject(ids[0]).split())
    _expect(re.match(pattern, shown) is not None, f"its subject is {shown[:80]}")
    found = sorted(evidence.tree.changed(ids[0]))
    _expect(found == sorted(answer.split(", ")), f"it changed {_list(found)}")
    return _Told()


def _expect(right: bool, why: str) -> None:
    if not right:
        raise _Refuted(why)


def _list(found: object) -> str:
    items = list(found) if isinstance(found, list | set | tuple) else [found]
    return ", ".join(str(one) for one in items[:6]) or "nothing"


_Judge = Callable[[Evidence, tuple[str, ...], str], _Told]
_KINDS: dict[str, tuple[str, _Judge]] = {
    "where": (r"In which file is the (\w+) (\w+) defined\?", _where),
    "signature": (r"What is the signature of (\w+)\?", _signature),
    "default": (r"What is the default of the parameter (\w+) of (\w+)\?", _default),
    "owner": (r"Which type has the method (\w+)\?", _owner),
    "base": (r"Which class does (\w+) extend\?", _base),
    "caller": (r"Which function calls (\w+), and in which file\?", _caller),
    "subclass": (r"Which class extends (\w+), and in which file\?", _subclass),
    "test": (r"Which test file calls the (\w+) (\w+)\?", _test),
    "importers": (r"Which files import (.+)\?", _importers),
    "imports": (r"Which files of the repository does (.+) import\?", _imports),
    "change": (r"Which files did commit ([0-9a-f]{8}) (\".*\") change\?", _change),
}
