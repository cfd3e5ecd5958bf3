"""What is measured on a repository's held-out commits, with an engine whose losses and words are known."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from evaluated import LENGTHS, Prepared, TwoLosses
from git_helper import git, make_repo
from small_repository import small_repository

from longrepo.data.repo_tree import RepoTree
from longrepo.data.text import TokenizedText
from longrepo.engines.base import Batch
from longrepo.engines.tiers import Tier, TieredEngine, Tiers
from longrepo.errors import InputError
from longrepo.evaluation import completion, context_loss, held_out_loss, needle, questions
from longrepo.evaluation.aggregation import make_figures, summarize_measurements
from longrepo.evaluation.blocks import EvalData
from longrepo.evaluation.context_loss import (
    CONTEXTS,
    LINE_CLASSES,
    LineClassifier,
    TargetSpan,
    lay_out_fim_prompt,
    lay_out_prompt,
    lay_out_short_prompt,
)
from longrepo.evaluation.inputs import MeasurementStore
from longrepo.evaluation.run import FULL, GLANCE, QUICK, plan_measurements, run_measurements
from longrepo.evaluation.scoring import Measurement, Measurements
from longrepo.repository.languages import language_of
from longrepo.repository.repository import Repository
from longrepo.rope.apply import NATIVE_CONTEXT

SEED = 42


def run(units: Sequence[Measurement], engine: TwoLosses) -> list[Measurements]:
    return [unit.run(engine) for unit in units]  # type: ignore[arg-type]


def test_held_out_lines_are_new_and_shown_with_the_tree_before_them(material: EvalData, shop: Prepared) -> None:
    assert material.held
    trained = "".join("".join(text.text.split()) for text in material.repositories[0].texts.values())
    for held in material.held:
        rows = held.target.of.text.split("\n")
        for row in held.rows:
            assert "".join(rows[row].split()) not in trained
        if held.commit:
            with Repository.open(shop.folder) as repository:
                assert held.before == repository.first_parents(held.commit, 2)[1]
        assert not held.scored.all() or len(held.rows) > 0


def test_contexts_differ_in_other_files_alone(material: EvalData) -> None:
    for held in material.held:
        own = defaultdict(set)
        for length in LENGTHS:
            for name in CONTEXTS:
                layout = lay_out_prompt(TargetSpan.of_block(held), length, name, SEED, material.tokenizer)
                assert layout is not None and len(layout.ids) <= length
                assert (
                    layout.ids[layout.start :].tolist()
                    == held.target.of.ids[held.target.start : held.target.end].tolist()
                )
                text = material.tokenizer.decode(layout.ids[: layout.start].tolist())
                before, _, beginning = text.rpartition("<|FILE_START|>")
                own[length].add(beginning)
                assert not before if name == "none" else before or length < max(LENGTHS)
                assert f"<|FILE_START|> {held.path}\n" not in before
        assert all(len(beginnings) == 1 for beginnings in own.values())


def test_related_context_has_what_the_file_imports(material: EvalData) -> None:
    for held in (one for one in material.held if one.path.startswith("shop/")):
        imported = re.findall(r"from shop\.(\w+) import", held.target.of.text)
        layout = lay_out_prompt(TargetSpan.of_block(held), 1024, "related", SEED, material.tokenizer)
        assert layout is not None
        assert not imported or f"shop/{imported[0]}.py" in [part.of.path for part in layout.parts]


def test_a_middle_is_asked_for_in_the_order_of_training(material: EvalData) -> None:
    held = material.held[0]
    of, row = held.target.of, held.rows[0]
    place = TargetSpan(held, of, of.row_token(row), of.row_token(row + 1))
    layout = lay_out_fim_prompt(place, 512, "related", SEED, material.tokenizer)
    assert layout is not None and len(layout.ids) <= 512
    own = material.tokenizer.decode(layout.ids.tolist()).rpartition("<|FILE_START|>")[2]
    found = re.fullmatch(r" (.+?)\n<fim_prefix>(.*)<fim_suffix>(.*)<fim_middle>", own, re.DOTALL)
    assert found and found[1] == held.path
    assert (found[2] + of.slice_text(place.at, place.end) + found[3]) in of.text


def test_losses_come_out_as_the_engine_has_them_by_every_part(material: EvalData, engine: TwoLosses) -> None:
    found = run(list(context_loss.context_measurements(material, LENGTHS, SEED)), engine)
    figures = make_figures((row for one in found for row in one.rows), SEED)
    by = defaultdict(list)
    for figure in figures:
        by[figure.measure].append(figure)
        if figure.metric == "loss":
            assert (figure.base.value, figure.tuned.value) == (2.0, 1.5), figure
            assert (figure.difference.low, figure.difference.high) == (-0.5, -0.5)
    assert [(one.parts["length"], one.parts["context"]) for one in by["context"]] == sorted(
        ((length, name) for name in CONTEXTS for length in LENGTHS), key=lambda pair: (CONTEXTS.index(pair[1]), pair[0])
    )
    scored = sum(int(held.scored.sum()) for held in material.held)
    assert {one.tokens for one in by["context"]} == {scored}
    assert all(one.difference.value == 0 and one.better == "higher" for one in by["gain"])
    assert {str(one.parts["class"]) for one in by["line"]} <= set(LINE_CLASSES)
    for name in ("none", "related"):
        lines = [one for one in by["line"] if one.parts["context"] == name and one.parts["length"] == 512]
        assert sum(one.tokens for one in lines) <= scored
    assert by["position"] and by["short"] and "longppl" not in by  # equal losses: no token needs long context


class FallsWithContext(TwoLosses):
    """The base is sure of a token in four where there is much before it."""

    def score(self, batch: Batch) -> np.ndarray:
        losses = np.full(batch.input_ids.shape, 5.0, np.float32)
        if batch.lengths[0] > 400:
            losses[batch.input_ids % 4 == 0] = 0.5
        return losses if self.loss == 2.0 else losses + 0.25


def test_longppl_counts_the_tokens_that_the_base_needs_context_for(material: EvalData) -> None:
    held = material.held[0]
    length = 512
    found = run(
        [unit for unit in context_loss.context_measurements(material, [length], SEED) if held.key in unit.key],
        FallsWithContext(),
    )
    block = held.target.of.ids[held.target.start : held.target.end]
    key = int(((block % 4 == 0) & held.scored).sum())
    layouts = [lay_out_short_prompt(TargetSpan.of_block(held), 128, material.tokenizer)]
    assert len(layouts[0].ids) <= 400 and key
    (figure,) = [one for one in make_figures(found[0].rows, SEED) if one.measure == "longppl"]
    assert (figure.tokens, figure.unit) == (key, "perplexity")
    assert figure.base.value == pytest.approx(np.exp(0.5)) and figure.tuned.value == pytest.approx(np.exp(0.75))
    assert figure.difference.value == pytest.approx(np.exp(0.75) - np.exp(0.5))


def test_a_line_is_classed_by_the_farthest_thing_it_names(material: EvalData) -> None:
    held = next(one for one in material.held if one.path.startswith("shop/") and one.commit)
    classes, rows = LineClassifier(held), held.target.of.text.split("\n")
    definition = next(row for row, line in enumerate(rows) if line.strip().startswith("def "))
    assert classes.of(definition) == "in_file"
    blank = next(row for row, line in enumerate(rows) if not line.strip())
    assert classes.of(blank) == "common"
    imports = [row for row, line in enumerate(rows) if line.startswith("from shop.")]
    assert all(classes.of(row) == "in_project" for row in imports)


def test_completions_are_judged_up_to_the_file_s_end(material: EvalData, engine: TwoLosses) -> None:
    unit = next(completion.completion_measurements(material, 512, ("line",), 4, SEED))
    wanted = unit.run(engine).examples[0].wanted  # type: ignore[arg-type]
    encode = material.tokenizer.encode
    engine.tuned_writes = [*encode(f"\n{wanted}"), material.tokenizer.structure_ids["<|FILE_END|>"], *encode("more")]
    engine.base_writes = encode("nothing of the kind")
    found = unit.run(engine)  # type: ignore[arg-type]
    (example,) = found.examples
    assert example.tuned == wanted.strip() and example.tuned_scores == {"exact": 1, "edit": 1, "identifiers": 1}
    assert example.base_scores["exact"] == 0 and example.base_scores["edit"] < 0.6
    assert {row.parts["place"] for row in found.rows} == {str(example.parts["place"]), "all"}
    assert wanted in material.held[0].target.of.text or any(wanted in one.target.of.text for one in material.held)


def answered(material: EvalData, text: str) -> list[int]:
    """The tokens of an answer, the snippet's name as its mark."""
    encode, marks = material.tokenizer.encode, material.tokenizer.structure_ids
    parts = re.split(r"(<\|SNIPPET_\d+\|>)", text)
    return [id for part in parts for id in ([marks[part]] if part in marks else encode(part))]


