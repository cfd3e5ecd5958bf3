"""The tasks that people have, with a model that knows every answer and one that knows none."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluated import Prepared, TwoLosses, prepared
from git_helper import Made, make_repo
from small_repository import THINGS, module, usage
from tokenizers import Tokenizer

from longrepo import embedded
from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.data.text import split_at
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.evaluation.blocks import EvalData
from longrepo.evaluation.change_tasks import MAX_EDIT_TOKENS, edit_points, message_points
from longrepo.evaluation.run import make_figures
from longrepo.evaluation.scope_tasks import CALL_PARTS, api_points, fim_points, held_out_spans, until_closed
from longrepo.evaluation.task_points import TaskPoint, in_turns
from longrepo.evaluation.tasks import TASK_MEASURES, TASK_TOKENS, task_measurements
from longrepo.repository.scopes import SCOPES

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialect_tokenizers import in_dialect

SEED = 42
LENGTH = 700


def pricing_repository(folder: Path) -> Path:
    """Modules that call each other's functions; each commit adds such a call, and changes a line."""
    files = {f"shop/{thing}.py": module(thing, None, 1) for thing in THINGS}
    files |= {f"tests/test_{thing}.py": usage(thing) for thing in THINGS}
    commits: list[Made] = [Made(dict(files), "Begin with all things")]
    for number in range(30):
        thing, other = THINGS[number % len(THINGS)], THINGS[(number * 3 + 1) % len(THINGS)]
        name = f"shop/{thing}.py"
        lines = files[name].rstrip("\n").split("\n")
        changed = sorted(at for at, line in enumerate(lines) if line.strip().startswith("return"))[-2]
        lines[changed] += f" + {number + 2}"
        one, two, three = ("".join(chr(97 + (number * k + at * (k + 2)) % 26) for at in range(7)) for k in (3, 5, 11))
        lines += [
            "", f"def {thing}_{one}_{number}({two}: int) -> int:",
            f"    if {two} > {number}00:",
            f"        {three}_{number} = {other.capitalize()}({two}, {one!r})",
            f"        return {three}_{number}.{other}_step_{number % 4}({two} * {number}, {one}_{two})",
            f"    return {other.capitalize()}({three!r}, {one!r}).{other}_step_1({two} - {number})",
        ]  # fmt: skip
        files[name] = "\n".join(lines) + "\n"
        body = (
            "\n".join(f"Reason {n} of the {thing}: as the {other} asks for it." for n in range(40))
            if number > 26
            else ""
        )
        message = f"Price the {thing} by the {other} number {number} (#{number}7)\n\n{body}"
        commits.append(Made({name: files[name]}, message))
        if number in (13, 28):
            commits.append(Made({"ci.yml": f"steps:\n  - uses: a/checkout@{number}81f\n"}, f"Check out with {number}"))
    return make_repo(folder, commits)


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pricing_repository(tmp_path_factory.mktemp("tasks") / "prices")


@pytest.fixture(scope="module")
def material(prices: Path) -> Iterator[EvalData]:
    with prepared(prices, prices.parent / "data").opened() as (found, _):
        found.choose("test", 12, 280, SEED)
        yield found


def every_point(data: EvalData) -> list[TaskPoint]:
    blocks = held_out_spans(data)
    fim = [point for scope in SCOPES for point in fim_points(data, blocks, scope, 6, SEED)]
    calls = [point for what in CALL_PARTS for point in api_points(data, blocks, what, 6, SEED)]
    return [*fim, *edit_points(data, 6, SEED), *message_points(data, 6, SEED), *calls]


class Oracle(TwoLosses):
    """Tuned continues every known prompt as the commit did, then ends the file; base writes something else."""

    def __init__(self, data: EvalData, points: Sequence[TaskPoint], length: int = LENGTH) -> None:
        super().__init__()
        self._end = data.tokenizer.end_ids.tolist()
        self._wrong = data.tokenizer.encode("zzz(\n")
        self._answers: dict[tuple[int, ...], list[int]] = {}
        for point in points:
            prompt = point.lay_out(length - 8)
            assert prompt is not None, point.key
            ids = prompt.ids.tolist()
            self._answers[tuple(ids[: prompt.start])] = ids[prompt.start :]

    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        super().generate(prompt, max_new_tokens)
        known = self._answers[tuple(prompt)]
        return ([*known, *self._end] if self.loss == 1.5 else self._wrong)[:max_new_tokens]


