"""What is exported of each family computes, in plain PEFT and mlx-lm, what the torch engine trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from exported import loaded, mlx_logits, peft_logits, torch_logits, trained_run
from families import CASES, FAMILIES, published
from mlx import nn
from safetensors.numpy import load_file

from longrepo import embedded
from longrepo.config.schema import ModelSettings
from longrepo.engines.mlx.load import load_base
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact
from longrepo.export.mlx import write_imported_adapter
from longrepo.training.artifact import find_artifact


def run_of(case: str, folder: Path, *overrides: str, **changes: Any) -> Any:
    name, shape = CASES[case]
    published(folder / "model", name, shape | {"vocab_size": 4200} | changes)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded.path() / file, folder / "model" / file)
    return trained_run(folder / "run", folder / "model", *overrides)


# mlx-lm's own classes compute these cases.
OWN_CLASS = (
    "granite", "granitemoehybrid", "granitemoehybrid, mamba", "llama", "olmo2", "qwen3_5_text", "seed_oss", "smollm3",
)  # fmt: skip
MISREAD = (
    "llama, tied, one mscale",
    "phi3, longrope with a factor",
    "granitemoehybrid, no positions",
    "granitemoehybrid, mamba, groups",
    "qwen3_5_text, tied, gelu",
)


@pytest.mark.parametrize("case", [*FAMILIES, "granitemoehybrid, mamba", *MISREAD])
def test_the_base_and_its_adapter_compute_the_same_in_plain_peft_and_mlx_lm(case: str, tmp_path: Path) -> None:
    run = run_of(case, tmp_path)
    ids = [*run.prompt, *range(900, 930)]
    ours = torch_logits(run, ids)
    theirs = peft_logits(run.model, run.folder / "adapter", run.tokenizer.vocabulary_size, ids)
    known = slice(None, 4096)  # an untied head's rows for added tokens are copies here, and the base's own in PEFT
    np.testing.assert_allclose(ours[:, known], theirs[:, known], rtol=0, atol=1e-4)
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    trust = any("--trust-remote-code" in line for line in lines)
    assert trust == any("differs" in line for line in lines) == (case not in OWN_CLASS)
    np.testing.assert_allclose(mlx_logits(loaded(tmp_path / "mlx", trust), ids), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kept", ["attention", "full_attention"])
def test_granite_4_s_adapter_alone_fits_mlx_lm_s_split_mlp(kept: str, tmp_path: Path) -> None:
    """mlx-lm reads the published layer type, but not the one that transformers 5 writes, and splits a matrix in two."""
    run = run_of("granitemoehybrid", tmp_path, "data.structure_tokens=false", intermediate_size=96)
    file = run.model / "config.json"
    config = json.loads(file.read_text())
    config |= {"layer_types": [kept] * 3, "rope_theta": config["rope_parameters"]["rope_theta"]}
    file.write_text(json.dumps(config))
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    misread = kept == "full_attention"
    assert any("can't load layers of type full_attention" in line for line in lines) == misread
    assert (tmp_path / "mlx" / "base").exists() == misread
    theirs = mlx_logits(loaded(tmp_path / "mlx", False, None if misread else run.model), run.prompt)
    np.testing.assert_allclose(theirs, torch_logits(run, run.prompt), rtol=0, atol=1e-4)


@pytest.mark.parametrize("published_as", ["qwen3_5", "qwen3_5_text"])
def test_qwen_3_5_s_adapter_alone_fits_a_model_that_sees_images(published_as: str, tmp_path: Path) -> None:
    """mlx-lm has the class of the whole model alone; a folder of its language model gets a base."""
    run = run_of(
        "qwen3_5_text",
        tmp_path,
        "data.structure_tokens=false",
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        num_hidden_layers=4,
    )
    if published_as == "qwen3_5":
        file = run.model / "config.json"
        file.write_text(json.dumps({"model_type": "qwen3_5", "text_config": json.loads(file.read_text())}))
        run.tokenizer.write(run.model)  # whose ids AutoTokenizer keeps
    lines = export_artifact(find_artifact(run.folder), "mlx", ExportOptions(), tmp_path / "mlx")
    alone = published_as == "qwen3_5"
    assert any("takes this config.json for a qwen3_5_text" in line for line in lines) != alone
    assert (tmp_path / "mlx" / "base").exists() != alone
    theirs = loaded(tmp_path / "mlx", False, run.model if alone else None)
    np.testing.assert_allclose(mlx_logits(theirs, run.prompt), torch_logits(run, run.prompt), rtol=0, atol=1e-4)
    if alone:
        write_imported_adapter(tmp_path / "mlx" / "adapters", str(run.model), existing(tmp_path / "back"), tmp_path)
        again = load_file(tmp_path / "back" / "adapter_model.safetensors")
        trained = load_file(run.folder / "adapter" / "adapter_model.safetensors")
        assert again.keys() == trained.keys() and all((again[name] == one).all() for name, one in trained.items())


def existing(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_4_bit_base_of_granite_4_is_read_back_and_mlx_lm_s_adapter_for_its_mlp_refused(tmp_path: Path) -> None:
    run = run_of("granitemoehybrid", tmp_path, shared_intermediate_size=128)
    export_artifact(find_artifact(run.folder), "mlx", ExportOptions(quantization="4bit"), tmp_path / "mlx")
    packed = load_tokens_base(tmp_path / "mlx" / "base", run.tokenizer)
    plain, _ = mlx_lm.load(str(tmp_path / "mlx" / "base"))  # type: ignore[misc]
    assert isinstance(packed.layers[0].shared_mlp.input_linear, nn.QuantizedLinear)
    np.testing.assert_allclose(mlx_logits(packed, run.prompt), mlx_logits(plain, run.prompt), rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="half of a matrix"):
        write_imported_adapter(tmp_path / "mlx" / "adapters", str(run.model), tmp_path, tmp_path / "peft")


def load_tokens_base(folder: Path, tokenizer: Any) -> Any:
    return load_base(ModelSettings(name=str(folder)), tokenizer, mx.float32)[0]
