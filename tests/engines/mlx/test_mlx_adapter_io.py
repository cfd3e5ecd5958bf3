"""Adapters and moments in the files of the torch engine: what one engine writes, the other goes on from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx_lm.models.starcoder2 import Model, ModelArgs
from peft import PeftConfig
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import ADDED, VOCABULARY, TinyTokenizer, model_folder, settings

from longrepo.config.schema import Settings
from longrepo.engines.adapter_io import adapter_config, read_adapter, read_moments, write_adapter, write_moments
from longrepo.engines.base import Batch
from longrepo.engines.mlx.lora import (
    MlxTokenEmbeddings,
    Moments,
    ParameterSlot,
    adapter_tensors,
    add_trained_tokens,
    attach_lora,
    lora_slots,
    moment_shapes,
    moments_from_numpy,
    moments_to_numpy,
    set_adapter,
)
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import InputError

IDS = list(range(VOCABULARY, VOCABULARY + ADDED))


def mlx_model(folder: Path, *overrides: str, layers: int = 2) -> tuple[Any, MlxTokenEmbeddings]:
    model = Model(
        ModelArgs(
            model_type="starcoder2", hidden_size=64, num_hidden_layers=layers, intermediate_size=128,
            num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCABULARY + ADDED,
        )
    )  # fmt: skip
    attach_lora(model, settings(folder, *overrides))
    return model, add_trained_tokens(model, IDS, VOCABULARY + ADDED)


def trained(folder: Path, steps: int = 3) -> TorchEngine:
    engine = TorchEngine.create(settings(folder, "model.quantization=none"), TinyTokenizer(), "cpu")  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    ids = rng.integers(0, VOCABULARY + ADDED, 40)
    batch = Batch.of([(ids, np.ones(40, np.float32))], 0)
    for step in range(steps):
        engine.accumulate(batch, batch.weight, step)
        engine.apply_update(1e-2, 1.0)
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchEngine, Path]:
    """What the torch engine wrote."""
    engine, path = trained(folder), tmp_path_factory.mktemp("written")
    engine.save_adapter(path)
    engine.save_optimizer(path / "optimizer.safetensors")
    return engine, path


def slots_of(model: Any, rows: MlxTokenEmbeddings | None) -> list[ParameterSlot]:
    return [*lora_slots(model), *([ParameterSlot("rows", rows, "weight")] if rows is not None else [])]


SIX = "lora.target_modules=[q_proj, k_proj, v_proj, o_proj, c_fc, c_proj]"


def write_mlx_adapter(folder: Path, model: Any, rows: MlxTokenEmbeddings | None, settings: Settings) -> None:
    ids: Any = rows.ids.tolist() if rows is not None else None
    tensors = {name: np.array(tensor) for name, tensor in adapter_tensors(slots_of(model, rows)).items()}
    write_adapter(folder, tensors, adapter_config(settings, ids))


def read_mlx_adapter(folder: Path, model: Any, rows: MlxTokenEmbeddings | None) -> None:
    slots = slots_of(model, rows)
    set_adapter(slots, read_adapter(folder, {name: t.shape for name, t in adapter_tensors(slots).items()}))


def write_mlx_optimizer(file: Path, moments: dict[str, Moments], step: int) -> None:
    write_moments(file, moments_to_numpy(moments), step)


def read_mlx_optimizer(file: Path, slots: list[ParameterSlot]) -> tuple[dict[str, Moments], int]:
    saved, step = read_moments(file, moment_shapes(slots))
    return moments_from_numpy(saved, [slot.name for slot in slots]), step


def test_an_adapter_goes_through_mlx_and_back_bit_by_bit(
    folder: Path, written: tuple[TorchEngine, Path], tmp_path: Path
) -> None:
    engine, path = written
    model, rows = mlx_model(folder)
    read_mlx_adapter(path, model, rows)
    layer = model.model.layers[1].mlp.c_fc
    theirs = engine.parameters["base_model.model.model.layers.1.mlp.c_fc.lora_A.default.weight"].detach().numpy()
    assert layer.lora_a.shape == (64, 4) and np.array_equal(np.array(layer.lora_a), theirs.T)
    write_mlx_adapter(tmp_path, model, rows, settings(folder, SIX))
    name = "adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (path / name).read_bytes()
    ours, theirs_config = (PeftConfig.from_pretrained(str(where)).to_dict() for where in (tmp_path, path))
    del ours["peft_version"], theirs_config["peft_version"]
    assert ours == theirs_config


def test_without_structure_rows_there_are_none_in_the_adapter(folder: Path, tmp_path: Path) -> None:
    model, _ = mlx_model(folder)
    write_mlx_adapter(tmp_path, model, None, settings(folder, SIX))
    assert not [name for name in load_file(tmp_path / "adapter_model.safetensors") if "embed" in name]
    assert PeftConfig.from_pretrained(str(tmp_path)).trainable_token_indices is None
    read_mlx_adapter(tmp_path, model, None)


def test_moments_go_through_mlx_and_back_bit_by_bit(
    folder: Path, written: tuple[TorchEngine, Path], tmp_path: Path
) -> None:
    engine, path = written
    model, rows = mlx_model(folder)
    file = path / "optimizer.safetensors"
    state, step = read_mlx_optimizer(file, slots_of(model, rows))
    assert step == 3 and state.keys() == {slot.name for slot in slots_of(model, rows)}
    theirs = engine.optimizer.state[engine.parameters["base_model.model.model.embed_tokens.rows.weight"]]
    assert np.array_equal(np.array(state["rows"][1]), theirs["exp_avg_sq"].numpy())
    again = tmp_path / "optimizer.safetensors"
    write_mlx_optimizer(again, state, step)
    assert again.read_bytes() == file.read_bytes()
    resumed = trained(folder, steps=0)
    resumed.load_optimizer(again)
    for name, parameter in resumed.parameters.items():
        of = engine.optimizer.state[engine.parameters[name]]
        assert all(torch.equal(value, of[part]) for part, value in resumed.optimizer.state[parameter].items())


def test_a_state_before_the_first_update_and_one_with_frozen_modules(
    folder: Path, written: tuple[TorchEngine, Path], tmp_path: Path
) -> None:
    model, rows = mlx_model(folder)
    slots, file = slots_of(model, rows), tmp_path / "optimizer.safetensors"
    write_mlx_optimizer(file, {}, 0)
    assert read_mlx_optimizer(file, slots) == ({}, 0)
    state, step = read_mlx_optimizer(written[1] / file.name, slots)
    write_mlx_optimizer(file, {path: moments for path, moments in state.items() if ".mlp." not in path}, step)
    some, step = read_mlx_optimizer(file, slots)
    assert step == 3 and some.keys() == {slot.name for slot in slots if ".mlp." not in slot.name}


def test_an_adapter_of_other_lora_settings_or_another_model_is_refused(
    folder: Path, written: tuple[TorchEngine, Path], tmp_path: Path
) -> None:
    adapter, optimizer = written[1] / "adapter_model.safetensors", written[1] / "optimizer.safetensors"
    rank, deeper = mlx_model(folder, "lora.r=2"), mlx_model(folder, layers=3)
    for model, rows in (rank, deeper):
        before = np.array(rows.weight)
        with pytest.raises(InputError, match="another base model, other LoRA settings") as caught:
            read_mlx_adapter(adapter.parent, model, rows)
        assert "\n" not in str(caught.value) and np.array_equal(before, np.array(rows.weight))
    with pytest.raises(InputError, match=r"moments of another shape .*; the LoRA settings differ"):
        read_mlx_optimizer(optimizer, slots_of(*rank))
    with pytest.raises(InputError, match="state of unknown parameters"):
        read_mlx_optimizer(optimizer, slots_of(*mlx_model(folder))[-1:])
    uneven = load_file(optimizer)
    uneven[next(key for key in uneven if key.endswith("/step"))] = np.array(1, np.float32)
    save_file(uneven, tmp_path / "uneven")
    with pytest.raises(InputError, match=r"were updated \[1, 3\] times"):
        read_mlx_optimizer(tmp_path / "uneven", slots_of(*mlx_model(folder)))


@pytest.mark.parametrize("damage", [lambda data: None, lambda data: data[:-200], lambda data: b"no tensors"])
def test_files_that_are_missing_or_damaged_are_one_line(
    folder: Path, written: tuple[TorchEngine, Path], tmp_path: Path, damage: Callable[[bytes], bytes | None]
) -> None:
    model, rows = mlx_model(folder)
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        if (left := damage((written[1] / name).read_bytes())) is not None:
            (tmp_path / name).write_bytes(left)
    with pytest.raises(InputError, match="can't be read as an adapter") as adapter:
        read_mlx_adapter(tmp_path, model, rows)
    with pytest.raises(InputError, match="can't be read as an optimizer's state") as optimizer:
        read_mlx_optimizer(tmp_path / "optimizer.safetensors", slots_of(model, rows))
    assert all("\n" not in str(caught.value) for caught in (adapter, optimizer))


def test_an_adapter_in_half_precision_is_read_in_float32(
    folder: Path, written: tuple[TorchEngine, Path], tmp_path: Path
) -> None:
    name = "adapter_model.safetensors"
    saved = mx.load(str(written[1] / name))
    assert isinstance(saved, dict)
    mx.save_safetensors(str(tmp_path / name), {key: tensor.astype(mx.bfloat16) for key, tensor in saved.items()})
    model, rows = mlx_model(folder)
    read_mlx_adapter(tmp_path, model, rows)
    assert rows.weight.dtype == model.model.layers[0].self_attn.q_proj.lora_b.dtype == mx.float32
