"""Loading a base for MLX: its weights, 4-bit or not, in little more memory than they take; and what can't be loaded."""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
import transformers
from mlx.utils import tree_flatten
from safetensors.torch import load_file, save_file
from tiny import trained_rows_folder

from longrepo import embedded
from longrepo.config.schema import ModelSettings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.mlx.load import load_base
from longrepo.engines.model_shape import read_config
from longrepo.engines.registry import require_mlx
from longrepo.errors import InputError

VOCABULARY = 96
COPIES = {96: 5, 97: 7, 40: 9}  # the last lies within the published table, as in one that is padded
TOKENIZER = SimpleNamespace(vocabulary_size=98, initial_from=COPIES)
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.2,
    "eos_token_id": 1,
}


def folder_of(folder: Path, name: str = "Llama", shard: str = "1GB", **changes: Any) -> Path:
    torch.manual_seed(5)
    config = getattr(transformers, f"{name}Config")(**SHAPE | changes)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder, max_shard_size=shard)
    return folder


def load(folder: Path, quantization: Any = "nf4", dtype: mx.Dtype = mx.float32, tokenizer: Any = TOKENIZER) -> Any:
    return load_base(ModelSettings(name=str(folder), quantization=quantization), tokenizer, dtype)


def same(ours: mx.array, theirs: Any) -> bool:
    return np.array_equal(np.array(ours.astype(mx.float32)), np.array(theirs, np.float32))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_linears_are_mlx_s_own_4_bits_and_tables_stay(dtype: mx.Dtype, tied: bool, tmp_path: Path) -> None:
    model, (note,) = load(folder_of(tmp_path, shard="40KB", tie_word_embeddings=tied), dtype=dtype)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert "affine 4 bits in groups of 64, not NF4" in note
    published = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    linears = {path: one for path, one in model.named_modules() if isinstance(one, nn.QuantizedLinear)}
    assert len(linears) == 2 * 7
    for path, linear in linears.items():
        source = mx.array(published.get_submodule(path).weight.detach().numpy()).astype(dtype)
        for ours, expected in zip((linear.weight, linear.scales, linear.biases), mx.quantize(source), strict=True):
            assert ours.dtype == expected.dtype and mx.array_equal(ours, expected)
    assert not any(isinstance(one, nn.Linear) and "layers" in path for path, one in model.named_modules())
    assert ("lm_head" in model) != tied
    assert model.model.embed_tokens.weight.dtype == model.model.norm.weight.dtype == dtype
    assert tree_flatten(model.trainable_parameters()) == [] and not model.training


def test_a_base_left_as_it_is_and_its_added_rows(tmp_path: Path) -> None:
    model, notes = load(folder_of(tmp_path, tie_word_embeddings=False), "none")
    published = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert notes == []
    for ours, name in ((model.model.embed_tokens, "model.embed_tokens"), (model.lm_head, "lm_head")):
        table = published.get_submodule(name).weight.detach().numpy()
        rows = np.concatenate([table, table[[5, 7]]])
        rows[40] = table[9]
        assert same(ours.weight, rows)
    assert model.args.vocab_size == model.published["vocab_size"] == 98
    assert same(model.model.layers[1].mlp.up_proj.weight, published.model.layers[1].mlp.up_proj.weight.detach())


def test_a_bare_decoder_is_found_and_what_generation_ends_at(tmp_path: Path) -> None:
    expected, _ = load(folder_of(tmp_path, "Starcoder2", tie_word_embeddings=True, residual_dropout=0.1))
    assert expected.eos_token_ids == (1,)
    file = tmp_path / "model.safetensors"
    save_file({name.removeprefix("model."): t for name, t in load_file(file).items()}, file, {"format": "pt"})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 4]}')
    model, notes = load(tmp_path)
    ids = mx.arange(20)[None]
    assert mx.array_equal(model(ids), expected(ids))
    assert model.eos_token_ids == (1, 4)
    assert "residual_dropout of the base set to 0" in notes[0]


def test_layers_that_groups_of_64_do_not_divide_stay_whole_and_it_is_said(tmp_path: Path) -> None:
    model, (_, note) = load(folder_of(tmp_path, intermediate_size=100))
    assert note.startswith("2 linear layers stay unquantized, such as model.layers.")
    assert isinstance(model.layers[0].mlp.down_proj, nn.Linear)
    assert isinstance(model.layers[0].mlp.up_proj, nn.QuantizedLinear)