@pytest.fixture(scope="module")
def points(material: EvalData) -> list[TaskPoint]:
    return every_point(material)


def test_who_knows_the_answers_is_right_everywhere_and_who_doesn_t_nowhere(
    material: EvalData, points: list[TaskPoint]
) -> None:
    oracle = Oracle(material, points)
    found = [point.writing(LENGTH, material.tokenizer).run(oracle) for point in points]  # type: ignore[arg-type]
    figures = make_figures((row for one in found for row in one.rows), SEED)
    assert {one.measure for one in figures} == set(TASK_MEASURES)
    for one in figures:
        assert one.tuned.value == 1.0, one
        assert one.base.value == 0.0 if one.metric == "exact" else one.base.value < 0.5, one
    assert {str(one.parts["scope"]) for one in figures if one.measure == "fim"} == {*SCOPES, "all"}
    assert {str(one.parts["what"]) for one in figures if one.measure == "api_use"} == set(CALL_PARTS)
    for point, one in zip(points, found, strict=True):
        (example,) = one.examples
        assert example.wanted == point.wanted and example.base.startswith("zzz")


@pytest.mark.parametrize("name", ["StarCoder2", "CodeGemma", "none"])
def test_every_base_s_own_marks_ask_for_the_same_texts(
    name: str, material: EvalData, points: list[TaskPoint], prices: Path, tmp_path: Path
) -> None:
    """Native marks, a path within the prefix, and a base without marks or middles."""
    dialect = next(one for one in (*DIALECTS, NO_DIALECT) if one.name == name)
    state, config = in_dialect(json.loads((embedded.path() / "tokenizer.json").read_text()), dialect)
    tokenizer = RepoTokenizer(Tokenizer.from_str(json.dumps(state)), name, "native", config)
    assert (tokenizer.fim is None) == (dialect.fim is None)
    with prepared(prices, tmp_path / "data", tokenizer).opened() as (found, _):
        found.choose("test", 12, 280, SEED)
        own = [one for one in every_point(found) if one.measure != "fim" or tokenizer.fim is not None]
        oracle = Oracle(found, own)
        for point in own:
            (example,) = point.writing(LENGTH, tokenizer).run(oracle).examples  # type: ignore[arg-type]
            assert set(example.tuned_scores.values()) == {1.0} and 1.0 not in example.base_scores.values(), point.key
    assert {one.key for one in own} == {one.key for one in points if one.measure != "fim" or tokenizer.fim is not None}


def test_losses_are_of_the_wanted_tokens_alone(material: EvalData, points: list[TaskPoint], engine: TwoLosses) -> None:
    for point in points:
        found = point.scoring(LENGTH).run(engine)  # type: ignore[arg-type]
        assert len(found.rows) == len(point.parts)
        for row in found.rows:
            assert (row.base, row.tuned) == (2.0 * row.count, 1.5 * row.count) and row.parts["length"] == LENGTH
        batch = engine.scored[-1]
        ids, weights = batch.input_ids[0], batch.loss_weights[0]
        assert len(ids) <= LENGTH and weights.sum() == found.rows[0].count
        text = material.tokenizer.decode(ids[weights > 0].tolist())
        if point.measure == "next_edit":
            rows = point.wanted.split("\n")
            assert text.strip("\n") and all(row in rows and row[0] == "+" for row in text.strip("\n").split("\n"))
        else:
            assert point.wanted in text and len(text) <= len(point.wanted) + 8


def test_a_middle_is_what_is_missing_between_its_two_sides(material: EvalData, points: list[TaskPoint]) -> None:
    """Its marks stand at characters, wherever the tokens of the whole file would be divided."""
    spans = [(one.spans, {(span.start, span.end) for span in one.spans}) for one in held_out_spans(material)]
    assert all(len(some) == len(places) for some, places in spans), "each is asked for once"
    for point in (one for one in points if one.measure == "fim"):
        prompt = point.lay_out(LENGTH)
        assert prompt is not None
        ids = prompt.ids.tolist()
        assert material.tokenizer.decode(ids[prompt.start :]) == point.wanted
        own = material.tokenizer.decode(ids[: prompt.start]).rpartition("<|FILE_START|>")[2]
        before, after = own.partition("<fim_prefix>")[2].split("<fim_suffix>")
        text = before + point.wanted + after.removesuffix("<fim_middle>")
        held = next(one for one in material.held if one.path == point.path and text in one.target.of.text)
        rows = held.target.of.text.split("\n")
        assert any({rows[row].strip(), point.wanted.strip()} & {row.strip() for row in rows} for row in held.rows)


