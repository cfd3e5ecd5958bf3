"""The Python API, from a repository to a completion, on the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_repository import small_repository

import longrepo
from longrepo.api import PreparedFolder
from longrepo.errors import InputError
from longrepo.training.launch import SilentReporter, TrainedRun

SMALL = (
    "lora.r=4",
    "lora.target_modules=[q_proj, v_proj, c_fc]",
    "data.held_out_per_length=4",
    "training.base_learning_rate=2e-3",
    "training.gradient_accumulation_steps=4",
    "training.max_tokens_per_epoch=1500",
    "training.max_validation_sequences=2",
    "long_context.phase1_max_length=256",
    "long_context.phase2_min_length=384",
    "long_context.phase2_max_length=512",
    "long_context.phase1_epochs=1",
    "long_context.phase2_epochs=0",
)
AUTO = "lora.target_modules=auto"


class Told(SilentReporter):
    """What a training says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_repository(tmp_path_factory.mktemp("api") / "shop")


@pytest.fixture(scope="module")
def prepared(repo: Path) -> PreparedFolder:
    return longrepo.prepare(
        str(repo), repo.parent / "prep", max_sequence_length=512, phases=2, model="embedded", overrides=SMALL
    )


@pytest.fixture(scope="module")
def trained(repo: Path, prepared: PreparedFolder) -> TrainedRun:
    return longrepo.train(
        prepared.sequences, repo.parent / "run", model="embedded", overrides=SMALL, device="cpu", engine="torch"
    )


def test_prepare_writes_sequences_and_says_what_they_were_made_of(repo: Path, prepared: PreparedFolder) -> None:
    assert prepared.sequences == repo.parent / "prep" / "sequences" and prepared.sequences.is_dir()
    assert [facts.name for facts in prepared.header.repositories] == ["shop"]
    assert set(prepared.header.counts) == {"train", "validation", "test"}
    written = json.loads((repo.parent / "prep" / "preparation_summary.json").read_text())
    assert written["sequences_sha256"] == prepared.header.content_sha256
    assert written["repositories"] == json.loads(json.dumps(prepared.summary["repositories"]))


def test_train_gives_the_adapter_and_finds_a_finished_run_finished(repo: Path, trained: TrainedRun) -> None:
    assert (trained.exit_status, trained.already_finished) == (0, False)
    assert trained.trained == repo.parent / "run" / "adapter"
    assert (trained.trained / "adapter_model.safetensors").is_file()
    again = longrepo.train(output=trained.output, resume="auto", device="cpu", engine="torch")
    assert (again.trained, again.already_finished) == (trained.trained, True)


def test_a_run_goes_on_with_its_modules_and_says_so_where_auto_means_others(trained: TrainedRun) -> None:
    told = Told()
    longrepo.train(output=trained.output, resume="auto", device="cpu", engine="torch", reporter=told, overrides=[AUTO])
    others = "q_proj, k_proj, v_proj, o_proj, c_fc, c_proj"
    assert "LoRA: q_proj, v_proj, c_fc" in told.notes
    assert f"lora.target_modules: the checkpoint's modules hold, not auto ({others})" in told.notes


def test_evaluate_compares_base_and_tuned_and_writes_the_figures(repo: Path, trained: TrainedRun) -> None:
    told: list[str] = []
    found = longrepo.evaluate(
        trained.output, repo=repo, amount="glance", device="cpu", engine="torch", note=told.append
    )
    assert told[0] == "engine: torch: as asked"
    assert found.comparisons and all(row.tuned != row.base for row in found.comparisons)
    written = json.loads((trained.output / "evaluation.json").read_text())
    assert [row["tuned"] for row in written["comparisons"]] == [row.tuned for row in found.comparisons]
    elsewhere = repo.parent / "again.json"
    longrepo.evaluate(trained.output, repo=[repo], amount="glance", device="cpu", engine="torch", result=elsewhere)
    assert json.loads(elsewhere.read_text())["comparisons"] == written["comparisons"]


def test_load_gives_a_model_that_completes_as_the_command_does(trained: TrainedRun) -> None:
    prompt = "from shop.account import Account\n\n\ndef test_account"
    tuned = longrepo.load(trained.output, device="cpu", engine="torch")
    words = [sys.executable, "-m", "longrepo", "generate", str(trained.output), "--prompt", prompt]
    words += ["--max-tokens", "8", "--device", "cpu", "--engine", "torch"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    assert f"{tuned.complete(prompt, 8)}\n8 tokens, after the text before" in done.stdout


def test_the_api_is_loaded_when_it_is_first_asked_for() -> None:
    code = (
        "import sys, longrepo\nassert 'longrepo.api' not in sys.modules and 'pydantic' not in sys.modules\n"
        "assert longrepo.prepare.__module__ == 'longrepo.api'\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'prepar'"):
        longrepo.prepar  # noqa: B018


def test_wrong_arguments_are_refused_in_a_line(repo: Path, tmp_path: Path, trained: TrainedRun) -> None:
    with pytest.raises(InputError, match="--weight is given 2 times and --repo 1 times"):
        longrepo.prepare(repo, tmp_path, weight=[1, 2], model="embedded")
    with pytest.raises(InputError, match="--resume goes on with a run and --checkpoint begins a new one"):
        longrepo.train(output=tmp_path, resume="auto", checkpoint=trained.output / "best")
    with pytest.raises(InputError, match="--split train: expected validation or test"):
        longrepo.evaluate(trained.output, split="train", device="cpu", engine="torch")
    with pytest.raises(InputError, match=r"nowhere"):
        longrepo.load(tmp_path / "nowhere")
