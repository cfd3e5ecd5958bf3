"""Questions about one definition: its file, its signature, a default value, its class, its base class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from longrepo.data.questions.sources import (
    FUNCTIONS,
    MAX_HOLDERS,
    SCRIPT_LANGUAGES,
    QuestionIndex,
    SourceDefinition,
    begins_statement,
    is_call,
    may_define,
    name_position,
    normalize_name,
    path_reveals,
    word_positions,
)
from longrepo.repository.definitions import Definition


@dataclass(frozen=True)
class Question:
    """A question with its answer. `needs`: (path, character) positions that the snippets must contain, the one with the
    answer first. In `answer`, `{snippet}` stands for the number of the snippet with the answer. `about`: the name, path
    or commit id that it asks about."""

    kind: str
    text: str
    answer: str
    needs: tuple[tuple[str, int], ...]
    about: str = ""


@dataclass(frozen=True)
class QuestionKind:
    """A kind of question. `subjects` yields the names, paths or commit ids it could ask about; `ask` returns the
    question about one of them, or the reason why there is none."""

    name: str
    subjects: Callable[[QuestionIndex], Iterable[str]]
    ask: Callable[[QuestionIndex, str], Question | str]


CLASSES = ("class", "struct", "interface", "trait", "enum")
_COMMENT_MARKS = ("#", "//", "/*", '"""', "'''")  # they end otherwise once a signature is one line
_MAX_SIGNATURE_CHARACTERS = 390  # characters; longer signatures were truncated
_OWNER_LANGUAGES = ("Python", "Java", "PHP", *SCRIPT_LANGUAGES)
_RECEIVER = re.compile(r"func \(\s*(?:\w+\s+)?\*?(\w+)(?:\[[^\]]*\])?\s*\)")
_EXTENDS = re.compile(r"\bextends ([\w.]+) ?(?:<.*>)? ?(?:implements\b.*|$)")
_PYTHON_BASES = re.compile(r"class \w+ ?\(([\w., =]*)\) ?:?$")


_OPENING_BRACKET = re.compile(r"\s*(?:<[^(]*>|\[[^(]*\])?\s*\(")
_PARAMETER = re.compile(r"\w+(?=\s*(?::|$))")
_INDENTATION = re.compile(r"[ \t]*")
_RECEIVERS = ("self", "cls", "&self", "&mut self", "mut self", "this", "void")


def sole_definition(index: QuestionIndex, name: str) -> SourceDefinition | str:
    """Return the only definition of a name, or the reason why there may be others."""
    if name not in index.sole_definitions:
        index.sole_definitions[name] = _find_sole_definition(index, name)
    return index.sole_definitions[name]


def _find_sole_definition(index: QuestionIndex, name: str) -> SourceDefinition | str:
    place = index.unique[name]
    if len(index.holders[name]) > MAX_HOLDERS:
        return "name is an everyday word here"
    own = name_position(place)
    is_function = place.source.language == "C" and place.definition.kind in FUNCTIONS
    if is_function and not is_call(place.source.text, own, name):  # a macro's argument
        return "definition can't be told from its text"
    for source in index.holders[name]:
        for at in word_positions(name, source.text):
            if (source is not place.source or at != own) and may_define(source, name, at, place.definition.kind):
                return "name may be defined elsewhere too"
    return place


def base_of(place: SourceDefinition) -> str | None:
    """Return the only base of a class as written, without type arguments; None unless there is exactly one."""
    signature, language = place.definition.signature, place.source.language
    if language == "Python":
        match = _PYTHON_BASES.search(signature)
        bases = [one.strip() for one in match.group(1).split(",")] if match else []
        bases = [one for one in bases if one and "=" not in one]
        return bases[0] if len(bases) == 1 and bases[0] != "object" else None
    if language in ("Java", "PHP", *SCRIPT_LANGUAGES) and signature.count(" extends ") == 1:
        found = _EXTENDS.search(signature)
        return found.group(1) if found else None
    return None


def parameters(signature: str, name: str) -> list[tuple[str, str]] | None:
    """Return each parameter's text before and after its `=` ("" if none); None if the brackets don't close."""
    opening = next(
        (at for at in word_positions(name, signature) if _OPENING_BRACKET.match(signature, at + len(name))), None
    )
    if opening is None:
        return None
    found, depth, quote, begin, equals = list[tuple[str, str]](), 0, "", signature.index("(", opening) + 1, 0
    for at in range(begin, len(signature)):
        c = signature[at]
        if quote:
            quote = "" if c == quote and signature[at - 1] != "\\" else quote
        elif c in "'\"`":
            quote = c
        elif c in "([{":
            depth += 1
        elif depth and c in ")]}":
            depth -= 1
        elif depth == 0 and c in ",)":
            before, after = (
                (signature[begin:equals], signature[equals + 1 : at]) if equals else (signature[begin:at], "")
            )
            if before.strip():
                found.append((before.strip(), after.strip()))
            if c == ")":
                return found
            begin, equals = at + 1, 0
        elif depth == 0 and c == "=" and not equals and signature[at + 1] not in "=>":
            equals = at
    return None


