"""Extracts the features of a text: tokens, rows, cuts, names, outline. Done once for each blob, by any process.

A job takes plain text and gives one `bytes`, which can be cached and sent between processes. Texts are redacted here,
before anything else sees them. The result doesn't depend on the path, so a file that was moved is not read again.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrepo.data.diff import (
    Hunk,
    added_row_ranges,
    diff_hunks,
    enclosing_row,
    is_formatting,
    rows_around,
    title_section,
)
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.text import Int32Array, TokenizedText, token_boundaries
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.redaction.redactor import RedactedText, RedactionFinding, Redactor
from longrepo.repository.grammars import GRAMMARS
from longrepo.repository.languages import PROSE_LANGUAGES, language_of
from longrepo.repository.outline import OUTLINE_VERSION, Outline, build_outline
from longrepo.utils.hashing import line_hash, name_hash


@dataclass(frozen=True)
class Features:
    """A text and facts about it: `findings` [[kind, line]…]; for a step also `message` (tokens of " id8 message\\n")
    and `formatting` (only white space differs); for a window `spans` (where the wanted rows are in it); for what a
    commit added, `added`. Both are [[first row, last row]…], the last excluded. For a step and an addition also `size`,
    the characters of the whole file."""

    text: TokenizedText
    facts: dict[str, Any]


def unpack_features(data: bytes, path: str, path_ids: Int32Array) -> Features:
    """Return a result of `FeatureExtractor.extract` as the text of a path; `data` is not kept alive."""
    arrays, about = _unpack_arrays(data)
    text = arrays["text"].tobytes().decode("utf-8", "surrogatepass")
    sizes = np.cumsum(arrays["sizes"], dtype=np.int32)
    of = TokenizedText(
        path=path,
        language=about.pop("language"),
        text=text,
        ids=arrays["ids"].astype(np.int32),
        starts=sizes - arrays["sizes"].astype(np.int32),
        rows=np.cumsum(arrays["rows"], dtype=np.int32),
        row_hashes=arrays["row_hashes"].copy(),
        cuts=arrays["cuts"].copy(),
        names=arrays["names"].copy(),
        name_tokens=np.cumsum(arrays["name_tokens"], dtype=np.int32),
        depth=arrays["depth"].copy(),
        weights=arrays["weights"].copy() if "weights" in arrays else None,
        defines=arrays["defines"].copy(),
        path_ids=path_ids,
        outline_json=arrays["outline"].tobytes().decode("utf-8", "surrogatepass"),
        ends=about.pop("ends", True),
    )
    return Features(of, about)


def pack_skip_reason(reason: str) -> bytes:
    """Return the result for a text that isn't used."""
    return pack_arrays({}, {"left out": reason})


def skip_reason(data: bytes) -> str:
    """Return the reason why a text isn't used, "" if it is."""
    return str(json.loads(data[: data.index(b"\n")])[1].get("left out", "")) if data.startswith(b"[[], ") else ""


def is_still_valid(data: bytes, redactor: Redactor | None) -> bool:
    """Whether a cached result hides exactly those names that are known to be people's now."""
    if redactor is None:
        return True
    arrays, _ = _unpack_arrays(data)
    candidates = arrays["candidates"].tolist() if arrays else []
    return not candidates or list(redactor.current_names(candidates)) == arrays["redacted_names"].tolist()


def narrow_dtype(values: NDArray[Any]) -> NDArray[Any]:
    """Return non-negative numbers in the smallest type that holds them."""
    most = int(values.max()) if len(values) else 0
    return values.astype(np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32)


def pack_arrays(arrays: dict[str, NDArray[Any]], about: dict[str, Any]) -> bytes:
    """Return arrays as bytes, after a line of JSON that describes them; each begins at a multiple of 8 bytes."""
    layout = [[name, array.dtype.str, len(array)] for name, array in arrays.items()]
    head = json.dumps([layout, about], ensure_ascii=True).encode() + b"\n"
    parts = [head, b" " * (-len(head) % 8)]
    for array in arrays.values():
        parts += [array.tobytes(), b"\0" * (-array.nbytes % 8)]
    return b"".join(parts)


