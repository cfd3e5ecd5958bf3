"""`longrepo pretrain` as a person runs it: from a text or a repository to a folder that transformers loads."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_repository import small_repository
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.errors import InputError
from longrepo.reports.training import TerminalReporter

LINE = "def step_{0}(amount: int) -> int:\n    return amount * {0} + offset_{0}\n\n\n"
QUICK = ("training.gradient_accumulation_steps=1", "training.max_validation_sequences=1", "training.save_every_steps=2")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "steps.py"
    file.write_text("".join(LINE.format(number % 7) for number in range(90)))
    return file


def pretrain(*arguments: str | Path) -> Result:
    quick = [word for one in QUICK for word in ("--set", one)]
    return CliRunner().invoke(app, ["pretrain", "--device", "cpu", *map(str, arguments), *quick])


def records(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = (output / "run" / "metrics.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["record"] == kind]


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    output = tmp_path_factory.mktemp("whole") / "out"
    done = pretrain("--preset", "embedded_256", "--input", text, "--max-steps", "6", "--output", output)
    assert done.exit_code == 0, (done.output, done.exception)
    return output


def test_the_loss_falls_over_so_many_updates(whole: Path) -> None:
    updates = records(whole, "update")
    assert [one["update"] for one in updates] == list(range(1, 7))
    assert sum(one["loss"] for one in updates[-2:]) < sum(one["loss"] for one in updates[:2]) - 1
    rates = [one["learning_rate"] for one in updates]
    assert rates[-1] < rates[0] / 5  # the decay spans the steps asked for


def test_plain_transformers_loads_what_was_written(whole: Path) -> None:
    folder = whole / "run" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.max_position_embeddings == 256
    assert len(tokenizer) == model.config.vocab_size == 4096 + 20
    start = AutoModelForCausalLM.from_pretrained(whole / "start")
    name = "model.layers.0.mlp.c_fc.weight"
    assert not torch.equal(model.state_dict()[name], start.state_dict()[name])
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 100000.0


def test_a_stopped_run_goes_on_to_the_same_bits(whole: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    told = TerminalReporter.update

    def stop_at_third(self: TerminalReporter, record: Any) -> None:
        told(self, record)
        if record.update == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TerminalReporter, "update", stop_at_third)
        stopped = pretrain("--preset", "embedded_256", "--input", text, "--max-steps", "6", "--output", output)
    assert stopped.exit_code == 130 and not (output / "run" / "model").exists()
    assert "pretrain" in stopped.output and "--resume auto" in stopped.output
    resumed = pretrain("--output", output, "--resume", "auto")
    assert resumed.exit_code == 0, (resumed.output, resumed.exception)
    for file in ("model/model.safetensors", "last/optimizer.safetensors"):
        assert (output / "run" / file).read_bytes() == (whole / "run" / file).read_bytes()


def test_a_repository_is_trained_on_in_windows_of_the_context(tmp_path: Path) -> None:
    repo, output = small_repository(tmp_path / "shop"), tmp_path / "out"
    done = pretrain("--preset", "embedded_256", "--repo", repo, "--max-steps", "1", "--output", output)
    assert done.exit_code == 0, (done.output, done.exception)
    plan = json.loads((output / "run" / "memory_plan.json").read_text())
    assert plan["phases"]["1"]["length"] == 256 and plan["phases"]["1"]["parts"]["adapter"] == 0


FURTHER = (
    "long_context.phase3_enabled=false",
    "long_context.further_phases=[{min_length: 1536, max_length: 2048, epochs: 1}]",
    "model.max_position_embeddings=2048",
)
BAD: dict[str, tuple[list[str], str]] = {
    "an unknown preset": (
        ["--preset", "15M_1024", "--input", "TEXT"],
        "preset 15M_1024: no such preset; the nearest name is 150M_1024",
    ),
    "an unknown context": (["--preset", "150M_1000", "--input", "TEXT"], "nearest context of 150M is 150M_1024"),
    "no preset": (["--input", "TEXT"], "--preset: which one"),
    "nothing to train on": (["--preset", "embedded_256"], "either --input FILE or --repo PATH"),
    "no such text": (["--preset", "embedded_256", "--input", "nowhere.txt"], "nowhere.txt: no such file"),
    "binary": (["--preset", "embedded_256", "--input", "BINARY"], "isn't UTF-8 text"),
    "an empty text": (["--preset", "embedded_256", "--input", "EMPTY"], "has no text"),
    "too little text": (["--preset", "embedded_256", "--input", "SHORT"], "make 1 window of 256, and 2 are needed"),
    "no sequences": (["--preset", "embedded_256", "--input", "."], "holds no sequences"),
    "a full output": (["--preset", "embedded_256", "--input", "TEXT", "--output", "FULL"], "FULL is not empty"),
    "no memory": (
        ["--preset", "embedded_256", "--input", "TEXT", "--set", "memory.budget_gb=0.01"],
        r"weights, gradients and moments take 0\.08 GiB .* the budget is 0\.01 GiB .* no smaller preset fits either",
    ),
    "a further phase beyond the positions": (
        ["--preset", "embedded_256", "--input", "TEXT", *(word for one in FURTHER for word in ("--set", one))],
        r"further_phases\[0\].max_length: 2,048 tokens, and the positions of embedded_256 reach 256",
    ),
    "nothing to go on with": (["--resume", "auto"], "no training has begun"),
    "another resume": (["--resume", "there"], "--resume there: expected auto"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, text: Path, tmp_path: Path) -> None:
    arguments, expected = BAD[case]
    (tmp_path / "EMPTY").write_text("\n")
    (tmp_path / "SHORT").write_text("x = 1\n")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "thesis.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        out = pretrain("--output", "out", *(str(text) if one == "TEXT" else one for one in arguments))
    assert isinstance(out.exception, InputError), out.exception
    assert "\n" not in str(out.exception)
    with pytest.raises(InputError, match=expected):
        raise out.exception
    assert not (tmp_path / "out" / "run").exists() and not (tmp_path / "out" / "start").exists()


def test_no_steps_at_all_is_refused(text: Path, tmp_path: Path) -> None:
    out = pretrain("--preset", "embedded", "--input", text, "--max-steps", "0", "--output", tmp_path / "out")
    assert out.exit_code == 2 and "--max-steps" in out.output
