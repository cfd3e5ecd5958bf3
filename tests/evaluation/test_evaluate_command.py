"""`longrepo evaluate` as a person runs it: what it takes where little is given, what it refuses, what it prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from evaluated import Prepared, TwoLosses, finished_run, unfinished_run
from git_helper import git
from rich.console import Console
from typer.testing import CliRunner

from longrepo.cli.app import app
from longrepo.config.loader import dump_yaml
from longrepo.errors import InputError
from longrepo.evaluation import run as evaluation_run
from longrepo.evaluation.results import Comparison, Estimate, Evaluation, Figure, read_evaluation
from longrepo.pretrain.texts import write_inputs
from longrepo.reports.evaluation import print_evaluation


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> TwoLosses:
    made = TwoLosses()
    monkeypatch.setattr(evaluation_run, "create_engine", lambda *_: made)
    return made


@pytest.fixture
def run(shop: Prepared, tmp_path: Path) -> Path:
    return finished_run(tmp_path / "run", shop)


def evaluated(*arguments: object) -> str:
    """What a `--quick` evaluation prints."""
    out = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--quick"])
    if out.exception:
        raise out.exception
    return out.stdout


def refused(*arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        evaluated(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_repository_is_where_the_pipeline_read_it_or_around(
    shop: Prepared, run: Path, engine: TwoLosses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "its folder isn't recorded; give it with --repo" in refused(run)
    record = shop.sequences.parent / "stage.json"
    try:
        record.write_text(json.dumps({"repositories": {"shop": str(tmp_path / "moved")}}))
        assert "moved, where it was read, no longer holds it; give it with --repo" in refused(run)
        record.write_text(json.dumps({"repositories": {"shop": str(shop.folder)}}))
        assert "2.000" in evaluated(run)
    finally:
        record.unlink()
    monkeypatch.chdir(shop.folder)
    assert json.loads(evaluated(run, "--json")) == json.loads((run / "evaluation.json").read_text())
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "clone", "-q", str(shop.folder), str(tmp_path / "clone"))
    shutil.copytree(run, tmp_path / "clone" / "runs" / "one", symlinks=True)
    evaluated(tmp_path / "clone" / "runs" / "one")


def test_a_stopped_evaluation_goes_on_and_measures_nothing_twice(
    shop: Prepared, run: Path, engine: TwoLosses, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished_run(run.parent / "whole", shop)
    evaluated(whole, "--repo", shop.folder)
    scores, prompts = len(engine.scored), len(engine.prompts)
    engine.scored.clear()
    engine.prompts.clear()
    engine.stop_at = scores // 2
    stopped = CliRunner().invoke(app, ["evaluate", str(run), "--repo", str(shop.folder), "--quick"])
    assert stopped.exit_code == 130
    assert "stopped: finished measurements are kept; the same command goes on from there" in stopped.output
    assert not (run / "evaluation.json").exists()
    engine.stop_at = None
    evaluated(run, "--repo", shop.folder)
    most = scores + 10  # the piece that was cut short: five contexts, two models
    assert scores <= len(engine.scored) <= most
    assert len(engine.prompts) == prompts
    first, second = (read_evaluation(one / "evaluation.json") for one in (whole, run))
    assert (first.figures, first.examples) == (second.figures, second.examples)
    evaluated(run, "--repo", shop.folder)
    assert len(engine.scored) <= most


def test_sequences_beyond_the_run_s_phases_are_counted(shop: Prepared, engine: TwoLosses, tmp_path: Path) -> None:
    """A run of shorter phases than the sequences were prepared for compares what it can, and says how many it can't."""
    run = finished_run(tmp_path / "run", shop)
    split, lengths = shop.file.column("split"), shop.file.lengths().tolist()
    for enabled, longest in ((True, 1024), (False, 512)):
        phases = shop.settings.long_context.model_copy(update={"phase3_enabled": enabled})
        (run / "settings.yaml").write_text(dump_yaml(shop.settings.model_copy(update={"long_context": phases})))
        said = " ".join(evaluated(run, "--repo", shop.folder).split())
        longer = sum(one == "test" and length > longest for one, length in zip(split, lengths, strict=True))
        assert bool(longer) != enabled
        note = f"{longer} held-out sequences are longer than the run's longest phase ({longest:,} tokens)"
        assert (note in said) == bool(longer)
        assert any("longest phase" in one for one in read_evaluation(run / "evaluation.json").notes) == bool(longer)


