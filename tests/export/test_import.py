"""An adapter of mlx-lm in PEFT's format: the same logits, and one line for what can't be imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from exported import base_folder, mlx_logits, peft_logits, spell_rope_for_mlx_lm
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from peft import PeftConfig

from longrepo.errors import InputError
from longrepo.export.formats import import_mlx_adapter

IDS = list(range(40, 60))
LORA = {"rank": 4, "scale": 3.0, "dropout": 0.1, "keys": ["self_attn.q_proj", "mlp.c_fc"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that mlx-lm's own class computes as transformers does."""
    folder = base_folder(tmp_path_factory.mktemp("model"), hidden_act="gelu", sliding_window=None)
    spell_rope_for_mlx_lm(folder)
    return folder


def write_mlx(folder: Path, base: Path, layers: int = 1, **config: Any) -> Any:
    """What `mlx_lm.lora` writes, of random weights; the model itself."""
    model, _ = mlx_lm.load(str(base))  # type: ignore[misc]
    model.freeze()
    linear_to_lora_layers(model, layers, LORA)
    mx.random.seed(2)
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = mx.random.normal(module.lora_b.shape) * 0.05
    model.eval()
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    about = {"fine_tune_type": "lora", "model": str(base), "num_layers": layers, "lora_parameters": LORA, **config}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return model


@pytest.mark.parametrize("layers", [1, 2])
def test_peft_computes_what_mlx_lm_does(base: Path, tmp_path: Path, layers: int) -> None:
    model = write_mlx(tmp_path / "mlx", base, layers)
    import_mlx_adapter(tmp_path / "mlx", None, tmp_path / "peft")
    config = PeftConfig.from_pretrained(str(tmp_path / "peft"))
    assert config.layers_to_transform == ([1] if layers == 1 else None)
    theirs = peft_logits(base, tmp_path / "peft", 4096, IDS)
    np.testing.assert_allclose(mlx_logits(model, IDS), theirs, rtol=0, atol=1e-4)


BAD: dict[str, tuple[Callable[[dict[str, Any], dict[str, mx.array]], Any], str]] = {
    "dora": (lambda config, tensors: config.update(fine_tune_type="dora"), "a fine-tune of type dora"),
    "full": (lambda config, tensors: config.update(fine_tune_type="full"), "a fine-tune of type full"),
    "no scale": (lambda config, tensors: config["lora_parameters"].pop("scale"), "has no rank and scale"),
    "no model": (lambda config, tensors: config.pop("model"), "names no model"),
    "a model that isn't there": (lambda config, tensors: config.update(model="nowhere"), "no such folder"),
    "an embedding": (
        lambda config, tensors: tensors.update(
            {f"model.embed_tokens.{part}": mx.zeros((4, 4)) for part in ("lora_a", "lora_b")}
        ),
        "has no linear layer model.embed_tokens",
    ),
    "half a pair": (lambda config, tensors: tensors.pop("model.layers.1.mlp.c_fc.lora_b"), "one of lora_a and lora_b"),
    "another rank": (lambda config, tensors: config["lora_parameters"].update(rank=8), "of rank 4, .* says 8"),
    "another width": (
        lambda config, tensors: tensors.update({"model.layers.1.mlp.c_fc.lora_a": mx.zeros((32, 4))}),
        "for another base: .* has width 32, .* is 64",
    ),
    "a layer more": (
        lambda config, tensors: tensors.update(
            {f"model.layers.7.mlp.c_fc.{part}": mx.zeros((4, 4)) for part in ("lora_a", "lora_b")}
        ),
        "for another base: .* no linear layer model.layers.7",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_imported_is_one_line(base: Path, tmp_path: Path, case: str) -> None:
    change, expected = BAD[case]
    folder = tmp_path / "mlx"
    write_mlx(folder, base)
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    tensors: Any = mx.load(str(folder / "adapters.safetensors"))
    mx.eval(tensors)
    change(config, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    with pytest.raises(InputError, match=expected) as caught:
        import_mlx_adapter(folder, None, tmp_path / "peft")
    assert "\n" not in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["mlx"]


@pytest.mark.parametrize("missing", ["adapters.safetensors", "adapter_config.json"])
def test_a_missing_file_is_one_line(base: Path, tmp_path: Path, missing: str) -> None:
    write_mlx(tmp_path / "mlx", base)
    (tmp_path / "mlx" / missing).unlink()
    with pytest.raises(InputError, match=missing):
        import_mlx_adapter(tmp_path / "mlx", None, tmp_path / "peft")