def test_the_full_model_is_never_in_memory(tmp_path: Path) -> None:
    """12 layers of width 512 (65 MiB in float16): beside the result no more than six times the largest tensor, which
    as read, in the compute type and packed are four."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    config = transformers.Starcoder2Config(**SHAPE | shape | {"vocab_size": 2048})
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        names = transformers.Starcoder2ForCausalLM(config).state_dict()
    tensors = {
        name: torch.full(t.shape, 0.5, dtype=torch.float16) for name, t in names.items() if name != "lm_head.weight"
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    largest = max(tensor.nbytes for tensor in tensors.values())
    tokenizer = SimpleNamespace(vocabulary_size=2056, initial_from={2048 + k: k for k in range(8)})
    for quantization in ("nf4", "none"):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        model, _ = load(tmp_path, quantization, mx.float32, tokenizer)
        assert mx.get_peak_memory() - mx.get_active_memory() <= 6 * largest
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert (mx.get_active_memory() - before < 0.5 * size) == (quantization == "nf4")
        del model


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base as mlx-lm itself makes it 4-bit: in groups of 32, the table of tokens too."""
    from mlx_lm.convert import convert

    folder = tmp_path_factory.mktemp("converted") / "model"
    convert(str(embedded.path()), str(folder), quantize=True, q_group_size=32)
    return folder


def test_a_folder_that_is_4_bit_already_is_taken_as_it_is(converted: Path) -> None:
    copies = {4096: 11, 4097: 12}
    tokenizer = SimpleNamespace(vocabulary_size=4098, initial_from=copies)
    model, (note,) = load(converted, tokenizer=tokenizer)
    assert "used as published" in note and "groups of 32" in note
    published = mx.load(str(converted / "model.safetensors"))
    table = model.model.embed_tokens
    for name in ("weight", "scales", "biases"):
        source = published[f"model.embed_tokens.{name}"]
        assert mx.array_equal(table[name], mx.concatenate([source, source[mx.array([11, 12])]]))
    fc = "model.layers.3.mlp.c_fc"
    assert mx.array_equal(model.layers[3].mlp.c_fc.weight, published[f"{fc}.weight"])
    reference = transformers.AutoModelForCausalLM.from_pretrained(embedded.path(), dtype=torch.float32)
    reference.resize_token_embeddings(4098, mean_resizing=False)
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
                whole = mx.dequantize(module.weight, module.scales, module.biases, group_size=32, bits=4)
                reference.get_submodule(path).weight.copy_(torch.tensor(np.array(whole)))
    ids = np.array([[*range(100, 120), 4096, 4097]])
    expected = reference(torch.tensor(ids)).logits.detach().numpy()
    assert np.abs(np.array(model(mx.array(ids))) - expected).max() <= 1e-4


def linked(source: Path, folder: Path) -> Path:
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


