"""Every quantisation is undone as the gguf library undoes it, and unquantised weights stay what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_gguf import SETTINGS, tiny_model, write_gguf
from transformers import AutoModelForCausalLM

from longrepo.gguf import folder as gguf_folder
from longrepo.gguf.folder import GgufConversion, WrittenModel
from longrepo.gguf.header import read_gguf

UP, QUERY = "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def model() -> Any:
    """Wide enough for a block of a K-quant, 256."""
    SETTINGS["wide"] = ("llama", "llama", {"hidden_size": 256, "intermediate_size": 256, "rope_theta": 1e5}, {})
    return tiny_model("wide")


def converted(tmp_path: Path, model: Any, kind: str) -> tuple[WrittenModel, dict[str, torch.Tensor]]:
    folder = tmp_path / "model"
    folder.mkdir()
    written = GgufConversion.of(write_gguf(tmp_path / "tiny.gguf", "wide", model, kind)).write(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        return written, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def from_library(file: Path, name: str) -> np.ndarray:
    tensor = next(one for one in gguf.GGUFReader(file).tensors if one.name == name)
    return np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type))


@pytest.mark.parametrize(
    "kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]
)
def test_quantised_weights_become_float32(kind: str, model: Any, tmp_path: Path) -> None:
    written, tensors = converted(tmp_path, model, kind)
    assert (written.dtype, written.kinds) == ("float32", (kind, "F32"))
    np.testing.assert_array_equal(tensors[UP].numpy(), from_library(tmp_path / "tiny.gguf", "blk.1.ffn_up.weight"))
    query = from_library(tmp_path / "tiny.gguf", "blk.1.attn_q.weight")
    for head in range(4):  # the file rotates features 2i and 2i+1, transformers i and i + half
        np.testing.assert_array_equal(tensors[QUERY][head * 64 + 1].numpy(), query[head * 64 + 2])
        np.testing.assert_array_equal(tensors[QUERY][head * 64 + 33].numpy(), query[head * 64 + 3])


@pytest.mark.parametrize("kind, dtype", [("F16", torch.float16), ("BF16", torch.bfloat16), ("F32", torch.float32)])
def test_unquantised_weights_keep_their_type_and_bits(kind: str, dtype: Any, model: Any, tmp_path: Path) -> None:
    written, tensors = converted(tmp_path, model, kind)
    assert written.dtype == str(dtype).removeprefix("torch.")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(
            tensors[name], weight.to(dtype if weight.ndim > 1 else torch.float32), rtol=0, atol=0
        )


@pytest.mark.parametrize("largest, expected", [(1.0, torch.float16), (1e6, torch.bfloat16)])
def test_a_larger_model_is_rounded_to_16_bits(
    largest: float, expected: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_folder, "MAX_FLOAT32_BYTES", 1000)
    exact = dict(model.state_dict())
    weight = model.model.layers[1].mlp.up_proj.weight
    old = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = largest
    try:
        written, tensors = converted(tmp_path, model, "Q8_0")
    finally:
        with torch.no_grad():
            weight[0, 0] = old
    assert written.dtype == str(expected).removeprefix("torch.")
    unrounded = torch.tensor(from_library(tmp_path / "tiny.gguf", "blk.1.ffn_up.weight"))
    torch.testing.assert_close(tensors[UP], unrounded.to(expected), rtol=0, atol=0)
    assert tensors["model.norm.weight"].dtype is torch.float32
    assert any("float16" in note for note in written.notes) == (expected is torch.bfloat16)
    assert exact.keys() == tensors.keys()


def test_the_logits_are_those_of_transformers_own_reader(tmp_path: Path) -> None:
    """It keeps the plain rope base of Llama, which it drops elsewhere."""
    file = write_gguf(tmp_path / "tiny.gguf", "llama", kind="Q4_1")
    (tmp_path / "model").mkdir()
    GgufConversion.of(file).write(tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokens = torch.arange(64)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=0, atol=1e-5)


def test_a_model_in_several_files_is_read_whole(model: Any, tmp_path: Path) -> None:
    whole = read_gguf(write_gguf(tmp_path / "whole.gguf", "wide", model))
    parts = [tmp_path / f"split-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, part in enumerate(parts):
        writer = gguf.GGUFWriter(str(part), "llama")
        if number == 0:
            for key, value in whole.metadata.items():
                if key.startswith("llama."):
                    (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        for name in list(whole.tensors)[number::2]:
            writer.add_tensor(name, from_library(tmp_path / "whole.gguf", name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    for given in parts:
        found = read_gguf(given)
        assert found.tensors.keys() == whole.tensors.keys()
        assert found.get("block_count") == 2 and found.files == tuple(parts)


def test_settings_and_licence_are_those_of_the_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "starcoder2", general__license="openrail", general__name="A coder")
    (tmp_path / "model").mkdir()
    written = GgufConversion.of(file).write(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 999_999 and config["sliding_window"] == 4096
    assert config["norm_epsilon"] == 1e-5
    assert written.notes == ("attention window 4,096, as StarCoder2 was published: the file doesn't say",)
    readme = (tmp_path / "model" / "README.md").read_text()
    assert 'license: "openrail"' in readme and "# A coder" in readme and "tiny.gguf" in readme