def test_an_unfinished_run_s_best_so_far_is_taken_and_that_is_said(
    shop: Prepared, engine: TwoLosses, tmp_path: Path
) -> None:
    run = unfinished_run(tmp_path / "run", shop)
    said = evaluated(run, "--repo", shop.folder)
    assert "note: the run isn't finished: its best checkpoint so far is taken, step-00000001" in said
    assert engine.loaded == [run / "best" / "adapter"]
    assert any("isn't finished" in note for note in read_evaluation(run / "evaluation.json").notes)


def test_lengths_beyond_its_positions_are_measured_at_their_tiers(shop: Prepared, run: Path, engine: TwoLosses) -> None:
    repo, full = ("--repo", shop.folder, "--length", 512), ("--set", "context.window=full")
    longer = (*repo, "--length", 4096, *full, "--set", "context.target_length=8192")
    said = evaluated(run, *longer, "--set", "context.method=yarn")
    assert "4,096 tokens: longer than the positions in training" in " ".join(said.split())
    assert [(one.method, one.target_length) for one in engine.positions] == [("yarn", 4096), ("none", None)], (
        "not for phases; neutral code as in training"
    )
    positions = read_evaluation(run / "evaluation.json").about["positions"]
    assert positions["512"]["method"] == "none"
    assert (positions["4096"]["method"], positions["4096"]["target_length"]) == ("yarn", 4096)
    scored = len(engine.scored)
    evaluated(run, *longer, "--set", "context.method=yarn")
    assert len(engine.scored) == scored, "kept"
    evaluated(run, *longer, "--set", "context.method=linear")
    assert len(engine.scored) > scored and engine.positions[-1].method == "linear", "measured with others"


