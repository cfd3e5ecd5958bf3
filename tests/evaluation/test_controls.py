"""Controls of an evaluation: neutral code, another repository's lines, another adapter, commits older than the base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from evaluated import Prepared, TwoLosses, finished_run
from git_helper import git, make_repo
from typer.testing import CliRunner

from longrepo.cli.app import app
from longrepo.config.loader import dump_yaml
from longrepo.data.dedup import TrainingTexts
from longrepo.data.text import TokenizedText
from longrepo.errors import InputError
from longrepo.evaluation import controls
from longrepo.evaluation import run as evaluation_run
from longrepo.evaluation.aggregation import make_figures
from longrepo.evaluation.blocks import EvalData, TrainingIndex
from longrepo.evaluation.controls import age_notes, change_rows, neutral_measurements, neutral_texts
from longrepo.evaluation.results import Evaluation, read_evaluation
from longrepo.evaluation.scoring import MeasurementRow, Measurements
from longrepo.utils.hashing import line_hash


class LossByAdapter(TwoLosses):
    """Scores 1.8 nats with the adapter of a run called `other`, 1.5 with any other."""

    computed = 0  # scores, by all engines

    def __init__(self) -> None:
        super().__init__()
        self.tuned = 1.5

    def load_adapter(self, folder: Path) -> None:
        super().load_adapter(folder)
        self.tuned = self.loss = 1.8 if "other" in folder.parts else 1.5

    def score(self, batch: object) -> np.ndarray:
        LossByAdapter.computed += 1
        return super().score(batch)  # type: ignore[arg-type]

    @contextmanager
    def base_only(self) -> Iterator[None]:
        self.loss = 2.0
        try:
            yield
        finally:
            self.loss = self.tuned


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, shop: Prepared, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and another of the same base with other weights."""
    monkeypatch.setattr(evaluation_run, "create_engine", lambda *_: LossByAdapter())
    run, other = (finished_run(tmp_path / name, shop) for name in ("run", "other"))
    (other / "adapter" / "adapter_model.safetensors").write_bytes(b"others")
    return run, other


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose two newest commits add lines."""
    lines = [
        f"def parse_{name}(text):\n    return text.split('{name}')[0].strip()\n" for name in ("comma", "dot", "bar")
    ]
    commits = [{"parsers.py": "".join(lines[:count])} for count in (1, 2, 3)]
    return make_repo(tmp_path_factory.mktemp("control") / "elsewhere", commits)


def evaluated(run: Path, shop: Prepared, *options: object) -> Evaluation:
    out = CliRunner().invoke(app, ["evaluate", str(run), "--repo", str(shop.folder), "--quick", *map(str, options)])
    if out.exception:
        raise out.exception
    return read_evaluation(run / "evaluation.json")


def refused(run: Path, shop: Prepared, *options: object) -> str:
    with pytest.raises(InputError) as caught:
        evaluated(run, shop, *options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_neutral_code_is_the_same_for_everybody_and_its_licenses_are_kept() -> None:
    folder = files("longrepo.evaluation").joinpath("neutral")
    content = folder.joinpath("texts.json").read_bytes()
    digest = "224eda201cf1cf17365d111019106da8e8df731786a4540e9c3701229c8d0c9c"
    assert hashlib.sha256(content).hexdigest() == digest, "figures of other versions can't be compared any more"
    texts, notice = neutral_texts(), folder.joinpath("NOTICE").read_text()
    assert {f"{one.project} {one.version}" for one in texts} <= {
        line.partition(" (")[0] for line in notice.splitlines()
    }
    assert {one.license for one in texts} <= {"MIT", "BSD-3-Clause", "Apache-2.0", "MIT OR Apache-2.0"}
    assert len({one.language for one in texts[:9]}) == 9 == len({one.language for one in texts})
    assert len({one.key for one in texts}) == len(texts) and len(content) < 200_000


def test_forgetting_is_in_percent_of_the_base_s_loss(material: EvalData, engine: TwoLosses) -> None:
    units = list(neutral_measurements(material, 4, 64))
    assert [unit.length for unit in units] == [64] * 4 and len({unit.key for unit in units}) == 4
    measured = [unit.run(engine) for unit in units]  # type: ignore[arg-type]
    figures = make_figures((row for one in measured for row in change_rows(one, 256)), 1)
    assert [one.parts["language"] for one in figures] == ["Go", "JavaScript", "Python", "TypeScript", "all"]
    assert (figures[-1].base.value, figures[-1].tuned.value) == (100.0, 75.0)
    assert figures[-1].difference.value == figures[-1].difference.low == -25.0 and figures[-1].samples == 4
    every = make_figures((row for one in measured for row in one.rows), 1)
    assert every[-1].parts == {"language": "all"} and every[-1].tokens == 4 * 63


def test_neutral_code_that_training_shows_is_left_out_and_named(material: EvalData) -> None:
    first = neutral_texts()[0]
    hashes = np.array([line_hash(line) for line in first.text.split("\n")], np.uint64)
    none = np.zeros(0, np.int32)
    shown = TokenizedText("a", "Python", "", none, none, row_hashes=hashes)
    seen = TrainingIndex(TrainingTexts(material.tokenizer, [shown]), frozenset())
    found = replace(material, seen=seen, notes=[])
    assert [unit.key for unit in neutral_measurements(found, 3)] == [
        f"neutral/512/{one.key}" for one in neutral_texts()[1:3]
    ]
    assert found.notes == [f"1 pieces of neutral code ({first.project}) are left out: training shows their lines"]


def test_retrieval_without_tuning_is_a_control() -> None:
    def row(context: str, base: float, tuned: float) -> MeasurementRow:
        return MeasurementRow("context", "loss", {"context": context, "length": 256}, "a", 10, base, tuned)

    rows = [row("none", 30, 24), row("related", 28, 21), row("retrieved", 25, 20)]
    found = {tuple(one.parts.values()): one for one in change_rows(Measurements(rows), 256)}
    assert {parts: one.tuned / one.base for parts, one in found.items()} == {
        ("own",): 0.75,
        ("own", "retrieved", "none"): 24 / 25,
        ("own", "retrieved", "related"): 21 / 25,
        ("own", "retrieved", "retrieved"): 0.8,
    }
    assert [one.parts for one in change_rows(Measurements(rows), 512)] == []
    assert [one.parts for one in change_rows(Measurements(rows), 256, retrieval=False)] == [{"text": "own"}]


def test_tasks_as_a_whole_stand_beside_the_lines_at_their_own_length() -> None:
    every = [
        ("fim", {"scope": "all"}), ("fim", {"scope": "block"}), ("next_edit", {}), ("commit_message", {}),
        ("api_use", {"what": "callee", "place": "all"}), ("api_use", {"what": "arguments", "place": "in_file"}),
        ("question", {"kind": "all"}),
    ]  # fmt: skip
    rows = [
        MeasurementRow(measure, metric, {**parts, "length": 2048}, "a", 10, 30, 24)
        for measure, parts in every
        for metric in ("loss", "exact")
    ]
    found = list(change_rows(Measurements(rows), 8192))
    assert [one.parts for one in found] == [
        {"text": "task", "task": task} for task in ("fim", "next_edit", "commit_message", "callee")
    ]
    assert {(one.metric, one.count, one.tuned) for one in found} == {("percent", 30, 24)}


def test_another_repository_s_lines_are_measured_as_its_own_are(
    shop: Prepared, runs: tuple[Path, Path], elsewhere: Path
) -> None:
    found = evaluated(runs[0], shop, "--control", elsewhere)
    (control,) = found.find("control", repository="elsewhere")
    assert (control.base.value, control.tuned.value, control.samples, control.groups) == (2.0, 1.5, 2, 2)
    (changed,) = found.find("change", text="control", repository="elsewhere")
    assert changed.difference.value == -25.0
    assert found.find("change", text="own")[0].difference.value == -25.0
    order = ["own", "cross_file", "own", "own", "own", *["task"] * 2, "control", *["neutral"] * 10]
    assert [one.parts["text"] for one in found.find("change")] == order
    assert [one.parts["task"] for one in found.find("change", text="task")] == ["fim", "commit_message"]


def test_a_control_without_lines_of_its_own_is_refused(shop: Prepared, runs: tuple[Path, Path], tmp_path: Path) -> None:
    run, young = runs[0], make_repo(tmp_path / "young", [{"a.py": "x = 1\n" * 9}])
    assert "its 0 commits with a parent add no lines" in refused(run, shop, "--control", young)
    git(tmp_path, "clone", "-q", str(shop.folder), str(tmp_path / "clone"))
    (tmp_path / "clone" / "more.py").write_text("more = 1\n")
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-q", "-m", "More")
    assert "is the repository trained on" in refused(run, shop, "--control", tmp_path / "clone")
    git(tmp_path, "init", "-q", str(tmp_path / "empty"))
    assert "no commits" in refused(run, shop, "--control", tmp_path / "empty")
    assert str(tmp_path / "nowhere") in refused(run, shop, "--control", tmp_path / "nowhere")
    assert not (run / "evaluation.json").exists()


def test_another_adapter_is_measured_on_the_same_lines_once(
    shop: Prepared, runs: tuple[Path, Path], elsewhere: Path
) -> None:
    run, other = runs
    alone = evaluated(run, shop, "--control", elsewhere)
    before = LossByAdapter.computed
    found = evaluated(run, shop, "--control", elsewhere, "--against", other)
    assert found.figures == alone.figures and len(found.against) == 1
    rival = found.against[0]
    assert rival.name == str(other) and len(rival.adapter) == 64
    by_text = {one.parts["text"]: one for one in rival.figures if one.measure == "change" and len(one.parts) < 3}
    assert by_text.keys() == {"own", "neutral", "control", "cross_file", "task"}
    assert all(one.difference.value == pytest.approx(100 * (1.5 / 1.8 - 1)) for one in by_text.values())
    (lines,) = [one for one in rival.figures if one.measure == "context" and one.parts["context"] == "related"]
    assert (lines.base.value, lines.tuned.value) == (pytest.approx(1.8), 1.5)
    assert lines.samples == found.find("context", context="related")[0].samples
    measures = {one.measure for one in rival.figures}
    assert "completion" in measures and not measures & {"question", "needle", "prepared"}
    assert any("was trained on" not in note for note in found.notes)
    once = LossByAdapter.computed
    assert once > before
    assert evaluated(run, shop, "--control", elsewhere, "--against", other).against == found.against
    assert LossByAdapter.computed == once, "kept, as the run's own measurements are"


def test_what_isn_t_comparable_is_refused(shop: Prepared, runs: tuple[Path, Path], tmp_path: Path) -> None:
    run, other = runs
    assert refused(run, shop, "--against", tmp_path / "nowhere").startswith(
        f"--against {tmp_path / 'nowhere'}: no such"
    )
    assert "is the run itself" in refused(run, shop, "--against", run)
    assert "is the run itself" in refused(run, shop, "--against", run / "adapter")
    data = shop.settings.data.model_copy(update={"structure_tokens": "none"})
    (other / "settings.yaml").write_text(dump_yaml(shop.settings.model_copy(update={"data": data})))
    assert "written with data.structure_tokens=added, and this uses none" in refused(run, shop, "--against", other)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    named = shop.settings.model.model_copy(update={"name": str(tmp_path / "base")})
    (other / "settings.yaml").write_text(dump_yaml(shop.settings.model_copy(update={"model": named})))
    assert f"was tuned on {tmp_path / 'base'}, the run on embedded" in refused(run, shop, "--against", other)
    assert not (run / "evaluation.json").exists()


def test_an_adapter_that_may_have_seen_the_lines_is_named(shop: Prepared, runs: tuple[Path, Path]) -> None:
    """Trained on a later state of the repository, or on nothing that is recorded."""
    run, other = runs
    assert not [note for note in evaluated(run, shop, "--against", other).notes if "held-out lines" in note]
    (other / "last" / "state.json").unlink()
    said = [note for note in evaluated(run, shop, "--against", other).notes if "may have seen" in note]
    assert said == [f"--against {other}: what it was trained on isn't recorded; it may have seen the held-out lines"]
    later = shop.sequences.parent / "later"
    later.mkdir(exist_ok=True)
    assert shop.file.header.repositories[0].validation_from
    (other / "last" / "state.json").write_text(json.dumps({"sequences": str(_prepared_to_the_end(shop, later))}))
    said = [note for note in evaluated(run, shop, "--against", other).notes if "may have seen" in note]
    assert len(said) == 1 and "beyond what the run was: it may have seen held-out lines" in said[0]


def _prepared_to_the_end(shop: Prepared, folder: Path) -> Path:
    """The same sequences, said to be made of the repository up to its head."""
    from longrepo.data.dataset import write_sequences
    from longrepo.data.rows import SequenceRow

    facts = replace(shop.file.header.repositories[0], validation_from=None, test_from=None)
    row = {**shop.file.row(0), "input_ids": shop.file.tokens(0), "loss_weights": shop.file.weights(0)}
    row["difficulty_parts"] = {}
    write_sequences(folder / "sequences", [SequenceRow(**row)], replace(shop.file.header, repositories=[facts]))
    return folder / "sequences"


def test_commits_that_the_base_may_have_seen_are_said(material: EvalData, monkeypatch: pytest.MonkeyPatch) -> None:
    held = material.held
    commits = len({one.commit for one in held if one.commit})
    assert list(age_notes("smollm2-135m", held, "test")) == [
        f"shop: {commits} of {commits} test commits aren't younger than smollm2-135m (published in November 2024): it "
        "may have seen them"
    ]
    assert "when someone/model was published isn't known here" in next(age_notes("someone/model", held, "test"))
    assert "of 2023-11-" in next(age_notes("someone/model", held, "test"))
    assert list(age_notes("embedded", held, "test")) == []
    assert "November 2023" in next(age_notes("deepseek-ai/deepseek-coder-1.3b-base", held, "test"))
    monkeypatch.setattr(controls, "release_month", lambda _: "2023-10")
    assert list(age_notes("someone/model", held, "test")) == []
