"""Makes questions of all kinds, with answers read from the syntax tree or from git, never guessed.

This file has the kinds about files (its importers, its imports), about changes (a commit's files, what changed with a
file, why a name was changed) and about two definitions (the only caller, the only subclass, the only test). Each
question names the snippets it needs: for "where is X defined" the piece of the file that defines it. A question is
dropped if the repository doesn't give it a single answer, or if it would answer itself.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import PurePosixPath

from longrepo.data.questions.definition_questions import (
    NAME_KINDS,
    Question,
    QuestionKind,
    base_of,
    sole_definition,
)
from longrepo.data.questions.sources import (
    FUNCTIONS,
    SCRIPT_LANGUAGES,
    ChangedFile,
    ExcludedFiles,
    QuestionIndex,
    SourceDefinition,
    SourceFile,
    import_position,
    is_call,
    is_import,
    mentions_in_import,
    name_position,
    normalize_name,
    path_reveals,
    word_positions,
)
from longrepo.data.text import text_top
from longrepo.repository.definitions import Call, Definition
from longrepo.repository.imports.graph import ImportGraph
from longrepo.repository.imports.statements import Import
from longrepo.repository.languages import NON_CODE_LANGUAGES
from longrepo.utils import hashing

_MAX_FILES = 3  # in an answer
_IMPORT_LANGUAGES = ("Python", "JavaScript", "TypeScript", "Java", "C", "C++")
_PACKAGE_STEMS = frozenset(("__init__", "__main__", "index", "main", "lib", "mod"))  # files that stand for their folder
_MAX_SUBJECT_CHARACTERS = 120
_CODE_NAME = re.compile(r"[a-z0-9][A-Z]|[a-zA-Z]_[a-zA-Z]")


def _importers_subjects(index: QuestionIndex) -> Iterator[str]:
    tests = index.tests
    return (path for path, by in index.graph.imported_by.items() if by and path in index.sources and path not in tests)


def _importers_question(index: QuestionIndex, path: str) -> Question | str:
    importers = index.graph.imported_by[path]
    stem = _stem(path)
    if len(importers) > _MAX_FILES:
        return "imported by too many files to list"
    if not _is_unambiguous(index, path, stem) or any(one not in index.sources for one in importers):
        return "a file's name doesn't say which file is imported"
    if not all(_import_names_stem(index.sources[one], stem) for one in importers):
        return "a file's name doesn't say which file is imported"
    known = {*importers, path}
    if any(source.path not in known and mentions_in_import(source, stem) for source in index.holders[stem]):
        return "another file may import it too"
    if all(normalize_name(stem) in normalize_name(_stem(one)) for one in importers):
        return "answered by the question itself"
    needs = (*((one, import_position(index.sources[one], stem) or 0) for one in importers), _beginning(index, path))
    return Question("importers", f"Which files import {path}?", ", ".join(importers), needs)


def _beginning(index: QuestionIndex, path: str) -> tuple[str, int]:
    """Return where a file begins behind its licence."""
    source = index.sources[path]
    return path, text_top(source.text, source.language)[0]


def _import_names_stem(source: SourceFile, stem: str) -> bool:
    """Return whether a source imports a file by its stem; in JavaScript and TypeScript, by a relative path."""
    if source.language in SCRIPT_LANGUAGES:
        modules = (one.module for one in source.outline.imports if one.module.startswith("."))
        return any(posixpath.basename(one).partition(".")[0] == stem for one in modules)
    return mentions_in_import(source, stem)


def _is_unambiguous(index: QuestionIndex, path: str, stem: str) -> bool:
    """Return whether a file's stem identifies it in every import."""
    if stem in _PACKAGE_STEMS or len(stem) < 4 or stem in sys.stdlib_module_names or stem in index.folders:
        return False
    if len(index.stems[stem]) > 1 or stem in index.excluded.words or not re.fullmatch(r"\w+", stem, re.ASCII):
        return False
    return index.sources[path].language in _IMPORT_LANGUAGES


def _imports_subjects(index: QuestionIndex) -> Iterator[str]:
    return (path for path, found in index.graph.imports.items() if found and path in index.sources)


