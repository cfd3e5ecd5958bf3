"""Adapters of PEFT's other settings compute what PEFT computes, in every command, or are refused by all alike."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from exported import base_folder, loaded
from typer.testing import CliRunner

from longrepo.cli.app import app
from longrepo.engines.registry import choose_engine
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.formats import export_artifact, import_mlx_adapter
from longrepo.serve.model import TunedModel
from longrepo.training.artifact import find_artifact

PROMPT = torch.tensor([[17, 501, 33, 900, 2, 45, 45, 1200]])
WORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "the last layer": {"layers_to_transform": [1]},
    "one layer, by number and pattern": {"layers_to_transform": 0, "layers_pattern": "layers"},
    "a rank of its own": {"rank_pattern": {"q_proj": 7}},
    "ranks of a layer": {"rank_pattern": {r"layers.1.*v_proj": 2, "c_fc": 6}, "use_rslora": True},
    "an alpha of its own": {"alpha_pattern": {"model.layers.0.self_attn.q_proj": 3}},
    "both": {"rank_pattern": {"c_fc": 8}, "alpha_pattern": {"c_fc": 5, "v_proj": 1}},
    "modules left out": {"exclude_modules": ["layers.1.mlp.c_fc"]},
    "modules left out, by a rule": {"exclude_modules": r".*layers\.0\.self_attn\.v_proj"},
    "modules by a rule": {"target_modules": r".*\.(q_proj|c_fc)"},
    "modules by their ends": {"target_modules": ["self_attn.q_proj", "mlp.c_fc"]},
    "one module by its path": {"target_modules": ["model.layers.1.self_attn.k_proj"]},
    "all linear ones": {"target_modules": "all-linear"},
    "several at once": {
        "use_rslora": True,
        "layers_to_transform": [1],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 32},
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
    "PiSSA, fast": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights pissa_niter_4"),
    "OLoRA": ({"init_lora_weights": "olora"}, "init_lora_weights olora"),
    "DoRA": ({"use_dora": True}, "use_dora"),
    "aLoRA": ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
    "biases": ({"bias": "lora_only"}, "bias"),
    "LoRA's biases": ({"lora_bias": True}, "lora_bias"),
    "a head of its own": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "repeated layers": ({"layer_replication": [(0, 2), (0, 2)]}, "layer_replication"),
    "the embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens"),
}
STATED = {  # configurations whose adapters take data or other libraries to make
    "CorDA": ({"init_lora_weights": "corda"}, "init_lora_weights corda"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "init_lora_weights loftq"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "init_lora_weights lora_ga"),
    "a start of next year": ({"init_lora_weights": "next"}, "init_lora_weights next"),
    "QA-LoRA": ({"use_qalora": True}, "use_qalora"),
    "a setting of next year": ({"use_nextlora": True}, "use_nextlora"),
    "IA3": ({"peft_type": "IA3"}, "peft_type is IA3"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base") / "model")


def published(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def save_adapter(base: Path, folder: Path, changes: dict[str, Any]) -> torch.Tensor:
    """An adapter that PEFT made, all weights random; return PEFT's logits once loaded again."""
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj", "c_fc"], "task_type": "CAUSAL_LM"} | changes
    )
    torch.manual_seed(3)
    model = peft.get_peft_model(published(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(str(folder), save_embedding_layers=False)
    with torch.no_grad():
        logits: torch.Tensor = peft.PeftModel.from_pretrained(published(base), str(folder)).eval()(PROMPT).logits
    return logits


def engine_logits(folder: Path, engine: str) -> torch.Tensor:
    model = TunedModel.load(folder, None, choose_engine(engine, "cpu", "lora"), "cpu")
    inner: Any = model.engine
    if engine == "torch":
        with torch.no_grad():
            found: torch.Tensor = inner.model.eval()(PROMPT).logits.float()
        return found
    import mlx.core as mx

    return torch.from_numpy(np.array(inner.model(mx.array(PROMPT.numpy())).astype(mx.float32)))


@pytest.mark.parametrize("case", WORKS)
def test_what_peft_computes_is_computed_by_both_engines_and_every_export(case: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    expected = save_adapter(base, folder, WORKS[case])
    assert (expected - published(base)(PROMPT).logits).abs().max() > 0.01, "the adapter changes something"
    for engine in ("torch", "mlx"):
        assert (engine_logits(folder, engine)[..., :4096] - expected).abs().max() < 1e-3, engine
    source = find_artifact(folder)
    export_artifact(source, "merged", ExportOptions(precision="float32"), tmp_path / "merged")
    with torch.no_grad():
        assert (published(tmp_path / "merged")(PROMPT).logits - expected).abs().max() < 1e-4
    export_artifact(source, "mlx", ExportOptions(with_base=True, precision="float32"), tmp_path / "mlx")
    import mlx.core as mx

    theirs = torch.from_numpy(np.array(loaded(tmp_path / "mlx")(mx.array(PROMPT.numpy()))))
    assert (theirs[..., :4096] - expected).abs().max() < 1e-3
    export_artifact(source, "peft", ExportOptions(), tmp_path / "peft")
    again = peft.PeftModel.from_pretrained(published(base), str(tmp_path / "peft")).eval()
    with torch.no_grad():
        assert torch.equal(again(PROMPT).logits, expected)


def check_refused(folder: Path, expected: str, tmp_path: Path) -> None:
    """By what loads it, both engines and every format, in the same line."""
    lines = set()
    for engine in ("torch", "mlx"):
        with pytest.raises(InputError, match=expected) as caught:
            TunedModel.load(folder, None, choose_engine(engine, "cpu", "lora"), "cpu")
        lines.add(str(caught.value))
    for format in ("merged", "mlx", "gguf", "peft"):
        with pytest.raises(InputError, match=expected) as caught:
            export_artifact(find_artifact(folder), format, ExportOptions(), tmp_path / format)
        lines.add(str(caught.value))
    (line,) = lines
    assert "\n" not in line and "merge" in line


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_lora_on_the_published_base_is_refused_alike(case: str, base: Path, tmp_path: Path) -> None:
    changes, expected = REFUSED[case]
    save_adapter(base, tmp_path / "adapter", changes)
    check_refused(tmp_path / "adapter", expected, tmp_path)


@pytest.mark.parametrize("case", STATED)
def test_what_a_configuration_states_is_refused_alike(case: str, base: Path, tmp_path: Path) -> None:
    changes, expected = STATED[case]
    save_adapter(base, tmp_path / "adapter", {})
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    check_refused(tmp_path / "adapter", expected, tmp_path)


def test_pissa_converted_as_peft_does_is_plain_lora(base: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights="pissa")
    model = peft.get_peft_model(published(base), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(start))
    model.peft_config["default"].init_lora_weights = "pissa"
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) * 0.05
    expected = model.eval()(PROMPT).logits.detach()
    model.save_pretrained(str(tmp_path / "adapter"), path_initial_model_for_weight_conversion=str(start))
    assert (engine_logits(tmp_path / "adapter", "torch")[..., :4096] - expected).abs().max() < 1e-3


def test_a_module_that_the_configuration_promises_must_be_there(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter", {})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "layers.1.mlp" not in name}
    from safetensors.torch import save_file

    save_file(tensors, file, metadata={"format": "pt"})
    for engine in ("torch", "mlx"):
        with pytest.raises(InputError, match=r"first difference: .*layers\.1\.mlp"):
            TunedModel.load(tmp_path / "adapter", None, choose_engine(engine, "cpu", "lora"), "cpu")


@pytest.mark.parametrize("layers", [range(2), range(1, 2)])
def test_an_adapter_imported_from_mlx_lm_is_used_by_every_command(layers: range, base: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    mx.random.seed(1)
    tensors = {}
    for layer in layers:
        for name, width in (("self_attn.q_proj", 64), ("mlp.c_fc", 128)):
            path = f"model.layers.{layer}.{name}"
            tensors[f"{path}.lora_a"] = mx.random.normal((64, 4)) * 0.1
            tensors[f"{path}.lora_b"] = mx.random.normal((4, width)) * 0.1
    (tmp_path / "theirs").mkdir()
    mx.save_safetensors(str(tmp_path / "theirs" / "adapters.safetensors"), tensors, metadata={"format": "mlx"})
    lora = {"rank": 4, "scale": 5.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.c_fc"]}
    about = {"fine_tune_type": "lora", "model": str(base), "num_layers": len(layers), "lora_parameters": lora}
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(about))
    import_mlx_adapter(tmp_path / "theirs", None, tmp_path / "adapter")
    with torch.no_grad():
        expected = peft.PeftModel.from_pretrained(published(base), str(tmp_path / "adapter")).eval()(PROMPT).logits
    for engine in ("torch", "mlx"):
        assert (engine_logits(tmp_path / "adapter", engine)[..., :4096] - expected).abs().max() < 1e-3
    for format in ("merged", "mlx", "peft"):
        options = ExportOptions(precision="float32") if format != "peft" else ExportOptions()
        export_artifact(find_artifact(tmp_path / "adapter"), format, options, tmp_path / format)
    with torch.no_grad():
        assert (published(tmp_path / "merged")(PROMPT).logits - expected).abs().max() < 1e-4
    for command in (["generate", "--prompt", "def f(", "--max-tokens", "2"], ["plan", "--inference"]):
        result = CliRunner().invoke(app, [*command, str(tmp_path / "adapter")])
        assert result.exit_code == 0, result.output
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "mlx_lm" in card and "AutoTokenizer" in card
    assert (tmp_path / "adapter" / "tokenizer.json").is_file()
    shutil.rmtree(tmp_path / "merged")