def _unpack_arrays(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    end = data.index(b"\n") + 1
    layout, about = json.loads(data[:end])
    at = end + -end % 8
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype, count in layout:
        arrays[name] = np.frombuffer(data, dtype, count, at)
        at += arrays[name].nbytes + -arrays[name].nbytes % 8
    return arrays, about


FEATURES_VERSION = f"12.{OUTLINE_VERSION}"
_NAME_PATTERN = re.compile(r"[^\W\d]\w+")  # names have two letters or more, of any script
# What languages allow in a name beyond letters, digits and underscores.
_NAME_PATTERNS = {
    language: re.compile(pattern)
    for pattern, languages in {
        r"[^\W\d](?:[\w*+!?<>=&%-]*[\w*+!?])": "Clojure|Common Lisp|Emacs Lisp|Scheme|Racket|Fennel|Hy|Janet",
        r"[^\W\d](?:[\w-]*\w)": "Shell|Fish|PowerShell|Makefile|Terraform|COBOL|Batch|Perl6",
        r"[^\W\d](?:[\w'-]*[\w'])": "Nix",
        r"[^\W\d]\w+(?:[?!](?!=))?": "Ruby|Elixir|Crystal",
        r"[^\W\d]\w+(?:!+(?!=))?": "Julia",
        r"[^\W\d]\w+'*": "Haskell|OCaml|F#|Elm|PureScript|Agda|Idris|Lean|Coq|Standard ML",
        r"[^\W\d](?:[\w.]*\w)": "R|S",
        r"(?:[^\W\d]|\$)[\w$]+": "JavaScript|TypeScript|Java|Vue|Svelte",
    }.items()
    for language in languages.split("|")
}
_NAME_QUALIFIER = re.compile(r".*(?:\.|::|[#/:])")
_MULTILINE_SECRET_MARKS = ("PRIVATE KEY", "Private-Lines:")
_CONTEXT_CHARACTERS = 36_000  # read of a file around an addition: more than a sequence holds before it
_MAX_CACHED_NAMES = 100_000  # names whose hashes are cached
_MESSAGE_CHARACTERS = 400  # of a longer message the lines beyond are omitted
_LINES_ABOVE = 6  # lines above a part that are redacted with it


@dataclass(frozen=True)
class FileJob:
    """A file as it is. `path` only determines the language, unless `language` is given."""

    path: str
    text: str
    language: str = ""


@dataclass(frozen=True)
class AddedJob:
    """A file before and after a commit, to read the lines that it added."""

    path: str
    before: str
    after: str
    language: str = ""


@dataclass(frozen=True)
class StepJob:
    """A file's change by a commit."""

    path: str
    commit: str
    message: str
    before: str
    after: str
    language: str = ""


@dataclass(frozen=True)
class WindowJob:
    """About `characters` of a file around spans of rows (the last of each excluded), in whole lines: all spans, and the
    rows around them, or as many of the first as fit."""

    path: str
    text: str
    spans: tuple[tuple[int, int], ...]
    characters: int
    language: str = ""


Job = FileJob | AddedJob | StepJob | WindowJob


class FeatureExtractor:
    """Extracts the features of jobs. `redactor` None leaves texts as they are."""

    def __init__(self, tokenizer: RepoTokenizer, redactor: Redactor | None, context_weight: float) -> None:
        self._tokenizer = tokenizer
        self._redactor = redactor
        self._context = context_weight
        self._hashes = _NameHashes()

    def extract(self, jobs: Sequence[Job]) -> list[bytes]:
        """Return one result for each job, in order."""
        read = [self._read(job) for job in jobs]
        encoded = self._tokenizer.encode_many(text for text, _, _ in read)
        return [self._pack(job, *one, *tokens) for job, one, tokens in zip(jobs, read, encoded, strict=True)]

    def _read(self, job: Job) -> tuple[str, RedactedText, dict[str, Any]]:
        if isinstance(job, FileJob):
            redacted = self._redact(job.text, job.language or language_of(job.path, job.text))
            return redacted.text, redacted, {}
        if isinstance(job, AddedJob):
            return self._added(job)
        if isinstance(job, StepJob):
            return self._step(job)
        return self._window(job)

    def _redact(self, text: str, language: str) -> RedactedText:
        return self._redactor.text(text, language) if self._redactor else RedactedText(text, (), (), ())

    def _lines(self, lines: Sequence[str], first: int, own: Sequence[str], language: str) -> RedactedText:
        """Redact the lines `own`, which begin at row `first` of a text, together with a few lines above them, as a
        value may be below its name. Findings are those in `own`, with the text's line numbers."""
        top = max(0, first - _LINES_ABOVE)
        redacted = self._redact("\n".join([*lines[top:first], *own]), language)
        kept = redacted.text.split("\n")[first - top :]
        findings = tuple(
            RedactionFinding(one.kind, top + one.line) for one in redacted.findings if one.line > first - top
        )
        return RedactedText("\n".join(kept), findings, redacted.candidates, redacted.names)

    def _hunk(self, hunk: Hunk, before: Sequence[str], after: Sequence[str], language: str) -> tuple[RedactedText, ...]:
        """Redact the rows of a hunk as they are after and as they were before, separately, as the value below a name
        may differ."""
        return tuple(
            self._lines(lines, first, [row[1:] for row in hunk.rows if row[0] in f" {sign}"], language)
            for sign, lines, first in (("+", after, hunk.new), ("-", before, hunk.old))
        )

    def _step(self, job: StepJob) -> tuple[str, RedactedText, dict[str, Any]]:
        language = job.language or language_of(job.path, job.after)
        message = (
            self._redactor.message(job.message) if self._redactor else RedactedText(job.message.strip(), (), (), ())
        )
        parts, before, after = [message], job.before, job.after
        if whole := _may_hold_multiline_secret(before) or _may_hold_multiline_secret(after):
            parts += [self._redact(before, language), self._redact(after, language)]
            before, after = (part.text for part in parts[1:])
        found = diff_hunks(before, after)
        if formatting := is_formatting(before, after, found, language):
            found = []
        old, new = (text.split("\n") if found else [] for text in (before, after))
        rows: list[str] = []
        for hunk in found:
            if (section := enclosing_row(old, hunk)) is not None:
                line = self._lines(old, section, [old[section]], language) if not whole else None
                hunk = replace(hunk, section=(line.text if line else old[section]).strip())
                parts += [line] if line else []
            rows.append(hunk.title)
            if whole:
                rows += hunk.rows
                continue
            sides = self._hunk(hunk, old, new, language)
            parts += sides
            texts = {sign: iter(side.text.split("\n")) for sign, side in zip("+-", sides, strict=True)}
            for row in hunk.rows:
                redacted = [next(texts[sign]) for sign in "+-" if row[0] in f" {sign}"]
                rows.append(row[0] + next((text for text in redacted if text != row[1:]), row[1:]))
        head = f" {job.commit[:8]} {_shortened(message.text)}\n"
        text = head + "\n".join(rows) + "\n" if rows else ""
        facts = {"head": len(head), "formatting": formatting, "size": max(len(job.before), len(job.after))}
        return text, _join_redacted(text, parts), facts

    def _added(self, job: AddedJob) -> tuple[str, RedactedText, dict[str, Any]]:
        added = added_row_ranges(job.before, job.after)
        language = job.language or language_of(job.path, job.after)
        redacted, first, last, ends = self._around(
            language, job.after, added[0][0] if added else 0, _CONTEXT_CHARACTERS
        )
        runs = [[max(one, first) - first, min(end, last) - first] for one, end in added if one < last and end > first]
        return redacted.text, redacted, {"added": runs, "size": len(job.after), "ends": ends}

    def _window(self, job: WindowJob) -> tuple[str, RedactedText, dict[str, Any]]:
        language = job.language or language_of(job.path, job.text)
        lines = job.text.split("\n")
        regions = rows_around([len(line) + 1 for line in lines], job.spans, job.characters)
        if _may_hold_multiline_secret(job.text):
            redacted = self._redact(job.text, language)
            hidden = redacted.text.split("\n")
            texts = ["\n".join(hidden[first:last]) for first, last in regions]
            parts = [redacted]
        else:
            parts = [self._lines(lines, first, lines[first:last], language) for first, last in regions]
            texts = [part.text for part in parts]
        ends = regions[-1][1] == len(lines)
        text = "\n".join(texts) + ("" if ends else "\n")
        spans, at = [], 0
        for first, last in regions:
            inside = [(max(one, first), min(end, last)) for one, end in job.spans if one < last and end > first]
            spans += [[one - first + at, end - first + at] for one, end in inside]
            at += last - first
        return text, _join_redacted(text, parts), {"spans": spans, "ends": ends}

    def _around(self, language: str, text: str, row: int, characters: int) -> tuple[RedactedText, int, int, bool]:
        """Return about `characters` characters of a text around a row, the rows they are, and whether it ends there."""
        lines = text.split("\n")
        first, last = _rows_around(lines, row, characters)
        if _may_hold_multiline_secret(text):
            redacted = self._redact(text, language)
            kept = "\n".join(redacted.text.split("\n")[first:last])
        else:
            redacted = self._lines(lines, first, lines[first:last], language)
            kept = redacted.text
        ends = last == len(lines)
        return replace(redacted, text=kept + ("" if ends else "\n")), first, last, ends

    def _pack(
        self, job: Job, text: str, redacted: RedactedText, facts: dict[str, Any], ids: Int32Array, starts: Int32Array
    ) -> bytes:
        language = job.language or language_of(job.path, job.after if isinstance(job, StepJob) else text)
        is_step = isinstance(job, StepJob)
        found = Outline((), (), (), (), ()) if is_step else build_outline(text, language)
        lines = text.split("\n")
        line_starts = np.cumsum([0, *(len(line) + 1 for line in lines[:-1])])
        rows = token_boundaries(starts, len(text), line_starts)
        if is_step:
            facts = {**facts, **self._hunk_facts(lines, facts["head"], starts, text)}
            weights = facts.pop("weights")
            found = replace(found, cuts=tuple(facts.pop("titles")))
        named = [(match.group(), match.start()) for match in _name_pattern(language).finditer(text)]
        names = np.fromiter(map(self._hashes.__getitem__, (name for name, _ in named)), np.uint32, len(named))
        name_tokens = starts.searchsorted([at for _, at in named], "right") - 1 if named else np.zeros(0)
        cuts = np.unique(token_boundaries(starts, len(text), found.cuts))
        arrays: dict[str, NDArray[Any]] = {
            "text": np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8),
            "outline": np.frombuffer(found.to_json().encode("utf-8", "surrogatepass"), np.uint8),
            "ids": narrow_dtype(ids),
            "sizes": narrow_dtype(np.diff(starts, append=np.int32(len(text)))),
            "rows": narrow_dtype(np.diff(rows, prepend=np.int32(0))),
            "row_hashes": np.array([line_hash(line) for line in _line_contents(lines, is_step)], np.uint64),
            "cuts": cuts[(cuts > 0) & (cuts < len(ids))].astype(np.int32),
            "names": names,
            "name_tokens": narrow_dtype(np.diff(name_tokens, prepend=0)),
            "defines": np.unique(
                np.array([self._hashes[_used_name(one.name, language)] for one in found.definitions], np.uint32)
            ),
            "depth": _depths(text, language, found, starts, rows, is_step),
            "candidates": np.array(redacted.candidates, np.uint32),
            "redacted_names": np.array(redacted.names, np.uint64),
        }
        if is_step:
            arrays["weights"] = weights
        about = {**facts, "language": language, "findings": [[one.kind, one.line] for one in redacted.findings]}
        return pack_arrays(arrays, about)

    def _hunk_facts(self, lines: list[str], head: int, starts: Int32Array, text: str) -> dict[str, Any]:
        """Return the loss weight of each token (full for the message and added rows, less for the rest), the message's
        tokens, and the characters at which hunks begin."""
        bounds, weights = [0, len(" 12345678 ")], [self._context, TARGET_WEIGHT]
        at, titles = 0, []
        for line in lines:
            if at >= head:
                titles += [at] if line.startswith("@@") else []
                bounds.append(at)
                weights.append(TARGET_WEIGHT if line.startswith("+") else self._context)
            at += len(line) + 1
        per_token = np.array(weights, np.float32)[np.searchsorted(bounds, starts, side="right") - 1]
        message = int(token_boundaries(starts, len(text), [head])[0])
        return {"weights": per_token, "message": message, "titles": titles}