def directly_inside(text: str, outer: Definition, inner: Definition) -> bool:
    """Return whether `inner` is directly in `outer`: no condition or anonymous class in between."""
    at = text.rfind("\n", 0, inner.start) + 1
    width = _indentation(text, at)
    while at > outer.start:
        at = text.rfind("\n", 0, at - 1) + 1
        line = text[at : text.find("\n", at)].strip()
        if line and line[0] not in ")}]" and _indentation(text, at) < width:
            return at <= outer.body and text.find("\n", at) >= outer.start
    return False


def _indentation(text: str, at: int) -> int:
    match = _INDENTATION.match(text, at)
    return match.end() - at if match else 0


def _subjects_of_kinds(*kinds: str) -> Callable[[QuestionIndex], Iterator[str]]:
    def subjects(index: QuestionIndex) -> Iterator[str]:
        return (name for name, place in index.unique.items() if place.definition.kind in kinds)

    return subjects


def _where_question(index: QuestionIndex, name: str) -> Question | str:
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    if path_reveals(name, place.source.path):
        return "answered by the question itself"
    text = f"In which file is the {place.definition.kind} {name} defined?"
    return _question("where", text, f"{place.source.path}, in {{snippet}}", place)


def _signature_question(index: QuestionIndex, name: str) -> Question | str:
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    source, start = place.source, place.definition.start
    alone = source.language != "C" or begins_statement(source.text, start)
    signature = _whole_signature(place) if alone else ""
    found = parameters(signature, name) if signature else None
    if found is None:
        return "signature can't be told from its text"
    if not [one for one, _ in found if one not in _RECEIVERS]:
        return "signature without parameters"
    made = _question("signature", f"What is the signature of {name}?", f"{signature}, in {{snippet}}", place)
    return _shown_whole(made, place)


def _default_question(index: QuestionIndex, name: str) -> Question | str:
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    found = parameters(_whole_signature(place), name) or []
    names = ((_PARAMETER.match(before), value) for before, value in found)
    defaults = [(one.group(), value) for one, value in names if one and value not in ("", "None", "undefined")]
    if not defaults:
        return "no parameter with a default that says something"
    parameter, value = defaults[-1]
    text = f"What is the default of the parameter {parameter} of {name}?"
    return _shown_whole(_question("default", text, f"{value}, in {{snippet}}", place), place)


def _owner_question(index: QuestionIndex, name: str) -> Question | str:
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    owner = _owner_name(index, place)
    if owner is None:
        return "what holds the method can't be told from its text"
    if normalize_name(owner) in normalize_name(name):
        return "answered by the question itself"
    made = _question("owner", f"Which type has the method {name}?", f"{owner}, in {{snippet}}", place)
    holder = index.owner(place)
    if holder is None:
        return made
    heading = place.source.text[holder.start : holder.body]
    at = holder.start + next(word_positions(owner, heading), 0)  # both must be shown
    return replace(made, needs=(*made.needs, (place.source.path, at)))


def _owner_name(index: QuestionIndex, place: SourceDefinition) -> str | None:
    source, one = place.source, place.definition
    if source.language == "Go":
        receiver = _RECEIVER.match(one.signature)
        return receiver.group(1) if receiver else None
    owner = index.owner(place)
    if owner is None or source.language not in _OWNER_LANGUAGES or owner.kind not in CLASSES:
        return None
    return owner.name if directly_inside(source.text, owner, one) else None


def _base_question(index: QuestionIndex, name: str) -> Question | str:
    place = sole_definition(index, name)
    if isinstance(place, str):
        return place
    base = base_of(place)
    if base is None:
        return "class doesn't extend exactly one other"
    if normalize_name(base.rpartition(".")[2]) in normalize_name(name):
        return "answered by the question itself"
    return _question("base", f"Which class does {name} extend?", f"{base}, in {{snippet}}", place)


def _whole_signature(place: SourceDefinition) -> str:
    """Return the signature without its final punctuation; empty if it was truncated or contains a comment."""
    signature = place.definition.signature.rstrip()
    if len(signature) > _MAX_SIGNATURE_CHARACTERS or any(mark in signature for mark in _COMMENT_MARKS):
        return ""
    return signature.removesuffix(":").removesuffix("=").removesuffix(";").rstrip()


def _question(kind: str, text: str, answer: str, place: SourceDefinition) -> Question:
    return Question(kind, text, answer, ((place.source.path, name_position(place)),))


def _shown_whole(question: Question, place: SourceDefinition) -> Question:
    """Return the question with the end of the definition's signature among what must be shown."""
    one, text = place.definition, place.source.text
    end = one.start + len(text[one.start : one.body].rstrip()) - 1
    return replace(question, needs=(*question.needs, (place.source.path, max(end, question.needs[0][1]))))


def _default_subjects(index: QuestionIndex) -> Iterator[str]:
    asked = ("Python", *SCRIPT_LANGUAGES)
    return (name for name in _subjects_of_kinds(*FUNCTIONS)(index) if index.unique[name].source.language in asked)


NAME_KINDS = (
    QuestionKind(
        "where", _subjects_of_kinds("macro", "type", "message", "service", *FUNCTIONS, *CLASSES), _where_question
    ),
    QuestionKind("signature", _subjects_of_kinds(*FUNCTIONS), _signature_question),
    QuestionKind("default", _default_subjects, _default_question),
    QuestionKind("owner", _subjects_of_kinds("method"), _owner_question),
    QuestionKind("base", _subjects_of_kinds("class"), _base_question),
)