def test_questions_are_new_and_answers_judged_by_the_checker(material: EvalData, engine: TwoLosses) -> None:
    units = list(questions.question_measurements(material, 1024, 12, SEED))
    assert units
    kinds = set()
    for unit in units:
        example = unit.run(engine).examples[0]  # type: ignore[arg-type]
        assert example.before not in material.seen.asked
        engine.tuned_writes = answered(material, f" {example.wanted}\n")
        found = unit.run(engine)  # type: ignore[arg-type]
        scores = {row.metric: (row.base, row.tuned) for row in found.rows if row.parts["kind"] == "all"}
        if example.parts["kind"] in ("imports", "importers"):  # no independent route
            assert "right" not in scores and "right" not in example.base_scores
        else:
            assert scores["right"] == (0.0, 1.0), example
        kinds.add(str(example.parts["kind"]))
    assert len(kinds) > 2


def test_a_needle_stands_at_its_depth_among_decoys(material: EvalData, engine: TwoLosses) -> None:
    places = []
    for depth in (0, 50, 100):
        (unit,) = needle.needle_measurements(material, [512], [depth], 1, SEED)
        unit.run(engine)  # type: ignore[arg-type]
        ids = engine.scored[-1].input_ids[0].tolist()
        assert len(ids) <= 512
        text = material.tokenizer.decode(ids)
        name, value = re.findall(r"(\w+) = (\d{5})$", text)[0]
        assert text.count(f"{name} = {value}") == 2 and len(re.findall(r"= \d{5}", text)) == needle.DECOY_COUNT + 2
        places.append(text.index(f"{name} = {value}") / len(text))
        engine.tuned_writes = material.tokenizer.encode(f" {value}\nX = 1")
        rows = {row.metric: row for row in unit.run(engine).rows if row.parts["depth"] == depth}  # type: ignore[arg-type]
        assert (rows["exact"].base, rows["exact"].tuned) == (0, 1)
        assert rows["loss"].base == 2.0 * rows["loss"].count
        engine.tuned_writes = []
    assert places[0] < 0.1 < places[1] < 0.8 < places[2] < 0.98


