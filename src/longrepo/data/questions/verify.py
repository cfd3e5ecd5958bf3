"""Checks answers independently of how they were made: with git's own commands and Python's own parser.

Grammars, outlines and the import graph aren't used. An answer that neither git nor the parser can judge is "not
checked".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from longrepo.data.questions.evidence import (
    Evidence,
    PythonFile,
    asked_name,
    default_of,
    same_expression,
    same_signature,
)

_SNIPPET = re.compile(r", in ?(?:<\|SNIPPET|snippet)_(\d+)(?:\|>)?$")
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")


AnswerResult = Literal["confirmed", "refuted", "not checked"]
ANSWER_RESULTS: tuple[AnswerResult, ...] = get_args(AnswerResult)


@dataclass(frozen=True)
class AnswerVerdict:
    """The result of a check. `kind` is "" if the kind of question is unknown; `why` says what contradicts the answer,
    or why it couldn't be checked."""

    result: AnswerResult
    kind: str
    why: str = ""

    @property
    def confirmed(self) -> bool:
        """Return whether the check arrived at the same answer."""
        return self.result == "confirmed"


@dataclass(frozen=True)
class _AnswerPlace:
    """The file with the answer, and a word that its snippet must contain."""

    path: str = ""
    word: str = ""


_Item = TypeVar("_Item", str, tuple[str, str])


class _AnswerRefuted(Exception):
    pass


class _AnswerNotChecked(Exception):
    pass


class AnswerChecker:
    """Checks questions about one commit of a repository. Close it, or use it in a `with` statement."""

    def __init__(self, repository: Path, commit: str) -> None:
        """Raises InputError if the repository can't be read or doesn't contain the commit."""
        self._evidence = Evidence(repository, commit)

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(self, *_: object) -> None:
        self._evidence.close()

    def look_up(self, questions: list[str]) -> None:
        """Look up the words of many questions at once, which is much faster than one by one."""
        self._evidence.tree.look_up(name for one in questions if (name := asked_name(one)))

    def check(self, question: str, answer: str, snippets: Mapping[int, tuple[str, str]] | None = None) -> AnswerVerdict:
        """Return the verdict on an answer as the model sees it. `snippets` maps numbers to (path, code) of the snippets
        shown; the one that the answer points to is checked too."""
        for kind, (pattern, judge) in _CHECKS.items():
            if asked := re.fullmatch(pattern, question):
                pointed = _SNIPPET.search(answer)
                try:
                    place = judge(self._evidence, asked.groups(), _SNIPPET.sub("", answer))
                    _check_snippet(place, pointed, snippets)
                    _require_all_read(self._evidence, asked_name(question) if place.path else "")
                except _AnswerRefuted as reason:
                    return AnswerVerdict("refuted", kind, str(reason))
                except _AnswerNotChecked as reason:
                    return AnswerVerdict("not checked", kind, str(reason))
                return AnswerVerdict("confirmed", kind)
        return AnswerVerdict("refuted", "", "unknown kind of question")


def _check_snippet(
    place: _AnswerPlace, pointed: re.Match[str] | None, snippets: Mapping[int, tuple[str, str]] | None
) -> None:
    if snippets is None or not place.path:
        return
    _require(pointed is not None, "the answer points to no snippet")
    path, code = snippets.get(int(pointed.group(1)) if pointed else -1, ("", ""))
    _require(bool(path) and place.path.endswith(path), f"the snippet pointed to is {path or 'not there'}")
    _require(re.search(rf"\b{place.word}\b", code) is not None, f"the snippet pointed to doesn't hold {place.word}")


