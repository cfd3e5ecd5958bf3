"""All weights trained, then what a person does with a run: evaluate, report, export, generate, from its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_repository import small_repository
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.evaluation.results import read_evaluation

PROMPT, TOKENS = "from shop.account import Account\n\n\ndef test_account", "12"
CPU = ("--device", "cpu")
SETTINGS = ("training.gradient_accumulation_steps=1", "training.max_validation_sequences=1")


def ran(*words: str | Path) -> Result:
    out = CliRunner().invoke(app, [*map(str, words)])
    assert out.exit_code == 0, (out.output, out.exception)
    return out


def longrepo(*words: str | Path) -> str:
    """What a command writes to standard output."""
    return ran(*words).stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_repository(tmp_path_factory.mktemp("shop") / "shop")


@pytest.fixture(scope="module")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "out"
    quick = [word for one in SETTINGS for word in ("--set", one)]
    longrepo(
        "pretrain", "--preset", "embedded_256", "--repo", shop, "--max-steps", "4", "--output", output, *CPU, *quick
    )
    return output / "run"


@torch.no_grad()
def written(folder: Path) -> str:
    """What plain transformers writes."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    new = model.generate(ids, max_new_tokens=int(TOKENS), do_sample=False)[0, ids.shape[1] :]
    return str(tokenizer.decode(new))


def generated(run: Path, *words: str) -> str:
    return longrepo("generate", run, "--prompt", PROMPT, "--max-tokens", TOKENS, *CPU, *words)


def test_it_is_evaluated_against_what_it_began_as_and_reported(run: Path, shop: Path) -> None:
    assert "base" in longrepo("evaluate", run, "--quick", "--repo", shop, *CPU)
    found = read_evaluation(run / "evaluation.json")
    assert all(one.base > 8 and one.tuned < one.base for one in found.comparisons), "random weights: ln 4116 is 8.3"
    assert found.comparisons and not any("left out: its positions" in note for note in found.notes)
    assert "loss on held-out lines" in longrepo("report", run)
    page = (run / "report.html").read_text()
    assert "· all weights" in page and "LoRA of rank" not in page and "PeftModel" not in page
    assert f"model is in <code>{run}/model</code>" in page
    assert f"AutoModelForCausalLM.from_pretrained(&#34;{run}/model&#34;)" in page
    assert "--format merged" in page and "--format peft" not in page


def test_the_pipeline_trains_them_and_says_where_the_model_lies(shop: Path, tmp_path: Path) -> None:
    """An automatic choice keeps its reason down to the training."""
    phases = ("phase1_max_length=256", "phase1_epochs=1", "phase2_min_length=384", "phase2_max_length=512")
    wanted = [f"long_context.{one}" for one in (*phases, "phase2_epochs=0")]
    wanted += ["model.quantization=none", "training.weights=all", "training.max_tokens_per_epoch=1000", *SETTINGS]
    settings = [word for one in wanted for word in ("--set", one)]
    done = ran("pipeline", "--repo", shop, "--model", "embedded", "--output", tmp_path / "out", *settings, *CPU)
    (model,) = (tmp_path / "out").glob("training-*/model")
    assert f"model: {model}\n  in transformers' format; how to load it: {model}/README.md" in done.stdout
    assert "engine: torch: the one that trains all weights" in done.stderr


def test_an_export_writes_what_the_run_does(run: Path, tmp_path: Path) -> None:
    longrepo("export", run, "--format", "merged", "--precision", "float32", "--output", tmp_path / "merged")
    said = generated(run)
    assert said and written(tmp_path / "merged") == said == generated(run / "model")
    assert generated(run, "--base") == written(run.parent / "start") != said


def test_an_unfinished_run_s_best_so_far_stands_for_it(run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped, symlinks=True)
    shutil.rmtree(stopped / "model")
    assert generated(stopped / "best") == generated(run)
    lines = longrepo("export", stopped, "--format", "merged", "--output", tmp_path / "merged").splitlines()
    assert "isn't finished: its best checkpoint so far is taken, phase-1" in lines[0]
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == 4096 + 20
    assert "has no final model yet" in (longrepo("report", stopped) and (stopped / "report.html").read_text())
