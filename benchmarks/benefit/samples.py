"""The held-out lines every arm is measured on, in each layout, laid out once for each repository.

They are chosen and laid out by `longrepo.evaluation`, on what the sequences of `ours` never show; `plain` shows less.
Validation chooses learning rates and layouts, test gives the figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from arms import LENGTHS, OURS, Arm, folder_of

from longrepo.data.dataset import SequenceFile
from longrepo.data.marks import Layout, Marks
from longrepo.data.metadata import tokenizer_of
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.evaluation.blocks import HeldOutBlock
from longrepo.evaluation.context_loss import (
    SHORT_CONTEXT_TOKENS,
    LineClassifier,
    PromptLayout,
    TargetSpan,
    lay_out_prompt,
    lay_out_short_prompt,
)
from longrepo.evaluation.run import max_block_tokens, open_eval_data
from longrepo.utils.files import write_text_file
from longrepo.utils.progress import NoProgress

BLOCKS = {"validation": 48, "test": 48}  # held-out blocks of lines at most, from as many commits as possible
CHOSEN_AT = LENGTHS[0]  # tokens, of related context: where the layout is chosen
SEED = 0
LAYOUTS = ("marks", "text", "native", "comment", "bare")


@dataclass(frozen=True)
class Sample:
    """A block behind a context: `ids` `[tokens]`; `lines`: (first token, end, class) of each scored line in it."""

    block: str
    group: str
    context: str
    length: int
    ids: list[int]
    lines: list[tuple[int, int, str]]


def layouts_of(arm: Arm) -> tuple[str, ...]:
    """The layouts an arm is tried in, its home first: that of its training, or the base's own. Plain texts are tried
    where no training sequence has marks."""
    plain = ("native", "comment", "bare")
    if arm.name == "plain":
        return plain
    if arm.name == "base":
        return (*plain, "marks")
    return ("marks" if arm.marks else "text"), "native"


def samples_of(work: Path, repository: Path, split: str, layout: str) -> list[Sample]:
    """The samples of a split in a layout."""
    place = folder_of(work, "samples") / repository.name
    return [Sample(**one) for one in json.loads((place / f"{split}-{layout}.json").read_text())]


def about(work: Path, repository: Path) -> dict[str, Any]:
    """How many blocks and commits there are, and what was noted."""
    found: dict[str, Any] = json.loads((folder_of(work, "samples") / repository.name / "done").read_text())
    return found


def make_samples(work: Path, repository: Path, ours: SequenceFile) -> None:
    """Choose blocks and lay them out, where that isn't done; `ours`: the sequences whose lines count as seen."""
    place = folder_of(work, "samples") / repository.name
    if (place / "done").exists():
        return
    tokenizer = tokenizer_of(ours.header)
    said: dict[str, Any] = {}
    with open_eval_data(ours, tokenizer, OURS.prepared_with(), [repository], [], NoProgress()) as (material, _):
        for split, blocks in BLOCKS.items():
            of_split = replace(material, held=[], notes=[])
            of_split.choose(split, blocks, max_block_tokens(LENGTHS), SEED)
            said[split] = {**of_split.facts(), "notes": of_split.notes}
            found: dict[str, list[dict[str, Any]]] = {layout: [] for layout in LAYOUTS}
            for held in of_split.held:
                for layout in LAYOUTS:
                    found[layout] += [asdict(one) for one in _laid(held, layout, tokenizer, split)]
            for layout, samples in found.items():
                write_text_file(place / f"{split}-{layout}.json", json.dumps(samples))
    write_text_file(place / "done", json.dumps(said, indent=1))


def _laid(held: HeldOutBlock, layout: str, tokenizer: RepoTokenizer, split: str) -> Iterator[Sample]:
    of, classes = held.target.of, LineClassifier(held)
    rows = [(of.row_token(row), of.row_token(row + 1), classes.of(row)) for row in held.rows]
    marks = _Marks(layout, tokenizer, held).as_tokenizer()
    for context, length, found in _layouts(TargetSpan.of_block(held), marks, split):
        ids, start = _bare(found, tokenizer.end_id) if layout == "bare" else (found.ids, found.start)
        moved = start - held.target.start
        lines = [(first + moved, last + moved, name) for first, last, name in rows]
        yield Sample(held.key, held.group, context, length, ids.tolist(), lines)


def _layouts(place: TargetSpan, tokenizer: RepoTokenizer, split: str) -> Iterator[tuple[str, int, PromptLayout]]:
    """Test: all; validation: related context alone."""
    for length in LENGTHS:
        for context in ("none", "related") if split == "test" else ("related",):
            found = lay_out_prompt(place, length, context, SEED, tokenizer)
            if found is not None:
                yield context, length, found
    if split == "test":
        yield "short", SHORT_CONTEXT_TOKENS, lay_out_short_prompt(place, SHORT_CONTEXT_TOKENS, tokenizer)


class _Marks:
    """What stands before a file's path and after its text: structure tokens, their names as text, the base's own file
    separator (`native`), or a comment. All that laying out asks of a tokenizer."""

    begin_id = None

    def __init__(self, layout: str, tokenizer: RepoTokenizer, held: HeldOutBlock) -> None:
        if layout == "marks":
            self.marks = tokenizer.marks
        elif layout == "text":
            self.marks = load_tokenizer(tokenizer.name, structure_tokens="none").marks
        elif layout == "comment":
            comment = "#" if held.target.of.language == "Python" else "//"
            self.marks = Marks("native", Layout(file=comment, file_end="\n"), tokenizer.encode, {})
        else:
            own = {"<file_sep>": tokenizer.id("<file_sep>")}
            self.marks = Marks("native", Layout(file="<file_sep>", file_end=""), tokenizer.encode, own)

    def as_tokenizer(self) -> RepoTokenizer:
        """For `lay`."""
        return cast(RepoTokenizer, self)


def _bare(layout: PromptLayout, end_id: int) -> tuple[np.ndarray, int]:
    """The texts alone, an end token between files: as `plain` is trained. One stands at the front too, so that the
    same tokens have something before them as in every other layout."""
    pieces: list[np.ndarray] = []
    for place, part in enumerate(layout.parts):
        if not place or part.of is not layout.parts[place - 1].of:
            pieces.append(np.array([end_id], np.int32))
        pieces.append(part.of.ids[part.start : part.end])
    target = layout.parts[-1]
    ids = np.concatenate(pieces).astype(np.int32)
    return ids, len(ids) - (target.end - target.start)
