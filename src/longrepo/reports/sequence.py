"""One sequence in the terminal as the model sees it: marks as labels, loss weights by style and in the margin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from longrepo.reports.visible import visible
from longrepo.sequences.store import SequenceFile
from longrepo.sequences.stored_text import marks_of
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import COMMIT_END, COMMIT_START, END, FILE_END, FILE_START, SNIPPETS

_TARGET, _CONTEXT, _UNSCORED = "bold", "", "dim"
_HEADING = "bold cyan"
_LABELS = {FILE_START: "cyan", FILE_END: "cyan", COMMIT_START: "magenta", COMMIT_END: "magenta", END: "red"}
_OPENING = (FILE_START, COMMIT_START, *SNIPPETS)  # a mark that begins a line, and whose line is a heading
_TAB = 4  # columns
_NAMES = 12  # columns before a fact


@dataclass
class _Line:
    """A line on its way to the screen, and the weights of what it holds."""

    text: Text = field(default_factory=Text)
    weights: list[float] = field(default_factory=list)  # of its text and marks
    blank: float = 0.0  # of its white space
    heading: bool = False

    def margin(self) -> str:
        """█ all of it is target, ▌ a part is, ▒ context, blank not scored."""
        weights = self.weights or [self.blank]
        if all(weight == 1 for weight in weights):
            return "█"
        return "▌" if 1 in weights else "▒" if any(weights) else " "


def print_sequence(
    file: SequenceFile, row: int, phase: int, place: str, tokenizer: RepoTokenizer, console: Console
) -> None:
    """What is known of the row, a legend, and its text."""
    about = file.row(row)
    for name, value in _facts(about, phase, place):
        label = Text(name.ljust(_NAMES))
        _put(console, label, value, Text(" " * _NAMES))
    console.print()
    green = "green" if about["split"] != "train" else ""
    for line in _lines(about, tokenizer):
        margin = line.margin()
        sign = Text(f"{margin} ", green if margin in "█▌" else "")
        _put(console, sign, line.text, sign)


def _put(console: Console, before: Text, text: Text, before_rest: Text) -> None:
    """Print text wrapped to the terminal, what stands before it repeated; unwrapped where it goes to a file or pipe."""
    text.expand_tabs(_TAB)
    room = console.width - before.cell_len
    parts = text.wrap(console, room, overflow="fold") if console.is_terminal and text.cell_len > room else [text]
    for number, part in enumerate(parts):
        console.print(Text.assemble(before_rest if number else before, part), soft_wrap=True)


def _facts(about: dict[str, Any], phase: int, place: str) -> Iterator[tuple[str, Text]]:
    of = f", phase {phase}" if phase else ""
    kind = f"{about['kind']}, {about['split']}{of}, {len(about['input_ids']):,} tokens"
    yield "sequence", Text.assemble((place, "bold"), f": {kind}")
    parts = ", ".join(f"{name} {value:.2f}" for name, value in json.loads(about["difficulty_parts"]).items())
    level = f"{about['difficulty'].replace('_', ' ')}, {about['difficulty_score']:.2f}"
    yield "difficulty", Text(f"{level}{f' ({parts})' if parts else ''}")
    yield "repository", Text(f"{visible(about['repository']) or '–'}, {about['language']}")
    yield "files", Text(visible(", ".join(about["files"])) or "–")
    yield "commits", Text(", ".join(commit[:10] for commit in about["commits"]) or "–")
    yield "weights", _legend(about["loss_weights"])


def _legend(weights: list[float]) -> Text:
    between = sorted({round(weight, 4) for weight in weights} - {0.0, 1.0})
    context = f"context ({', '.join(f'{weight:g}' for weight in between)})" if between else "context"
    return Text.assemble(("█ target (1)", _TARGET), f"  ▌ in part  ▒ {context}  ", ("  not scored (0)", _UNSCORED))


def _lines(about: dict[str, Any], tokenizer: RepoTokenizer) -> Iterator[_Line]:
    line = _Line()
    for text, weight, is_mark in _pieces(about, tokenizer):
        if is_mark:
            if text in _OPENING and line.text:
                yield line
                line = _Line()
            colour = _LABELS.get(text, "green" if text in SNIPPETS else "yellow")
            line.text.append(text, f"{colour} reverse")
            line.weights.append(weight)
            line.heading = text in _OPENING
            continue
        for number, part in enumerate(text.split("\n")):
            if number:
                yield line
                line = _Line(blank=weight)
            if part:
                style = _TARGET if weight == 1 else _CONTEXT if weight else _UNSCORED
                line.text.append(visible(part), _HEADING if line.heading else style)
                line.weights += [weight] if part.strip() else []
    if line.text:
        yield line


def _pieces(about: dict[str, Any], tokenizer: RepoTokenizer) -> Iterator[tuple[str, float, bool]]:
    """Stretches of text of one weight, and marks one by one."""
    ids, weights = np.array(about["input_ids"]), np.array(about["loss_weights"])
    marks = marks_of(tokenizer)[ids]
    changes = (np.diff(weights) != 0) | marks[1:] | marks[:-1]
    for part in np.split(np.arange(len(ids)), np.flatnonzero(changes) + 1):
        yield tokenizer.decode(ids[part].tolist()), float(weights[part[0]]), bool(marks[part[0]])
