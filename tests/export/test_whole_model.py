"""A run whose weights were all trained: found, exported without merging; what an adapter alone can do is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx_lm
import numpy as np
import pytest
import torch
from exported import Run, base_folder, mlx_logits, torch_logits, trained_run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrepo.engines.registry import EngineSelection
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.export.run_converter import LORA_SCRIPT, MODEL_SCRIPT
from longrepo.rope.apply import NATIVE_CONTEXT
from longrepo.serve.model import TunedModel
from longrepo.training.artifact import find_artifact

WHOLE = "training.weights=all"
YARN = ("context.method=yarn", "context.target_length=8192", "context.window=full")
EXACT = ExportOptions(precision="auto")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return trained_run(folder / "run", base_folder(folder / "start", tie_word_embeddings=False), WHOLE)


@torch.no_grad()
def plain_logits(folder: Path, ids: list[int]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model(input_ids=torch.tensor([ids])).logits[0].float().numpy()


@pytest.mark.parametrize("positions", [(), YARN], ids=["own", "yarn"])
def test_transformers_loads_an_export_and_computes_what_was_trained(tmp_path: Path, positions: tuple[str, ...]) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "start"), WHOLE, *positions)
    source = find_artifact(run.folder)
    assert source.whole and (source.settings.context == NATIVE_CONTEXT) == (not positions)
    lines = export_artifact(source, "merged", EXACT, tmp_path / "merged")
    ids = run.prompt + run.engine.generate(run.prompt, 30)
    np.testing.assert_allclose(plain_logits(tmp_path / "merged", ids), torch_logits(run, ids), rtol=0, atol=1e-5)
    name, id = next(iter(run.tokenizer.structure_ids.items()))
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").encode(name) == [id]
    assert "with all weights trained, float32" in lines[0] and not (tmp_path / "merged" / "positions.json").exists()


def test_nothing_is_merged_and_every_row_is_the_trained_one(run: Run, tmp_path: Path) -> None:
    """The rows of structure tokens too, in the embedding and in the head that isn't tied to it."""
    export_artifact(find_artifact(run.folder), "merged", EXACT, tmp_path / "exact")
    export_artifact(find_artifact(run.folder), "merged", ExportOptions(), tmp_path / "rounded")
    trained = load_file(run.folder / "model" / "model.safetensors")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    assert exact.keys() == rounded.keys() == trained.keys()
    assert all(torch.equal(exact[name], trained[name]) for name in trained)
    assert all(torch.equal(rounded[name], trained[name].bfloat16()) for name in trained)
    card = (tmp_path / "exact" / "README.md").read_text()
    assert "| method | all weights |" in card and "lora" not in card.lower()


def test_mlx_lm_loads_an_export_and_computes_what_was_trained(run: Run, tmp_path: Path) -> None:
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(precision="float32"), tmp_path / "mlx")
    model, _ = mlx_lm.load(str(tmp_path / "mlx"), trust_remote_code=True)  # type: ignore[misc]
    ids = run.prompt + run.engine.generate(run.prompt, 30)
    np.testing.assert_allclose(mlx_logits(model, ids), torch_logits(run, ids), rtol=0, atol=1e-3)
    assert lines[-1].startswith(f"mlx_lm.server --model {tmp_path / 'mlx'}") and "adapter" not in " ".join(lines)


def test_llama_cpps_converter_is_given_the_trained_model(run: Run, tmp_path: Path) -> None:
    stand_in = (
        "import pathlib, shutil, sys\n"
        "shutil.copy(pathlib.Path(sys.argv[1]) / 'model.safetensors', sys.argv[sys.argv.index('--outfile') + 1])\n"
    )
    for name in (MODEL_SCRIPT, LORA_SCRIPT):
        (tmp_path / name).write_text(stand_in)
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "base.py").write_text("class TextModel:\n    get_vocab_base_pre = None\n")
    lines = export_artifact(
        find_artifact(run.folder), "gguf", ExportOptions(None, "float32", llama_cpp=tmp_path), tmp_path / "gguf"
    )
    given = load_file(tmp_path / "gguf" / "model-f32.gguf")
    trained = load_file(run.folder / "model" / "model.safetensors")
    assert given.keys() == trained.keys() and all(torch.equal(given[name], trained[name]) for name in trained)
    assert "all weights trained" in lines[0]


@pytest.mark.parametrize(
    ("format", "choices", "expected"),
    [
        (
            "peft",
            ExportOptions(),
            "--format peft: .*model is a fully trained model, not an adapter; use --format merged",
        ),
        ("gguf", ExportOptions(adapter_only=True), "--adapter-only: .*; leave it out"),
        ("mlx", ExportOptions(with_base=True), "--with-base: .*; leave it out"),
    ],
)
def test_what_there_is_of_an_adapter_alone_is_one_line(
    run: Run, tmp_path: Path, format: str, choices: ExportOptions, expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        export_artifact(find_artifact(run.folder), format, choices, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_run_is_found_by_its_folder_and_by_its_model(run: Run, tmp_path: Path) -> None:
    assert find_artifact(run.folder) == find_artifact(run.folder / "model")
    names = [file.name for file in find_artifact(run.folder).files]
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    shutil.copytree(run.folder / "model", tmp_path / "alone")
    with pytest.raises(InputError, match="alone: a model on its own, not what a run trained"):
        find_artifact(tmp_path / "alone")
    text = (run.folder / "settings.yaml").read_text()
    (tmp_path / "settings.yaml").write_text(text.replace("weights: all", "weights: lora"))
    with pytest.raises(InputError, match="alone: a model on its own"):
        find_artifact(tmp_path / "alone")
    with pytest.raises(InputError, match=r"this run has no adapter yet"):
        find_artifact(tmp_path)
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(InputError, match=r"this run has no model yet \(nothing was trained\)"):
        find_artifact(tmp_path)


def test_where_training_began_may_have_moved_and_its_loss_is_one_line(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    settings = tmp_path / "run" / "settings.yaml"
    settings.write_text(settings.read_text().replace(str(run.model), str(tmp_path / "gone")))
    source = find_artifact(tmp_path / "run")
    with pytest.raises(InputError, match=r"its base model .*gone no longer exists; restore it, or name") as caught:
        source.on(None)
    assert "\n" not in str(caught.value)
    torch_alone = EngineSelection("torch", "asked")
    with pytest.raises(InputError, match="no longer exists"):
        TunedModel.load(tmp_path / "run", None, torch_alone, "cpu")
    tuned = TunedModel.load(tmp_path / "run", str(run.model), torch_alone, "cpu")
    assert tuned.engine.generate(run.prompt, 20) == run.engine.generate(run.prompt, 20)
    assert "training began with" in tuned.notes[0]
    with tuned.engine.base_only():
        base = tuned.engine.generate(run.prompt, 20)
    assert base != run.engine.generate(run.prompt, 20)
    export_artifact(source.on(str(run.model)), "merged", ExportOptions(), tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