def _check_where(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[1]
    found = evidence.definitions(name)
    _require(len(found) <= 1, f"defined at {_join_items(found)}")
    _require_found(evidence, name, {path for path, _ in found}, answer, answer, "defined in")
    return _AnswerPlace(answer, name)


def _sole_definition(evidence: Evidence, name: str) -> tuple[str, PythonFile]:
    """Return the path and file of a name's only definition; not checked if only unread files contain the name."""
    found = evidence.definitions(name)
    if not found:
        _require_all_read(evidence, name)
    _require(len(found) == 1, f"{name} is defined at {_join_items(found)}")
    path = found[0][0]
    python = evidence.python(path)
    if python is None:
        raise _AnswerNotChecked(f"{path}: no parser here reads it")
    return path, python


def _check_signature(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    path, python = _sole_definition(evidence, name)
    functions = python.functions[name]
    _require(len(functions) == 1 and same_signature(functions[0], answer), "the parser reads another signature")
    return _AnswerPlace(path, name)


def _check_default(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    parameter, name = asked
    path, python = _sole_definition(evidence, name)
    functions = python.functions[name]
    default = default_of(functions[0], parameter) if len(functions) == 1 else None
    _require(default is not None and same_expression(default, answer), "the parser reads another default")
    return _AnswerPlace(path, name)


def _check_owner(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    path, python = _sole_definition(evidence, name)
    _require(python.owners(name) == [answer], f"the parser finds it in {python.owners(name)}")
    return _AnswerPlace(path, name)


def _check_base(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    path, python = _sole_definition(evidence, name)
    bases = [one.bases for one in python.classes if one.name == name]
    _require(bases == [(answer,)], f"the parser reads {bases}")
    return _AnswerPlace(path, name)


def _check_caller(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    function, _, path = answer.partition(" in ")
    _sole_definition(evidence, name)
    _require_found(evidence, name, evidence.callers(name), (path, function), path, "named by")
    return _AnswerPlace(path, name)


def _check_subclass(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[0]
    child, _, path = answer.partition(" in ")
    _sole_definition(evidence, name)
    _require_found(evidence, name, evidence.subclasses(name), (path, child), path, "extended by")
    return _AnswerPlace(path, child)


def _check_test(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    name = asked[1]
    tests = evidence.tests(name)
    _require(tests == [answer], f"named by the tests {_join_items(tests)}")
    _sole_definition(evidence, name)
    _require(evidence.calls(answer, name) or answer in evidence.unread(name), "the test doesn't call it")
    return _AnswerPlace(answer, name)


def _check_importers(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    """Refute the answer if git finds no mention of the file's name in an importer; otherwise it isn't checked."""
    _require_there(evidence, asked[0])
    stem = asked[0].rpartition("/")[2].partition(".")[0]
    named = {line.path for line in evidence.tree.lines(stem)}
    wrong = [path for path in answer.split(", ") if path not in named]
    _require(not wrong, f"{stem} doesn't stand in {_join_items(wrong)}")
    raise _AnswerNotChecked("imports are resolved by one route only")


def _check_imports(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    """Refute the answer if git doesn't list its files; otherwise it isn't checked."""
    for path in (asked[0], *answer.split(", ")):
        _require_there(evidence, path)
    raise _AnswerNotChecked("imports are resolved by one route only")


def _check_change(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    prefix, subject = asked
    ids = evidence.tree.ids(prefix)
    _require(len(ids) == 1, f"{len(ids)} commits of the training history begin like this")
    _require_subject(evidence, ids[0], subject)
    found = sorted(evidence.tree.changed(ids[0]))
    _require(found == sorted(answer.split(", ")), f"it changed {_join_items(found)}")
    return _AnswerPlace()


def _check_together(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    prefix, subject, path = asked
    return _check_change(evidence, (prefix, subject), ", ".join([path, *answer.split(", ")]))


def _check_why(evidence: Evidence, asked: tuple[str, ...], answer: str) -> _AnswerPlace:
    """Confirm that the answer's commit is the only one whose subject has the name, and that it changed a file that
    holds it."""
    (name,) = asked
    prefix, _, subject = answer.partition(" ")
    found = evidence.tree.naming(name)
    _require([one[:8] for one in found] == [prefix], f"named by {_join_items([one[:8] for one in found])}")
    _require(bool(re.fullmatch(r'".*"', subject)), "it quotes no message")
    _require_subject(evidence, found[0], subject)
    holders = {line.path for line in evidence.tree.lines(name)}
    _require(bool(holders & set(evidence.tree.changed(found[0]))), "it changed no file that holds the name")
    return _AnswerPlace()


def _require_subject(evidence: Evidence, commit: str, quoted: str) -> None:
    """Require that a commit's subject begins as quoted, but for what was redacted."""
    pattern = ".*".join(re.escape(part) for part in _PLACEHOLDER.split(" ".join(json.loads(quoted).split())))
    shown = " ".join(evidence.tree.subject(commit).split())
    _require(re.match(pattern, shown) is not None, f"its subject is {shown[:80]}")


def _require(right: bool, why: str) -> None:
    if not right:
        raise _AnswerRefuted(why)


def _require_there(evidence: Evidence, path: str) -> None:
    _require(path in evidence.tree.blobs, f"there is no file {path}")


def _require_found(evidence: Evidence, name: str, found: set[_Item], expected: _Item, path: str, relation: str) -> None:
    """Require that `found` is exactly what the answer says. If nothing was found and no parser here reads the answer's
    file, the answer isn't checked."""
    if not found and path in evidence.unread(name):
        _require_all_read(evidence, name)
    _require(found == {expected}, f"{relation} {_join_items(sorted(found))}")


def _require_all_read(evidence: Evidence, name: str) -> None:
    """Leave the answer unchecked if unread files, which could contradict it, mention the name."""
    unread = evidence.unread(name) if name else []
    if unread:
        raise _AnswerNotChecked(f"{name} stands in {_join_items(unread)}: no parser here reads them")


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
    "together": (r"Which files did commit ([0-9a-f]{8}) (\".*\") change together with (.+)\?", _check_together),
    "why": (r"Why was (\w+) changed\?", _check_why),
}