MISMATCHES: dict[str, tuple[str, dict[str, Any], str]] = {
    "asked for unquantised": ("none", {}, "already 4 bits in groups of 32; set model.quantization to nf4"),
    "another group": (
        "nf4",
        {"group_size": 64, "bits": 4},
        "packed as 4 bits in groups of 32, .* says 4 in groups of 64",
    ),
    "8 bits": (
        "nf4",
        {"group_size": 32, "bits": 8},
        "affine 8 bits in groups of 32; the MLX engine supports affine 4 bits",
    ),
    "another mode": ("nf4", {"group_size": 32, "bits": 4, "mode": "mxfp4"}, "its weights are mxfp4 4 bits"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_quantisation_that_does_not_match_is_one_line(case: str, converted: Path, tmp_path: Path) -> None:
    quantization, says, expected = MISMATCHES[case]
    linked(converted, tmp_path)
    if says:
        change_config(tmp_path, quantization=says)
    refused(tmp_path, expected, quantization)


def test_what_another_library_quantised_is_one_line(tmp_path: Path) -> None:
    change_config(folder_of(tmp_path), quantization_config={"quant_method": "gptq", "bits": 4})
    refused(tmp_path, "published quantized by gptq")


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def cut(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])


NORM = "model.norm.weight"
DAMAGES: dict[str, tuple[Any, str]] = {
    "cut off": (lambda f: cut(f, -100), "can't be read as safetensors"),
    "empty": (lambda f: cut(f, 0), "can't be read as safetensors"),
    "none": (lambda f: (f / "model.safetensors").unlink(), "has no safetensors files"),
    "lacking": (lambda f: rewrite(f, lambda t: t.pop(NORM)), f"its weights lack {NORM}; "),
    "more": (lambda f: rewrite(f, lambda t: t.update(x=torch.ones(2))), "have, unknown to its config.json, x; "),
    "shape": (lambda f: rewrite(f, lambda t: t.update({NORM: torch.ones(3)})), r"has the shape \[3\], .* for \[64\]"),
    "table": (lambda f: change_config(f, vocab_size=95), r"embed_tokens.weight has the shape \[96, 64\]"),
    "type": (lambda f: rewrite(f, lambda t: t.update({NORM: torch.ones(64, dtype=torch.uint8)})), "has the type"),
    "no model": (lambda f: (f / "config.json").write_text("{"), "can't be loaded"),
    "a word": (lambda f: change_config(f, hidden_size="wide"), "its config.json is wrong: .*hidden_size"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit_are_one_line(damage: str, tmp_path: Path) -> None:
    act, expected = DAMAGES[damage]
    act(folder_of(tmp_path))
    refused(tmp_path, expected)


def test_shards_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    folder_of(tmp_path, shard="40KB")
    min(tmp_path.glob("*.safetensors")).unlink()
    refused(tmp_path, "it doesn't exist")
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    refused(tmp_path, "not an index")


def test_of_a_model_that_sees_images_the_language_model_is_loaded(tmp_path: Path) -> None:
    """Qwen3.5 is published with what sees images, and with layers that guess further tokens."""
    text = SHAPE | {"layer_types": ["linear_attention", "full_attention"], "head_dim": 16, "linear_num_key_heads": 2}
    text |= {"linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
    sight = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
    torch.manual_seed(5)
    config = transformers.Qwen3_5Config(text_config=text, vision_config=sight | {"num_position_embeddings": 16})
    model = transformers.Qwen3_5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"mtp.fc.weight": torch.ones(2, 2)}))
    ids = np.arange(40)[None] * 7 % VOCABULARY
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)).logits.numpy()
    ours = np.array(load(tmp_path, "none")[0](mx.array(ids)))[..., :VOCABULARY]
    np.testing.assert_allclose(ours[..., 1:40], expected[..., 1:40], rtol=0, atol=1e-4)


def test_a_model_whose_language_model_has_no_class_of_its_own_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": {}}))
    with pytest.raises(InputError, match="sees images too, and transformers has no class") as caught:
        read_config(str(tmp_path))
    assert "\n" not in str(caught.value)
    refused(tmp_path, "sees images too")


def refused(folder: Path, expected: str, quantization: str = "nf4") -> None:
    with pytest.raises(InputError, match=expected) as caught:
        load(folder, quantization)
    assert str(caught.value).startswith(f"model {folder}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("Linux", "x86_64", "pip install 'longrepo[mlx-linux]', or use --engine torch"),
        ("Darwin", "arm64", "pip install mlx mlx-lm, or use --engine torch"),
        ("Darwin", "x86_64", "MLX is for Apple Silicon and Linux, this is Darwin on x86_64; use --engine torch"),
        ("Windows", "AMD64", "this is Windows on AMD64; use --engine torch"),
    ],
)
def test_without_mlx_what_to_do_is_said(
    system: str, machine: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_mlx()
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        require_mlx()
    assert "\n" not in str(caught.value)


def test_rows_that_a_base_was_trained_with_stay_and_others_are_copies(tmp_path: Path) -> None:
    folder = trained_rows_folder(tmp_path / "trained")
    tokenizer = load_tokenizer(str(folder))
    ids = list(tokenizer.structure_ids.values())
    rows = np.array(load(folder, "none", tokenizer=tokenizer)[0].model.embed_tokens.weight)
    assert rows[ids, 0].tolist() == [place / 64 for place in range(len(ids))]
    (folder / "tokenizer.json").unlink()
    rows = np.array(load(folder, "none", tokenizer=tokenizer)[0].model.embed_tokens.weight)
    assert all(np.array_equal(rows[new], rows[source]) for new, source in tokenizer.initial_from.items())