def test_another_repository_is_scored_plainly_and_never_the_same_one(
    shop: Prepared, engine: TwoLosses, tmp_path: Path
) -> None:
    elsewhere = small_repository(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is the repository trained on"), shop.opened(elsewhere):
        pass
    (elsewhere / "more.py").write_text("x = 1\n")
    git(elsewhere, "add", ".")
    git(elsewhere, "commit", "-q", "-m", "More")
    with shop.opened(elsewhere) as (_, (one,)):
        units = list(held_out_loss.forgetting_measurements(one.trees, one.commit, 256, 5, SEED))
        (figure,) = make_figures((row for found in run(units, engine) for row in found.rows), SEED)
    assert (figure.parts, figure.groups, figure.base.value) == ({"repository": "elsewhere"}, 5, 2.0)


def test_a_young_repository_is_measured_on_held_out_files_and_says_so(young: Prepared) -> None:
    with young.opened() as (found, _):
        found.choose("test", 4, 102, SEED)
        assert found.held and found.facts()["held_out"] == "files"
        assert "files that were never trained on" in found.notes[0]
        for held in found.held:
            assert held.group == held.path and held.path not in found.repositories[0].texts


def test_a_stopped_measurement_goes_on_and_says_the_same(material: EvalData, engine: TwoLosses, tmp_path: Path) -> None:
    units = list(plan_measurements(material, (256,), QUICK, SEED))
    about = {"adapter": "one"}
    adaptive = TieredEngine(engine, Tiers((Tier(256, NATIVE_CONTEXT),)))  # type: ignore[arg-type]
    done: list[str] = []
    counted = [Measurement(unit.key, partial(_noted, done, unit), unit.length) for unit in units]
    file = tmp_path / "measurements.jsonl"
    with MeasurementStore(file, about) as store:
        run_measurements(adaptive, counted[:5], store, lambda: None)
    with file.open("a") as stream:
        stream.write('{"key": "cut sho')
    with MeasurementStore(file, about) as store:
        ticks: list[int] = []
        again = summarize_measurements(run_measurements(adaptive, counted, store, lambda: ticks.append(1)), SEED, 256)
    assert len(ticks) == len(units) and len(done) == len(set(done)) == len(units)
    with MeasurementStore(tmp_path / "other.jsonl", about) as store:
        assert again == summarize_measurements(run_measurements(adaptive, units, store, lambda: None), SEED, 256)
    with MeasurementStore(file, {"adapter": "another"}) as store:
        assert units[0].key not in store


def _noted(done: list[str], unit: Measurement, engine: TwoLosses) -> Measurements:
    done.append(unit.key)
    return unit.run(engine)  # type: ignore[arg-type]


def test_quick_is_part_of_full(material: EvalData) -> None:
    quick, full = (
        {unit.key for unit in plan_measurements(material, (256, 512), amount, SEED)} for amount in (QUICK, FULL)
    )
    assert quick and len(quick - full) == 0


def test_what_isn_t_measured_is_noted(
    material: EvalData, shop: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No middle without its tokens, no questions that training asked, no code in another repository."""
    prose = make_repo(tmp_path / "prose", [{"README.md": "Words of a book, none of them code.\n" * 40}])
    with shop.opened(prose) as (found, (other,)):
        found.held, found.commits = material.held, material.commits
        whole = {unit.key.split("/")[0] for unit in plan_measurements(found, (512,), QUICK, SEED)}
        unmeasured = [
            "next edits: no held-out commit adds a new line within 256 tokens, so nothing is measured",
            "calls: no held-out line calls a function that the repository defines, so nothing is measured",
        ]
        assert found.notes == unmeasured and whole == {
            "context", "completion", "question", "needle", "fim", "commit_message", "neutral",
        }  # fmt: skip
        found.notes.clear()
        monkeypatch.setattr(found.tokenizer, "fim", None)
        monkeypatch.setattr(questions, "_choose_questions", lambda *_: [])
        units = [unit.key for unit in plan_measurements(found, (512,), QUICK, SEED, [other])]
    assert not any(key.startswith(("completion/fim", "question", "other")) for key in units)
    assert any(key.startswith("completion/line") for key in units)
    assert found.notes == [
        *unmeasured,
        "the tokenizer has no fill-in-the-middle tokens, so no middle of a file is measured",
        "questions: none could be made that training doesn't ask, so nothing is measured",
        "--other prose: it has no code file of 64 tokens, so nothing is measured",
    ]


def test_a_measure_that_isn_t_wanted_needs_no_note(material: EvalData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material.tokenizer, "fim", None)
    before = list(material.notes)
    assert list(plan_measurements(material, (256,), replace(GLANCE, scored=0), SEED))
    assert material.notes == before


@pytest.mark.parametrize("language", sorted(needle._LANGUAGE_FORMS))
def test_a_needle_is_written_in_the_repository_s_language(language: str) -> None:
    text = TokenizedText("src/a", language, "", np.zeros(4, np.int32), np.zeros(4, np.int32))
    planted = needle._make_needle(RepoTree("", {"src/a": text}, {}), 0, SEED)
    suffix = {one.path.rpartition(".")[2] for one in planted}
    assert len(planted) == 1 + needle.DECOY_COUNT and len(suffix) == 1
    own = language_of(planted[0].path)
    assert own == language or (language in ("C++", "Objective-C") and own == "C")
    assert all(re.search(r"[A-Z]+_[A-Z]+", one.text) and one.value.isdigit() for one in planted)