def _imports_question(index: QuestionIndex, path: str) -> Question | str:
    source, found = index.sources[path], index.graph.imports[path]
    if len(found) > _MAX_FILES:
        return "imports too many files to list"
    if any(one not in index.sources or not _is_unambiguous(index, one, _stem(one)) for one in found):
        return "a file's name doesn't say which file is imported"
    stems = {_stem(one) for one in found}
    if any(not _is_accounted_for(index, source, one, stems) for one in source.outline.imports):
        return "an import may mean another file"
    if all(normalize_name(_stem(one)) in normalize_name(_stem(path)) for one in found):
        return "answered by the question itself"
    first = min(import_position(source, _stem(one)) or 0 for one in found)
    needs = ((path, first), *(_beginning(index, one) for one in found))
    return Question("imports", f"Which files of the repository does {path} import?", ", ".join(found), needs)


def _is_accounted_for(index: QuestionIndex, source: SourceFile, one: Import, stems: set[str]) -> bool:
    """Return whether an import means one of the files found, or certainly no file of the repository."""
    parts = [part for part in re.split(r"[./]+", one.module) if part]
    if source.language == "Python":
        inside = one.level > 0 or (parts and _is_known_part(index, parts[0]))
        if one.level == 0 and parts and parts[0] in sys.stdlib_module_names:
            inside = _is_known_part(index, parts[0])
        meant = [*parts[-1:], *one.names]
        return not inside or (bool(parts) and parts[-1] in stems) or (bool(meant) and set(one.names) <= stems)
    if source.language in SCRIPT_LANGUAGES:
        aliased = one.module.startswith(("@/", "~", "#")) or (bool(parts) and parts[0] in index.folders)
        return posixpath.basename(one.module).partition(".")[0] in stems if one.module[:1] == "." else not aliased
    if source.language == "Java":
        return (
            one.module == "package" or bool(set(parts) & stems) or not (parts[:1] and _is_under_package(index, parts))
        )
    return posixpath.basename(one.module).partition(".")[0] in stems


def _is_known_part(index: QuestionIndex, part: str) -> bool:
    return part in index.folders or part in index.stems


def _is_under_package(index: QuestionIndex, parts: Sequence[str]) -> bool:
    """Return whether a Java import begins with folders of the repository."""
    return all(part in index.folders for part in parts[:2])


def _change_subjects(index: QuestionIndex) -> Iterator[str]:
    return iter(index.commits)


def _change_question(index: QuestionIndex, commit: str) -> Question | str:
    """Ask which files a commit with this subject line changed."""
    facts = index.commits[commit]
    paths = sorted({fact.path for fact in facts})
    if len(paths) > _MAX_FILES:
        return "commit changed too many files to list"
    if len(paths) != facts[0].files or any(path not in index.sources for path in paths):
        return "commit changed files that are gone or left out"
    message = facts[0].message.strip().split("\n")[0]
    if any(normalize_name(_stem(path)) in normalize_name(message) for path in paths):
        return "answered by the question itself"
    needs = tuple(_beginning(index, path) for path in paths)
    text = f"Which files did commit {commit[:8]} {_quoted_subject(message)} change?"
    return Question("change", text, ", ".join(paths), needs)


def _quoted_subject(message: str) -> str:
    return json.dumps(message.strip().split("\n")[0][:_MAX_SUBJECT_CHARACTERS], ensure_ascii=False)


def _together_question(index: QuestionIndex, commit: str) -> Question | str:
    """Ask which files a commit changed with one of them, that which says least about the others."""
    facts = index.commits[commit]
    paths = sorted({fact.path for fact in facts})
    if not 2 <= len(paths) <= _MAX_FILES + 1:
        return "commit changed one file, or too many to list"
    if len(paths) != facts[0].files or any(path not in index.sources for path in paths):
        return "commit changed files that are gone or left out"
    stems = {path: normalize_name(_stem(path)) for path in paths}
    message = normalize_name(facts[0].message.strip().split("\n")[0])
    for path in paths:
        others = [one for one in paths if one != path]
        if not any(stems[one] in stems[path] or stems[path] in stems[one] or stems[one] in message for one in others):
            text = (
                f"Which files did commit {commit[:8]} {_quoted_subject(facts[0].message)} change together with {path}?"
            )
            return Question("together", text, ", ".join(others), ((others[0], 0), (path, 0), *_starts(others[1:])))
    return "answered by the question itself"


