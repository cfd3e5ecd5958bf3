"""A merged model computes, in plain transformers, what was trained; it is the unquantised base's, rounded once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import Run, base_folder, loaded, mlx_logits, peft_logits, torch_logits, trained_run
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from longrepo import embedded
from longrepo.errors import InputError
from longrepo.export import merged
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.training.artifact import find_artifact

FLOAT32 = ExportOptions(precision="float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return trained_run(folder / "run", base_folder(folder / "model"))


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    logits: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


def check_same(run: Run, folder: Path, count: int = 30) -> None:
    """Past the window of 16 too."""
    model, ours = plain(folder), run.engine.generate(run.prompt, count)
    ids = run.prompt + ours
    np.testing.assert_allclose(logits_of(model, ids), torch_logits(run, ids), rtol=0, atol=1e-4)
    new = model.generate(torch.tensor([run.prompt]), max_new_tokens=count, do_sample=False)[0, len(run.prompt) :]
    assert new.tolist()[: len(ours)] == ours and len(ours) > 5


def test_plain_transformers_computes_what_the_engine_does(run: Run, tmp_path: Path) -> None:
    lines = export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "merged")
    check_same(run, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    name, id = next(iter(run.tokenizer.structure_ids.items()))
    assert tokenizer.encode(name) == [id] and lines[0].startswith(f"model: {tmp_path / 'merged'}")


def test_the_embedded_model_too_with_its_licence_files(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", "embedded")
    export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "merged")
    check_same(run, tmp_path / "merged")
    assert (tmp_path / "merged" / "LICENSE-sources.md").is_file()


def test_where_the_head_is_not_tied_only_the_embedding_takes_the_trained_rows(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model", tie_word_embeddings=False))
    export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "merged")
    check_same(run, tmp_path / "merged")


def test_without_structure_rows_the_vocabulary_stays(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", base_folder(tmp_path / "model"), "data.structure_tokens=false")
    export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "merged")
    check_same(run, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == 4096


TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"], "vocab_size": 4096,
    "eos_token_id": 0, "bos_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
MAMBA = {
    "hidden_size": 64, "shared_intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 0, "layer_types": ["mamba", "attention"], "mamba_n_heads": 8,
    "mamba_d_head": 16, "mamba_d_state": 12, "mamba_chunk_size": 16, "vocab_size": 4096, "logits_scaling": 8,
    "eos_token_id": 0, "bos_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["qwen3_5", "granitemoehybrid"])
def test_a_model_with_recurrent_layers_and_qwen3_5_s_language_model_without_its_eyes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    if kind == "qwen3_5":
        eyes: Any = Qwen3_5Config(text_config=TEXT, vision_config=VISION, tie_word_embeddings=True)
        model: Any = Qwen3_5ForConditionalGeneration(eyes)
    else:
        model = GraniteMoeHybridForCausalLM(GraniteMoeHybridConfig(**MAMBA, tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded.path() / name, tmp_path / "model" / name)
    run = trained_run(tmp_path / "run", tmp_path / "model")
    ids = [*run.prompt, *range(900, 940)]
    theirs = peft_logits(run.model, run.folder / "adapter", run.tokenizer.vocabulary_size, ids)
    np.testing.assert_allclose(theirs, torch_logits(run, ids), rtol=0, atol=1e-4)
    export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "merged")
    merged_model = plain(tmp_path / "merged")
    np.testing.assert_allclose(logits_of(merged_model, ids), torch_logits(run, ids), rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["model_type"] == {"qwen3_5": "qwen3_5_text"}.get(kind, kind)
    assert config["vocab_size"] == run.tokenizer.vocabulary_size and "vision_config" not in config
    export_artifact(find_artifact(run.folder), "mlx", FLOAT32, tmp_path / "mlx")
    theirs = mlx_logits(loaded(tmp_path / "mlx"), ids)
    np.testing.assert_allclose(theirs, torch_logits(run, ids), rtol=0, atol=1e-4)


def test_bfloat16_is_float32_rounded_once_and_files_hold_a_part_each(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "exact")
    monkeypatch.setattr(merged, "_SHARD_BYTES", 40_000)
    export_artifact(find_artifact(run.folder), "merged", ExportOptions(), tmp_path / "rounded")
    files = sorted((tmp_path / "rounded").glob("model-*.safetensors"))
    assert len(files) > 2 and (tmp_path / "rounded" / "model.safetensors.index.json").is_file()
    rounded = {name: tensor for file in files for name, tensor in load_file(file).items()}
    exact = load_file(tmp_path / "exact" / "model.safetensors")
    assert rounded.keys() == exact.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert json.loads((tmp_path / "rounded" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "rounded", dtype="auto").dtype == torch.bfloat16


def test_a_run_on_four_bits_is_merged_into_the_base_itself(run: Run, tmp_path: Path) -> None:
    text = (run.folder / "settings.yaml").read_text().replace("quantization: none", "quantization: nf4")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.yaml").write_text(text)
    (tmp_path / "run" / "adapter").symlink_to(run.folder / "adapter")
    lines = export_artifact(find_artifact(tmp_path / "run"), "merged", FLOAT32, tmp_path / "merged")
    check_same(run, tmp_path / "merged")
    assert any("trained on the base in 4 bits" in line for line in lines)


def test_a_base_published_in_four_bits_is_refused_and_another_can_be_named(run: Run, tmp_path: Path) -> None:
    packed = base_folder(tmp_path / "packed")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    source = find_artifact(run.folder).on(str(packed))
    with pytest.raises(InputError, match=r"published quantised \(bitsandbytes\).*--base") as caught:
        export_artifact(source, "merged", FLOAT32, tmp_path / "merged")
    assert "\n" not in str(caught.value) and not (tmp_path / "merged").exists()
    export_artifact(source.on(str(run.model)), "merged", FLOAT32, tmp_path / "merged")
    check_same(run, tmp_path / "merged")


def test_another_base_a_full_disk_and_weights_beyond_float16_are_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = base_folder(tmp_path / "narrow", intermediate_size=64)
    with pytest.raises(InputError, match=r"another base: model\.layers\.0\.mlp\.c_"):
        export_artifact(find_artifact(run.folder).on(str(narrow)), "merged", FLOAT32, tmp_path / "merged")
    wide = base_folder(tmp_path / "wide", initializer_range=40000.0)
    with pytest.raises(InputError, match=r"beyond the range of torch\.float16; choose --precision bfloat16"):
        export_artifact(
            find_artifact(run.folder).on(str(wide)), "merged", ExportOptions(precision="float16"), tmp_path / "merged"
        )
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("longrepo.export.merged.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"needs [0-9.]+ GB"):
        export_artifact(find_artifact(run.folder), "merged", FLOAT32, tmp_path / "merged")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".writing*"))


@pytest.mark.parametrize(
    "format, choices, expected",
    [
        ("merged", ExportOptions(adapter_only=True), "--adapter-only: --format merged doesn't take it"),
        ("mlx", ExportOptions(precision="float16"), "--precision float16: --format mlx takes auto, bfloat16, float32"),
        ("gguf", ExportOptions(quantization="4bit"), "--quantization 4bit: --format gguf takes none, 8bit"),
        ("peft", ExportOptions(quantization="none"), "--quantization: --format peft doesn't take it"),
    ],
)
def test_an_option_that_the_format_does_not_take_is_one_line(
    run: Run, tmp_path: Path, format: str, choices: ExportOptions, expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        export_artifact(find_artifact(run.folder), format, choices, tmp_path / "out")