def test_a_next_edit_is_asked_for_as_training_writes_changes(material: EvalData, points: list[TaskPoint]) -> None:
    for point in (one for one in points if one.measure == "next_edit"):
        prompt = point.lay_out(LENGTH)
        assert prompt is not None and len(prompt.scored) <= MAX_EDIT_TOKENS
        text = material.tokenizer.decode(prompt.ids[: prompt.start].tolist())
        state, _, change = text.rpartition("<|COMMIT_START|>")
        assert state.startswith(f"<|FILE_START|> {point.path}\n") and change.startswith(
            f" {point.commit[:8]} Price the"
        )
        title, *context = change[change.index("@@ -") :].split("\n")
        assert title.startswith("@@ -") and all(row[:1] in (" ", "") for row in context)
        assert all(row[1:] in state for row in context if row)
        added = [row[1:] for row in point.wanted.split("\n") if row.startswith("+")]
        assert added and any(row not in state for row in added)
    cut = [len(one.before) for one in points if one.measure == "next_edit" and "Reason 3 " in one.before]
    assert cut, "a message of many lines leaves room for the file"


def test_an_edit_counts_by_what_it_leaves_not_by_the_order_of_its_rows(material: EvalData) -> None:
    point = next(one for one in edit_points(material, 6, SEED) if "\n-" in f"\n{one.wanted}")
    rows = point.wanted.split("\n")
    assert point.judge(point.wanted)["exact"] == 1
    swapped = "\n".join(sorted(rows, key=lambda row: "+- ".index(row[:1] or " ")))
    removed = next(row for row in rows if row.startswith("-"))
    assert point.judge("\n".join(row for row in rows if row != removed))["exact"] == 0
    assert point.judge("\n".join([*rows, "+more"]))["exact"] == 0
    assert point.judge(point.read("\n".join([*rows, "+more"])))["exact"] == 1, "what follows isn't asked for"
    assert point.judge("")["exact"] == 0 and point.judge(swapped)["exact"] == 1 and swapped != point.wanted


def test_a_message_is_asked_for_behind_the_hunks_and_never_shown(material: EvalData, points: list[TaskPoint]) -> None:
    some = [one for one in points if one.measure == "commit_message"]
    assert len({one.commit for one in some}) == len(some) > 1
    changed = {record.id for _, record in material.commits for one in record.changes if one.path == "ci.yml"}
    assert changed and not changed & {one.commit for one in points if one.measure in TASK_MEASURES[1:3]}, (
        "a version can't be foreseen"
    )
    assert all(re.search(r"number \d+$", one.wanted) for one in some), "nor a request's number"
    for point in some:
        prompt = point.lay_out(LENGTH)
        assert prompt is not None
        text = material.tokenizer.decode(prompt.ids[: prompt.start].tolist())
        assert text.startswith("<|FILE_START|> changes.diff\n--- a/") and "\n@@ -" in text
        assert text.rstrip().endswith(point.commit[:8]) and point.wanted not in text
        assert point.judge(point.wanted.upper())["identifiers"] == 1


def test_calls_are_of_the_repository_s_own_functions(material: EvalData, points: list[TaskPoint]) -> None:
    calls = [one for one in points if one.measure == "api_use"]
    names = {one.wanted for one in calls if one.parts[0]["what"] == "callee"}
    assert names and names <= {
        *(thing.capitalize() for thing in THINGS),
        *(f"{thing}_step_{n}" for thing in THINGS for n in range(9)),
    }
    callee = next(one for one in calls if one.parts[0]["what"] == "callee")
    for text, right in ((f"{callee.wanted}(1)", 1), (f"{callee.wanted}_too(1)", 0), ("", 0), ("other(", 0)):
        assert callee.judge(callee.read(text))["exact"] == right, text


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("a, b) + c", "a, b"),
        ("f(a)[0], ')') ", "f(a)[0], ')'"),
        ('"\\")", x)', '"\\")", x'),
        ("it's) open", "it's) open"),
        ("a, (b", "a, (b"),
        (")", ""),
    ],
)
def test_arguments_end_at_the_bracket_that_closes_them(text: str, given: str) -> None:
    assert until_closed(text) == given


