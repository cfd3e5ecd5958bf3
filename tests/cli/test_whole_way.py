"""The pipeline as the README runs it: from a repository to an adapter that plain PEFT loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_repository import small_repository

ROOT = Path(__file__).parents[2]
SMALL = {
    "lora.r": 4,
    "lora.dropout": 0.1,
    "data.held_out_per_length": 4,
    "training.base_learning_rate": 2e-3,
    "training.gradient_accumulation_steps": 4,
    "training.max_tokens_per_epoch": 2500,
    "training.max_validation_sequences": 3,
    "training.save_every_steps": 1,
    "long_context.phase1_max_length": 256,
    "long_context.phase2_min_length": 384,
    "long_context.phase2_max_length": 512,
    "long_context.phase3_min_length": 768,
    "long_context.phase3_max_length": 1024,
    "long_context.phase1_epochs": 2,
    "long_context.phase2_epochs": 1,
    "long_context.phase3_epochs": 1,
    "long_context.phase3_enabled": "true",
}
SETTINGS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / words[0]), *map(str, words[1:])]


def run(*words: str | Path, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*words), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_repository(tmp_path_factory.mktemp("whole") / "shop")


@pytest.fixture(scope="module")
def piped(repo: Path) -> tuple[Path, str]:
    """The pipeline's output folder and what it printed."""
    folder = repo.parent
    done = run("run_pipeline_dynamic.py", "--repo", repo, "--model", "embedded", *SETTINGS, cwd=folder)
    return folder / "runs" / "shop", done.stdout


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_pipeline_trains_all_phases_and_says_what_it_bought(piped: tuple[Path, str]) -> None:
    output, said = piped
    records = [json.loads(line) for line in (only(output, "training-*/metrics.jsonl")).read_text().splitlines()]
    assert {record["phase"] for record in records if record.get("record") == "epoch"} == {1, 2, 3}
    assert "as you set it" in said and "no CUDA or Metal device found" in " ".join(said.split())
    assert "Held-out loss" in said
    figures = json.loads(only(output, "evaluation-*/evaluation.json").read_text())["comparisons"]
    assert [row["cap"] for row in figures] == [256, 512, 1024]
    assert all(row["tuned"] < row["base"] for row in figures)
    assert str(only(output, "training-*/adapter").relative_to(output.parent.parent)) in said
    *_, first, second, third, page = said.splitlines()
    assert "loss on held-out lines" in first and "gained from context" in second
    assert "of the next line as committed" in third
    assert page == f"page: {only(output, 'training-*/report.html').relative_to(output.parent.parent)}"


def test_a_second_run_skips_what_is_done(piped: tuple[Path, str], repo: Path) -> None:
    output, said = piped
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    done = run("run_pipeline_dynamic.py", "--repo", repo, "--model", "embedded", *SETTINGS, cwd=repo.parent)
    assert done.stdout.count("done before, unchanged: skipped") == 3
    assert before == {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    table = said[said.index("Held-out loss") :]
    assert table in done.stdout
    assert len(list(output.glob("training-*"))) == 2  # the run's folder and its settings file


PLAIN_PEFT = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(adapter)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, adapter).eval()
text = "<|FILE_START|>shop/account.py\\nclass Account:<|FILE_END|><|COMMIT_START|>"
ids = tokenizer(text, return_tensors="pt").input_ids
with torch.no_grad():
    logits = model(input_ids=ids).logits[0]
torch.save({"ids": ids, "logits": logits}, out)
assert not any(name.startswith("longrepo") for name in sys.modules)
"""


def test_plain_peft_gives_the_engine_s_logits_structure_rows_included(piped: tuple[Path, str], tmp_path: Path) -> None:
    import torch

    from longrepo import embedded
    from longrepo.config.loader import load_settings
    from longrepo.data.tokenizer_loading import load_tokenizer
    from longrepo.engines.torch.engine import TorchEngine

    run_folder = only(piped[0], "training-*/adapter").parent
    script, out = tmp_path / "plain.py", tmp_path / "logits.pt"
    script.write_text(PLAIN_PEFT)
    arguments = [sys.executable, script, embedded.path(), run_folder / "adapter", out]
    subprocess.run(list(map(str, arguments)), check=True, cwd=tmp_path)
    plain = torch.load(out)

    settings = load_settings(run_folder / "settings.yaml", ["model.quantization=none", "training.precision=float32"])
    engine = TorchEngine.create(settings, load_tokenizer("embedded"), "cpu")
    fresh = engine.rows.weight.detach().clone()
    engine.load_adapter(run_folder / "adapter")
    assert (engine.rows.weight != fresh).any(dim=1).sum() >= 2, "rows of structure tokens were trained"
    engine.model.eval()
    with torch.no_grad():
        ours = engine.model(input_ids=plain["ids"]).logits[0]
    assert plain["ids"].max() >= fresh.shape[0]
    torch.testing.assert_close(ours, plain["logits"], rtol=0, atol=1e-4)


ONE_PHASE = ("long_context.phase2_epochs=0", "long_context.phase3_enabled=false", "data.held_out_per_length=2")


def test_ctrl_c_saves_and_the_same_command_goes_on(repo: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, *(word for one in ONE_PHASE for word in ("--set", one))]
    words = command("run_pipeline_dynamic.py", "--repo", repo, "--model", "embedded", "--output", "out", *settings)
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not list(tmp_path.glob("out/training-*/last")):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "run_pipeline_dynamic.py" in said.splitlines()[-1]
    resume = said.splitlines()[-1].split()
    assert "--repo" in resume
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stderr
