"""Controls: what tuning changed elsewhere than in the repository's own held-out lines.

Neutral code is the same for everybody (`neutral/texts.json`): what tuning made the model forget. Another repository's
new lines tell whether a gain is the repository's own. `change_rows` puts all of them, and retrieval without tuning,
side by side in percent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.resources import files
from itertools import islice

import numpy as np

from longrepo.data.held_out import TargetChooser, commit_candidates
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.splits import MAX_HELD_OUT_COMMITS, usable_commits
from longrepo.engines.base import Engine
from longrepo.engines.known_bases import release_month
from longrepo.errors import InputError
from longrepo.evaluation.blocks import EvalData, HeldOutBlock, blocks_of_commits
from longrepo.evaluation.context_loss import CROSS_FILE_CLASSES, TargetSpan, lay_out_prompt
from longrepo.evaluation.results import FigureParts
from longrepo.evaluation.scoring import IdArray, Measurement, MeasurementRow, Measurements, score_both
from longrepo.evaluation.tasks import TASK_MEASURES
from longrepo.repository.repository import Repository
from longrepo.utils.hashing import line_hash
from longrepo.utils.hub import EMBEDDED

CHANGE = "change"  # the measure of figures in percent of the base's loss
CHANGE_TEXTS = ("own", "cross_file", "task", "control", "other", "neutral")
NEUTRAL_TOKENS = 512  # of a piece, at most
_MAX_SHOWN = 0.5  # share of a piece's lines that training may show


@dataclass(frozen=True)
class NeutralText:
    """A piece of a public project: `line` is its first in the file `path` of that version."""

    language: str
    project: str
    version: str
    license: str
    path: str
    line: int
    text: str

    @property
    def key(self) -> str:
        """A key that no other piece has."""
        return f"{self.project}:{self.path}:{self.line}"


def neutral_texts() -> list[NeutralText]:
    """Return the pieces of neutral code, of each language in turn. NOTICE beside them has the licenses."""
    content = files("longrepo.evaluation").joinpath("neutral/texts.json").read_text(encoding="utf-8")
    return [NeutralText(**one) for one in json.loads(content)]


def neutral_measurements(data: EvalData, wanted: int, tokens: int = NEUTRAL_TOKENS) -> Iterator[Measurement]:
    """Yield a measurement for each of the first `wanted` pieces: at most `tokens` tokens of plain text, without marks.
    Pieces that training shows are left out, with a note."""
    shown: list[str] = []
    for one in islice(neutral_texts(), wanted):
        lines = np.array([line_hash(line) for line in one.text.split("\n")], np.uint64)
        lines = lines[lines != 0]
        if (~data.seen.shown.fresh(lines)).mean() > _MAX_SHOWN:
            shown.append(one.project)
            continue
        ids = np.array(data.tokenizer.encode(one.text)[:tokens], np.int32)
        yield Measurement(f"neutral/{tokens}/{one.key}", partial(_measure_neutral, one, ids), tokens)
    if shown:
        names = ", ".join(dict.fromkeys(shown))
        data.notes.append(f"{len(shown)} pieces of neutral code ({names}) are left out: training shows their lines")


def _measure_neutral(one: NeutralText, ids: IdArray, engine: Engine) -> Measurements:
    both = score_both(engine, ids, np.arange(len(ids)) > 0)
    rows = [
        MeasurementRow("neutral", "loss", {"language": name}, one.project, len(ids) - 1, *both.sums())
        for name in (one.language, "all")
    ]
    return Measurements(rows)


@dataclass(frozen=True)
class ControlRepository:
    """Another repository, and blocks of lines that its newest commits add."""

    trees: RepoTrees
    blocks: Sequence[HeldOutBlock]


def choose_control(trees: RepoTrees, data: EvalData, wanted: int, size: int, seed: int) -> ControlRepository:
    """Choose up to `wanted` blocks of at most `size` tokens that the newest commits add and training doesn't show.

    Raises InputError if there is none.
    """
    repository = trees.repository
    found = usable_commits(repository, repository.resolve(), None, MAX_HELD_OUT_COMMITS, trees.reader.cache)
    records = [record for record in found if record.parent]
    chooser = TargetChooser(trees.reader, data.seen.shown, size, seed)
    targets = chooser.choose({"control": commit_candidates("control", records)}, {"control": wanted})["control"]
    if not targets and wanted:
        raise InputError(
            f"--control {repository.path}: its {len(records)} commits with a parent add no lines to measure; give a "
            "repository with more history"
        )
    blocks = sorted(blocks_of_commits(targets, records, trees, ""), key=lambda one: (one.before, one.key))
    return ControlRepository(trees, blocks)


def control_measurements(data: EvalData, control: ControlRepository, length: int, seed: int) -> Iterator[Measurement]:
    """Yield a measurement for each of another repository's blocks, behind its own related files."""
    name = control.trees.name
    for held in control.blocks:
        key = f"control/{length}/{name}/{held.key}"
        yield Measurement(key, partial(_measure_control, data, held, length, seed), length)