def test_losses_come_first_and_texts_at_the_first_places(material: EvalData) -> None:
    units = [unit.key for unit in task_measurements(material, 4096, 3, 1, SEED)]
    kinds = [key.split("/")[1] for key in units]
    assert kinds == sorted(kinds) and set(kinds) == {"loss", "text"}
    assert all(key.split("/")[2] == str(TASK_TOKENS) for key in units)
    texts = {key.replace("/text/", "/loss/") for key in units if "/text/" in key}
    assert texts < set(units) and len(units) == len(set(units))
    assert not any("/text/" in unit.key for unit in task_measurements(material, 4096, 3, 0, SEED))
    assert not list(task_measurements(material, 4096, 0, 0, SEED))
    fewer = [unit.key for unit in task_measurements(material, 4096, 2, 1, SEED)]
    assert set(fewer) < set(units), "a quick evaluation's places are the first of a full one's"


def test_a_base_without_middles_has_every_other_task(material: EvalData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material.tokenizer, "fim", None)
    measured = {unit.key.split("/")[0] for unit in task_measurements(material, 512, 2, 1, SEED)}
    assert measured == set(TASK_MEASURES) - {"fim"}


def test_without_held_out_commits_there_are_no_changes_to_ask_for(young: Prepared) -> None:
    with young.opened() as (found, _):
        found.choose("test", 4, 102, SEED)
        measured = {unit.key.split("/")[0] for unit in task_measurements(found, 512, 2, 1, SEED)}
        assert measured == {"fim"}
        assert "no commits are held out, so no next edits and commit messages are measured" in found.notes


def plain_repository(folder: Path) -> Path:
    """Constants alone: no function is defined or called, and each change adds a line."""
    files = {f"values/{thing}.py": "".join(f"{thing.upper()}_{n} = {n * 7}\n" for n in range(30)) for thing in THINGS}
    commits: list[Made] = [Made(dict(files), "Values of everything")]
    for number in range(30):
        name = f"values/{THINGS[number % len(THINGS)]}.py"
        files[name] += f"{THINGS[number % len(THINGS)].upper()}_LATER_{number} = {number * 1117} + 40000\n"
        commits.append(Made({name: files[name]}, "Values"))
    return make_repo(folder, commits)


def test_files_without_calls_and_messages_of_one_word_are_said(tmp_path: Path) -> None:
    plain = prepared(plain_repository(tmp_path / "plain"), tmp_path / "data")
    with plain.opened() as (found, _):
        found.choose("test", 4, 102, SEED)
        measured = {unit.key.split("/")[0] for unit in task_measurements(found, 512, 2, 0, SEED)}
        assert measured == {"fim", "next_edit"}
        assert any(note.startswith("calls: no held-out line calls a function") for note in found.notes)
        assert any("has a subject of two words or more" in note for note in found.notes)


def test_tokens_begin_where_a_text_is_divided(material: EvalData) -> None:
    of = next(one.target.of for one in material.held if one.path.endswith(".py"))
    for places in ((5, 9), (0, len(of.text)), (of.text.index("\n") + 3,), ()):
        found = split_at(material.tokenizer, of, places)
        assert material.tokenizer.decode(found.ids.tolist()) == of.text
        for place in places:
            at = found.token_at(place)
            assert (int(found.starts[at]) if at < len(found) else len(of.text)) == place
        assert len(found.rows) == len(of.rows) and found.row_token(len(of.rows)) == len(found)
        assert [found.slice_text(found.row_token(row), found.row_token(row + 1)) for row in (1, 2)] == [
            of.slice_text(of.row_token(row), of.row_token(row + 1)) for row in (1, 2)
        ]
    inside = of.text.index("def ") + 6  # in a name: what is asked for isn't known in front of it
    found = split_at(material.tokenizer, of, (inside,))
    assert (np.diff(found.name_tokens) >= 0).all() and len(found.names) == len(found.name_tokens)


def test_turns_go_round_the_groups_and_make_no_more_than_wanted(points: list[TaskPoint]) -> None:
    made: list[str] = []

    def some(group: str, count: int) -> Iterator[TaskPoint]:
        for number in range(count):
            made.append(f"{group}{number}")
            yield replace(points[0], group=group, key=made[-1])

    chosen = in_turns([("a", some("a", 9)), ("b", some("b", 1)), ("c", some("c", 9))], 5, SEED)
    assert [one.group for one in chosen[:3]] != ["a", "a", "a"] and {one.group for one in chosen[:3]} == set("abc")
    assert len(chosen) == len(made) == 5
    assert len(in_turns([("a", some("a", 2))], 5, SEED)) == 2