def test_a_young_repository_is_measured_on_held_out_files(young: Prepared, engine: TwoLosses, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", young)
    said = " ".join(evaluated(run, "--repo", young.folder).split())
    assert "no commits are held out, so" in said and "files that were never trained on" in said
    assert read_evaluation(run / "evaluation.json").about["held_out"] == "files"


def test_what_doesn_t_belong_together_is_refused(
    shop: Prepared, young: Prepared, run: Path, engine: TwoLosses, tmp_path: Path
) -> None:
    repo = ("--repo", shop.folder)
    assert "nowhere: no such folder" in refused("nowhere")
    assert "isn't a run's folder" in refused(tmp_path / "run" / "adapter")
    assert f"give the run in it: {run}" in refused(tmp_path)
    assert "--split train: expected validation or test" in refused(run, *repo, "--split", "train")
    assert "holds 2048 positions: use a shorter text, or extend the positions" in refused(run, *repo, "--length", 4096)
    assert "only context settings can be set here" in refused(run, *repo, "--set", "lora.r=4")
    assert "--length 100: expected 256 tokens or more" in refused(run, *repo, "--length", 100)
    assert "no --repo contains the commit" in refused(run, "--repo", young.folder)
    assert "no such sequences" in refused(run, *repo, "--sequences", tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("A line of notes.\n" * 400)
    write_inputs(tmp_path / "text", tmp_path / "notes.txt", shop.tokenizer, 256, redact=True)
    assert "made of a text; only a repository has" in refused(run, *repo, "--sequences", tmp_path / "text")
    config = run / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace("embedded", "someone/else"))
    assert "is an adapter for someone/else, but its run was for embedded" in refused(run, *repo)
    (run / "last" / "state.json").unlink()
    config.write_text(config.read_text().replace("someone/else", "embedded"))
    assert "doesn't record what it was trained on; give --sequences FILE" in refused(run, *repo)
    assert not engine.scored


def test_a_refusal_is_one_line_and_status_2(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "longrepo", "evaluate", str(tmp_path)]
    out = subprocess.run(words, capture_output=True, text=True)
    assert out.returncode == 2 and len(out.stderr.splitlines()) == 1
    assert out.stderr.startswith("error: ") and "isn't a run's folder" in out.stderr


def figure(measure: str, metric: str, groups: int, **parts: Any) -> Figure:
    values = [Estimate(value, value - 0.05, value + 0.05) for value in (3.0, 2.8, -0.2)]
    return Figure(measure, metric, parts, "nats a token", "lower", *values, 12, 300, groups, 0)  # type: ignore[arg-type]


def test_what_is_printed_fits_a_terminal_and_leaves_no_figure_out() -> None:
    figures = [
        figure("context", "loss", 8, context="related", length=512),
        figure("context", "loss", 8, context="related", length=2048),
        figure("line", "loss", 3, **{"class": "in_project", "context": "none", "length": 2048}),
        figure("completion", "identifiers", 8, task="block", place="cross_file", length=2048),
        figure("fim", "loss", 8, scope="identifier", length=2048),
        figure("fim", "edit", 8, scope="identifier", length=2048),
        figure("next_edit", "loss", 8, length=2048),
        figure("api_use", "exact", 8, what="arguments", place="cross_file", length=2048),
        figure("needle", "exact", 1, depth=-1, length=2048),
    ]
    rows = [Comparison(2048, 2048, 8, 400, 8, 3.0, 2.8, -0.2, -0.25, -0.15)]
    out = StringIO()
    print_evaluation(Evaluation({}, rows, figures, [], ["a note [not markup]"]), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    said = " ".join(out.getvalue().split())
    assert "Tuned is below base at every length" in said and "note: a note [not markup]" in said
    assert "behind different other files, 2,048 tokens" in said and "512 tokens" not in said
    rows_said = [line for line in lines if "-0.200, " in line]
    assert len(rows_said) == 9 and sum("3.000" in line and "2.800" in line for line in rows_said) == 9
    assert [line.split()[-1] for line in rows_said] == ["better", "better", "-0.150", *["better"] * 5, "interval"]
    assert "identifier (loss)" in said and "identifier (edit)" in said and "The next edit" in said
    assert "all depths (exact)" in said and "no interval" in said and "12 (8)" in said and " of " not in rows_said[0]


def quick_figures(length: int) -> list[Figure]:
    """As many as `evaluate --quick` measures at a length."""
    contexts = ("none", "random", "related", "retrieved")
    return [
        *(figure("context", "loss", 1, context=one, length=length) for one in contexts),
        *(figure("gain", "gain", 1, context=one, length=length) for one in contexts[1:]),
        *(
            figure("line", "loss", 1, **{"class": name, "context": one, "length": length})
            for name in ("committed", "in_project", "in_file", "other")
            for one in ("none", "related")
        ),
        *(
            figure("completion", metric, 1, task=task, place=place, length=length)
            for metric in ("exact", "edit", "identifiers")
            for task in ("line", "fim")
            for place in ("in_file", "cross_file", "all")
        ),
        *(figure("fim", "loss", 1, scope=scope, length=length) for scope in ("identifier", "block", "all")),
        *(figure(name, "loss", 1, length=length) for name in ("next_edit", "commit_message")),
        *(figure("api_use", "loss", 1, what="callee", place=place, length=length) for place in ("in_file", "all")),
        *(figure("question", metric, 1, kind=kind) for metric in ("exact", "right") for kind in ("caller", "all")),
        *(
            figure("needle", metric, 1, depth=depth, length=length)
            for metric in ("exact", "loss")
            for depth in (50, -1)
        ),
        figure("longppl", "longppl", 1, length=length),
        figure("short", "loss", 1, context_tokens=128),
        figure("other", "loss", 1, repository="gin"),
    ]


def test_a_quick_evaluation_is_one_screen() -> None:
    rows = [Comparison(cap, cap, 4, 600, 1, 3.0, 2.8, -0.2, -0.2, -0.2) for cap in (512, 1024, 2048)]
    out = StringIO()
    found = Evaluation({"amount": "quick", "held_out": "files"}, rows, quick_figures(2048), [], ["few", "few"])
    print_evaluation(found, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 36 and "(files)" in out.getvalue() and "Without --quick" in out.getvalue()
    assert sum("-0.200" in line for line in lines) == 3 + 14
    assert lines.count("note: few") == 1
    assert not re.search(r"\d of \d", out.getvalue())