def _measure_control(data: EvalData, held: HeldOutBlock, length: int, seed: int, engine: Engine) -> Measurements:
    layout = lay_out_prompt(TargetSpan.of_block(held), length, "related", seed, data.tokenizer)
    if layout is None:
        return Measurements()
    scored = held.scored
    wanted = np.zeros(len(layout.ids), bool)
    wanted[layout.start :] = scored
    both = score_both(engine, layout.ids, wanted).at(wanted)
    parts: FigureParts = {"repository": held.trees.name, "length": length}
    return Measurements([MeasurementRow("control", "loss", parts, held.group, int(scored.sum()), *both.sums())])


def change_rows(measured: Measurements, length: int, retrieval: bool = True) -> Iterator[MeasurementRow]:
    """Yield the rows in percent of one measurement at a length: sums over the base's nats in place of tokens, so that
    the base's mean is 100 %. `retrieval`: also tuning against the base with what BM25 finds."""
    contexts = {row.parts["context"]: row for row in measured.rows if _at(row, "context", length)}
    for row in measured.rows:
        if row.metric == "loss" and (task := whole_task(row.measure, row.parts)):  # at a length of its own
            yield _in_percent(row, {"text": "task", "task": task})
        if row.metric != "loss" or row.parts.get("length", length) != length:
            continue
        if row.measure == "context" and row.parts["context"] == "related":
            yield _in_percent(row, {"text": "own"})
        elif row.measure == "line" and (row.parts["class"] in CROSS_FILE_CLASSES) and _is_related(row):
            yield _in_percent(row, {"text": "cross_file"})
        elif row.measure == "neutral":
            yield _in_percent(row, {"text": "neutral", "language": row.parts["language"]})
        elif row.measure in ("control", "other"):
            yield _in_percent(row, {"text": row.measure, "repository": row.parts["repository"]})
    if retrieval and (found := contexts.get("retrieved")):
        for context in ("none", "related", "retrieved"):
            if tuned := contexts.get(context):
                against = MeasurementRow(**{**vars(tuned), "base": found.base})
                yield _in_percent(against, {"text": "own", "base": "retrieved", "tuned": context})


def whole_task(measure: str, parts: FigureParts) -> str | None:
    """Return the name of a task that a loss is all of: its measure, or of calls what is asked for. None for a part of
    one, and for what is no task."""
    if measure == "api_use":
        return str(parts["what"]) if parts["place"] == "all" else None
    whole = measure in TASK_MEASURES and parts.get("scope", "all") == "all"
    return measure if whole else None


def _at(row: MeasurementRow, measure: str, length: int) -> bool:
    return row.measure == measure and row.metric == "loss" and row.parts["length"] == length


def _is_related(row: MeasurementRow) -> bool:
    return row.parts["context"] == "related"


def _in_percent(row: MeasurementRow, parts: FigureParts) -> MeasurementRow:
    return MeasurementRow(CHANGE, "percent", parts, row.group, row.base, row.base, row.tuned)


def age_notes(model: str, blocks: Sequence[HeldOutBlock], split: str) -> Iterator[str]:
    """Yield what is to be said of held-out commits that are older than the base: it may have seen them."""
    by_repository: dict[str, tuple[Repository, set[str]]] = {}
    for one in blocks:
        if one.commit:
            by_repository.setdefault(one.trees.name, (one.trees.repository, set()))[1].add(one.commit)
    if model == EMBEDDED:  # its sources are listed
        return
    month = release_month(model)
    for name, (repository, commits) in by_repository.items():
        days = repository.days(sorted(commits)).values()
        if month is None:
            yield (
                f"{name}: when {model} was published isn't known here: it may have seen its {split} commits, which are "
                f"of {min(days)} to {max(days)}"
            )
        elif older := sum(day[:7] <= month for day in days):
            yield (
                f"{name}: {older} of {len(days)} {split} commits aren't younger than {model} (published in "
                f"{_month_name(month)}): it may have seen them"
            )


def _month_name(month: str) -> str:
    return date.fromisoformat(f"{month}-01").strftime("%B %Y")