def _depths(
    text: str, language: str, found: Outline, starts: Int32Array, rows: Int32Array, is_step: bool
) -> NDArray[np.uint8]:
    """Return how many bodies each token is in; in a change, and in code without a grammar, steps of indentation."""
    if not is_step and (language in GRAMMARS or language in PROSE_LANGUAGES):
        return _token_depths(found.bodies, starts, len(text))
    return _indent_depths([line[is_step:] for line in text.split("\n")], rows, len(starts))


def _indent_depths(lines: list[str], rows: Int32Array, tokens: int) -> NDArray[np.uint8]:
    texts = [line.expandtabs(4) for line in lines]
    widths = np.array([len(text) - len(text.lstrip()) if text.strip() else 0 for text in texts])
    unit = max(2, int(min(widths[widths > 1], default=4)))
    return np.repeat(np.clip(widths // unit, 0, 255), np.diff(rows, append=tokens)).astype(np.uint8)


def _may_hold_multiline_secret(text: str) -> bool:
    """Whether a text may hold a secret of several lines, so that it must be redacted as a whole."""
    return any(mark in text for mark in _MULTILINE_SECRET_MARKS)


def _join_redacted(text: str, parts: Sequence[RedactedText]) -> RedactedText:
    """Return a text made of redacted parts, with the findings of all."""
    return RedactedText(
        text,
        tuple(finding for part in parts for finding in part.findings),
        tuple(sorted({one for part in parts for one in part.candidates})),
        tuple(sorted({one for part in parts for one in part.names})),
    )


def _name_pattern(language: str) -> re.Pattern[str]:
    return _NAME_PATTERNS.get(language, _NAME_PATTERN)


def _used_name(name: str, language: str) -> str:
    """Return a definition's name as uses have it: `empty?` for `Cart.empty?`, `total` for Ruby's `total=`."""
    pattern = _name_pattern(language)
    short = name.strip("`~=")
    if language != "R":
        short = _NAME_QUALIFIER.sub("", short)
    return short if pattern.fullmatch(short) else name


def defined_name(name: str, language: str) -> int:
    """Return the hash of a definition's name, as `TokenizedText.names` has it where it is used."""
    return name_hash(_used_name(name, language))


class _NameHashes(dict[str, int]):
    def __missing__(self, name: str) -> int:
        if len(self) > _MAX_CACHED_NAMES:
            self.clear()
        found = self[name] = name_hash(name)
        return found


def inline_text(text: str, ids: Int32Array) -> TokenizedText:
    """Return tokens that belong to no file, with the names of a text, all placed at the first token."""
    hashes = _NameHashes()
    names = np.array([hashes[name] for name in _NAME_PATTERN.findall(text)], np.uint32)
    nowhere = np.zeros(len(ids), np.int32)
    return TokenizedText("", "Other", text, ids, nowhere, names=names, name_tokens=np.zeros(len(names), np.int32))


def _shortened(message: str) -> str:
    """Return a message without the lines beyond _MESSAGE_CHARACTERS."""
    message = message.replace("\r\n", "\n").strip()
    if len(message) <= _MESSAGE_CHARACTERS:
        return message
    end = message.rfind("\n", 0, _MESSAGE_CHARACTERS)
    return message[: end if end > 0 else _MESSAGE_CHARACTERS].rstrip()


def _line_contents(lines: list[str], is_step: bool) -> list[str]:
    """Return the lines of a text; those of a change with and without their sign, or their "@@"."""
    return [*lines, *(title_section(line) or line[1:] for line in lines)] if is_step else lines


def _token_depths(bodies: Sequence[tuple[int, int]], starts: Int32Array, length: int) -> NDArray[np.uint8]:
    steps = np.zeros(len(starts) + 1, np.int32)
    if bodies:
        spans = np.array(bodies)
        np.add.at(steps, token_boundaries(starts, length, spans[:, 0]), 1)
        np.add.at(steps, token_boundaries(starts, length, spans[:, 1]), -1)
    return np.clip(np.cumsum(steps[:-1]), 0, 255).astype(np.uint8)


def _rows_around(lines: Sequence[str], row: int, characters: int) -> tuple[int, int]:
    """Return rows first..last around a row in about `characters`, a third of them below it. They begin at an unindented
    line after a blank one if there is one nearby."""
    sizes = np.cumsum([0, *(len(line) + 1 for line in lines)])
    if sizes[-1] <= characters:
        return 0, len(lines)
    row = min(row, len(lines) - 1)
    last = max(row + 1, int(np.searchsorted(sizes, sizes[row] + characters // 3, "right")) - 1)
    first = bisect_left(sizes, max(0, sizes[min(last, len(lines))] - characters))
    for at in range(first, min(row, first + (row - first) // 3) + 1):
        if at and lines[at][:1].strip() and not lines[at - 1].strip():
            return at, min(last, len(lines))
    return min(first, row), min(last, len(lines))