def _starts(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    return ((path, 0) for path in paths)


def _why_subjects(index: QuestionIndex) -> Iterator[str]:
    """Yield names that no word of prose could be and that one message's first line in the whole history has."""
    told = Counter(word for words in index.subjects for word in words)
    return (name for name in index.unique if told[name] == 1 and _CODE_NAME.search(name))


def _why_question(index: QuestionIndex, name: str) -> Question | str:
    place = index.unique[name]
    for commit, facts in index.commits.items():
        subject = facts[0].message.strip().split("\n")[0]
        if any(word_positions(name, subject)) and len(subject) <= _MAX_SUBJECT_CHARACTERS:
            if not any(fact.path == place.source.path for fact in facts):
                return "the commit that names it changed other files"
            needs = ((place.source.path, name_position(place)),)
            return Question("why", f"Why was {name} changed?", f"{commit[:8]} {_quoted_subject(subject)}", needs)
    return "the commit that names it isn't shown"


def _stem(path: str) -> str:
    return PurePosixPath(path).name.partition(".")[0]


FILE_KINDS = (
    QuestionKind("importers", _importers_subjects, _importers_question),
    QuestionKind("imports", _imports_subjects, _imports_question),
    QuestionKind("change", _change_subjects, _change_question),
    QuestionKind("together", _change_subjects, _together_question),
    QuestionKind("why", _why_subjects, _why_question),
)


_UNNAMED_FUNCTION = re.compile(r"\bfunction\b|=>|->|\bfunc\s*\(|\blambda\b|\|\w*\||\bnew \w+(?:<[^>]*>)?\([^)]*\)\s*\{")
_IMPORTING_TESTS = ("Python", "JavaScript", "TypeScript")


def _caller_subjects(index: QuestionIndex) -> Iterator[str]:
    return (name for name in index.calls if index.unique[name].definition.kind in FUNCTIONS)


def _caller_question(index: QuestionIndex, name: str) -> Question | str:
    calls = index.calls[name]
    source, first = calls[0]
    caller = _innermost_definition(source, first)
    if any(one is not source or _innermost_definition(one, call) != caller for one, call in calls):
        return "called from more than one place"
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    if source is place.source:
        return "caller in the file of the definition"
    if source.path in index.tests:
        return "called by a test alone"
    if caller is None or not _is_certain_caller(source, caller, first):
        return "caller can't be told from its text"
    if not _occurs_only_there(index, place, source, caller):
        return "name stands in more places than its caller"
    answer = f"{caller.name} in {source.path}, in {{snippet}}"
    needs = ((source.path, source.text.find(name, first.at)), (place.source.path, name_position(place)))
    return Question("caller", f"Which function calls {name}, and in which file?", answer, needs)


def _innermost_definition(source: SourceFile, call: Call) -> Definition | None:
    """Return the innermost definition around a call."""
    definitions = source.outline.definitions
    first = bisect_right(definitions, call.at, key=lambda one: one.start)
    return next((one for one in reversed(definitions[:first]) if one.end > call.at), None)


def _is_certain_caller(source: SourceFile, caller: Definition, call: Call) -> bool:
    """Return whether the caller's name is unique in its file and no anonymous function encloses the call."""
    same_name = sum(one.name == caller.name for one in source.outline.definitions)
    if caller.kind not in FUNCTIONS or same_name > 1 or not caller.name.isidentifier():
        return False
    return "{" not in caller.signature and not _UNNAMED_FUNCTION.search(source.text[caller.body : call.at])


def _occurs_only_there(
    index: QuestionIndex, place: SourceDefinition, caller_in: SourceFile, caller: Definition
) -> bool:
    """Return whether code mentions the name only in its definition, its caller and imports."""
    name, one = place.definition.name, place.definition
    for source in index.holders[name]:
        if source.language in NON_CODE_LANGUAGES:
            continue
        for at in word_positions(name, source.text):
            own = source is place.source and one.start <= at < one.body
            in_caller = source is caller_in and caller.start <= at < caller.end
            if not (own or in_caller or is_import(source, name, at)):
                return False
    return True


def _subclass_subjects(index: QuestionIndex) -> Iterator[str]:
    return iter(_subclasses_by_base(index))


def _subclasses_by_base(index: QuestionIndex) -> dict[str, list[SourceDefinition]]:
    """Map the last part of a base class's name to the classes that extend it alone."""
    found: defaultdict[str, list[SourceDefinition]] = defaultdict(list)
    for name, place in index.unique.items():
        if place.definition.kind == "class" and (base := base_of(place)):
            last = base.rpartition(".")[2]
            if last in index.unique and last != name:
                found[last].append(place)
    return found


def _subclass_question(index: QuestionIndex, name: str) -> Question | str:
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    heads = [
        SourceDefinition(source, number)
        for source in index.holders[name]
        for number, one in enumerate(source.outline.definitions)
        if one.kind == "class"
        and one.name != name
        and name in one.signature
        and any(word_positions(name, one.signature))
    ]
    if len(heads) != 1 or (base_of(heads[0]) or "").rpartition(".")[2] != name:
        return "not exactly one class extends it"
    child = heads[0]
    if child.definition.name not in index.unique:
        return "name defined more than once, or in tests"
    answer = f"{child.definition.name} in {child.source.path}, in {{snippet}}"
    needs = ((child.source.path, name_position(child)), (place.source.path, name_position(place)))
    return Question("subclass", f"Which class extends {name}, and in which file?", answer, needs)


def _test_subjects(index: QuestionIndex) -> Iterator[str]:
    """Yield names defined outside of tests and called in a test."""
    for name, calls in index.calls.items():
        if index.unique[name].source.path not in index.tests and any(source.path in index.tests for source, _ in calls):
            yield name


def _test_question(index: QuestionIndex, name: str) -> Question | str:
    tests = [source for source in index.holders[name] if source.path in index.tests]
    if len(tests) != 1:
        return "not exactly one test file names it"
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    test = tests[0]
    if not any(is_call(test.text, at, name) for at in word_positions(name, test.text)):
        return "its test doesn't call it"
    if not _test_sees(index, test, place.source):
        return "its test doesn't import its file"
    if path_reveals(name, test.path):
        return "answered by the question itself"
    text = f"Which test file calls the {place.definition.kind} {name}?"
    at = next(call.at for source, call in index.calls[name] if source is test)
    needs = ((test.path, test.text.find(name, at)), (place.source.path, name_position(place)))
    return Question("test", text, f"{test.path}, in {{snippet}}", needs)


def _test_sees(index: QuestionIndex, test: SourceFile, source: SourceFile) -> bool:
    """Return whether a test imports a file, or is in its folder (Go)."""
    if source.language == "Go":
        return PurePosixPath(test.path).parent == PurePosixPath(source.path).parent
    return source.language in _IMPORTING_TESTS and source.path in index.graph.imports.get(test.path, ())


RELATION_KINDS = (
    QuestionKind("caller", _caller_subjects, _caller_question),
    QuestionKind("subclass", _subclass_subjects, _subclass_question),
    QuestionKind("test", _test_subjects, _test_question),
)


QUESTION_KINDS = (*NAME_KINDS, *RELATION_KINDS, *FILE_KINDS)
_MAX_ANSWER_CHARACTERS = 220  # about 60 tokens
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")


def make_questions(
    sources: Iterable[SourceFile],
    graph: ImportGraph,
    changes: Iterable[ChangedFile],
    seed: int,
    limit: int | None = None,
    excluded: ExcludedFiles | None = None,
    subjects: Iterable[str] = (),
) -> tuple[list[Question], Counter[str]]:
    """Return questions about training files and changes, and the number of dropped ones by reason. The kinds take
    turns, with at most `limit` questions each. `excluded`: the files of the same commit that aren't among the sources
    (see `read_excluded_files`); questions that they might answer differently are dropped. `subjects`: the first line of
    each message in the training history (see `read_subjects`); without them, no reason for a change is asked for."""
    dropped: Counter[str] = Counter()
    index = QuestionIndex(sources, graph, changes, excluded or ExcludedFiles(), dropped, subjects)
    by_kind: list[list[Question]] = []
    draw = cache(lambda about: hashing.seeded_int(seed, about))
    for kind in QUESTION_KINDS:
        found: list[Question] = []
        turn = hashing.seeded_int(seed, kind.name)  # each subject is drawn once, in another order for each kind
        for about in sorted(kind.subjects(index), key=lambda one: (draw(one) ^ turn, one)):
            if limit is not None and len(found) >= limit:
                break
            made = kind.ask(index, about)
            reason = made if isinstance(made, str) else _rejection_reason(made, index)
            if isinstance(made, Question) and not reason:
                found.append(replace(made, about=about[:8] if about in index.commits else about))
            else:
                dropped[reason] += 1
        by_kind.append(found)
    turns = max(map(len, by_kind))
    return [found[turn] for turn in range(turns) for found in by_kind if turn < len(found)], dropped


def _rejection_reason(question: Question, index: QuestionIndex) -> str:
    """Return the reason why a question of any kind isn't asked; "" if it is."""
    if len(question.answer) > _MAX_ANSWER_CHARACTERS:
        return "answer too long"
    if _PLACEHOLDER.search(question.answer) or "\n" in question.answer + question.text:
        return "answer holds what was redacted"
    if any(index.sources[path].hidden for path, _ in question.needs):
        return "a path holds what was redacted"
    return ""
