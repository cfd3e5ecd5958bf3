"""Loading a base: the same bytes as transformers and bitsandbytes give, in less memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import ADDED, VOCABULARY, TinyTokenizer, model_folder, settings, trained_rows_folder

from longrepo.config.schema import ModelSettings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.torch import load as load_module
from longrepo.engines.torch.device import select_torch_device
from longrepo.engines.torch.load import load_base
from longrepo.errors import InputError

FAMILIES = {
    "starcoder2, tied": lambda folder: model_folder(folder),
    "starcoder2, untied": lambda folder: model_folder(folder, tie_word_embeddings=False),
    "llama, tied": lambda folder: llama_folder(folder, tie_word_embeddings=True),
    "llama, untied": lambda folder: llama_folder(folder, tie_word_embeddings=False),
    "llama, in shards": lambda folder: llama_folder(folder, "40KB", tie_word_embeddings=False),
}


def llama_folder(folder: Path, shard: str = "1GB", **changes: Any) -> Path:
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        initializer_range=0.2,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
        **changes,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard)
    return folder


def load(folder: Path, *overrides: str) -> tuple[Any, list[str]]:
    given = settings(folder, *overrides)
    return load_base(given.model, TinyTokenizer(), select_torch_device("cpu", given.training.precision))  # type: ignore[arg-type]


def theirs(folder: Path, quantization: str, precision: str, double: bool = True) -> Any:
    """What transformers loads, widened as it widens."""
    dtype = getattr(torch, precision)
    quantised = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": "cpu"},
        attn_implementation="sdpa",
        **({"quantization_config": quantised} if quantization == "nf4" else {}),
    )
    model.resize_token_embeddings(VOCABULARY + ADDED, mean_resizing=False)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            for new, source in TinyTokenizer().initial_from.items():
                table[new] = table[source]
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(40).reshape(2, 20) % (VOCABULARY + ADDED), use_cache=False).logits


def assert_same(ours: Any, model: Any) -> None:
    """Every parameter, packed byte, scale and buffer, kept in a file or not."""
    for tensors in (lambda m: m.state_dict(), lambda m: dict(m.named_buffers())):
        mine, others = tensors(ours), tensors(model)
        assert mine.keys() == others.keys()
        for name, tensor in others.items():
            assert mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor), name
    assert torch.equal(logits(ours), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_base_is_bit_for_bit_what_transformers_loads(
    family: str, quantization: str, precision: str, tmp_path: Path
) -> None:
    folder = FAMILIES[family](tmp_path)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (family == "llama, in shards")
    ours, notes = load(folder, f"model.quantization={quantization}", f"training.precision={precision}")
    model = theirs(folder, quantization, precision)
    assert_same(ours, model)
    assert notes == []
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert not ours.training
    assert ours.config.vocab_size == VOCABULARY + ADDED
    embedding, head = ours.get_input_embeddings().weight, ours.get_output_embeddings().weight
    assert (embedding is head) == bool(model.config.tie_word_embeddings)
    assert ours.generation_config.to_dict() == model.generation_config.to_dict()
    assert getattr(ours, "is_loaded_in_4bit", False) == (quantization == "nf4")


def test_scales_stay_in_full_where_double_quantisation_is_off(tmp_path: Path) -> None:
    ours, _ = load(model_folder(tmp_path), "model.double_quantization=false")
    assert_same(ours, theirs(tmp_path, "nf4", "float32", double=False))


def test_names_that_transformers_changes_at_loading_are_found(tmp_path: Path) -> None:
    """Published without the prefix of the language model, as a bare decoder is saved."""
    model_folder(tmp_path)
    reference = theirs(tmp_path, "nf4", "float32")
    file = tmp_path / "model.safetensors"
    save_file({name.removeprefix("model."): t for name, t in load_file(file).items()}, file, {"format": "pt"})
    ours, _ = load(tmp_path)
    assert_same(ours, reference)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, for bases of any size; where they lie."""
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load_module, "MIN_CACHED_BYTES", 1)
    monkeypatch.setattr(load_module, "_PART_BYTES", 20_000)  # several files
    return tmp_path / "cache" / "bases"


@pytest.mark.parametrize("family", ["starcoder2, tied", "llama, untied"])
@pytest.mark.parametrize("double", ["true", "false"])
def test_the_next_start_reads_the_quantised_base(
    family: str, double: str, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    how = f"model.double_quantization={double}"
    first, said = load(folder, how)
    (entry,) = kept.iterdir()
    assert "cached for the next start" in said[0] and str(entry) in said[0]
    assert len(list(entry.glob("*.safetensors"))) > 1

    def never(*_: Any) -> Any:
        raise AssertionError("quantised again")

    monkeypatch.setattr(load_module, "quantize_nf4", never)
    again, said = load(folder, how)
    assert_same(again, first)
    assert "read from" in said[0] and str(entry) in said[0]


def test_what_else_was_loaded_is_not_taken_for_it(tmp_path: Path, kept: Path) -> None:
    folder = model_folder(tmp_path / "model")
    load(folder)
    load(folder, "training.precision=bfloat16")
    assert len(list(kept.iterdir())) == 2
    file = folder / "model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    again, _ = load(folder)
    assert_same(again, theirs(folder, "nf4", "float32"))


def test_no_more_than_three_bases_are_kept(tmp_path: Path, kept: Path) -> None:
    for number in range(5):
        torch.manual_seed(number)
        load(model_folder(tmp_path / "model", num_hidden_layers=number + 1))
    assert len(list(kept.iterdir())) == load_module.MAX_CACHED_BASES == 3
    _, said = load(tmp_path / "model")
    assert "read from" in said[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "no file", "no list", "other list"])
def test_a_damaged_base_is_noticed_and_made_anew(damage: str, tmp_path: Path, kept: Path) -> None:
    folder = model_folder(tmp_path / "model")
    first, _ = load(folder)
    (entry,) = kept.iterdir()
    part = sorted(entry.glob("*.safetensors"))[-1]
    content = bytearray(part.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        part.write_bytes(content)
    elif damage == "cut":
        part.write_bytes(content[:-9])
    elif damage == "no file":
        part.unlink()
    else:
        (entry / "base.json").write_text("[]" if damage == "no list" else '{"digests": {}}')
    again, said = load(folder)
    assert "damaged" in said[0] and "cached" in said[1]
    assert_same(again, first)
    assert "read from" in load(folder)[1][0]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_does_not_stop_the_run(
    when: str, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "model")

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    if when == "before":
        monkeypatch.setattr(load_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    else:
        monkeypatch.setattr(load_module, "save_file", full)
    model, said = load(folder)
    assert "not cached" in said[0]
    assert not list(kept.iterdir())
    assert_same(model, theirs(folder, "nf4", "float32"))


def test_small_bases_and_whole_ones_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "cache"))
    assert load(model_folder(tmp_path / "model"))[1] == []
    monkeypatch.setattr(load_module, "MIN_CACHED_BYTES", 1)
    load(tmp_path / "model", "model.quantization=none")
    monkeypatch.setenv("LONGREPO_CACHE", "off")
    load(tmp_path / "model")
    assert not (tmp_path / "cache").exists()


def test_other_files_are_left_to_transformers_and_said(tmp_path: Path) -> None:
    model_folder(tmp_path)
    reference = theirs(tmp_path, "nf4", "float32")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    ours, (said,) = load(tmp_path)
    assert "no safetensors" in said and "more memory" in said
    assert_same(ours, reference)


def rewrite(folder: Path, change: Any) -> None:
    file = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


DAMAGES = {
    "cut off": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "can't be read as safetensors"),
    "empty": (lambda f: f.write_bytes(b""), "can't be read as safetensors"),
    "absent": (lambda f: f.unlink(), "it doesn't exist"),
    "lacking": (lambda f: rewrite(f.parent, lambda t: t.popitem()), "its weights lack"),
    "more": (lambda f: rewrite(f.parent, lambda t: t.update({"model.x.weight": torch.ones(2)})), "unknown to its"),
    "another shape": (
        lambda f: rewrite(f.parent, lambda t: t.update({n: v[:1].clone() for n, v in t.items()})),
        "has the shape",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit_are_one_line(damage: str, tmp_path: Path) -> None:
    llama_folder(tmp_path, "40KB", tie_word_embeddings=False)
    act, expected = DAMAGES[damage]
    act(min(tmp_path.glob("*.safetensors")))
    with pytest.raises(InputError, match=expected) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"model {tmp_path}: ")


def test_an_index_that_is_none_is_one_line(tmp_path: Path) -> None:
    llama_folder(tmp_path, "40KB")
    for content in ("{", "{}", "[]"):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(InputError, match="not an index") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_rows_that_a_base_was_trained_with_stay_and_others_are_copies(tmp_path: Path) -> None:
    folder = trained_rows_folder(tmp_path / "trained")
    tokenizer = load_tokenizer(str(folder))

    def table() -> torch.Tensor:
        named = ModelSettings(name=str(folder), quantization="none")
        model: Any = load_base(named, tokenizer, select_torch_device("cpu", "float32"))[0]
        return model.get_input_embeddings().weight

    ids = list(tokenizer.structure_ids.values())
    assert table()[ids, 0].tolist() == [place_ / 64 for place_ in range(len(ids))]
    (folder / "tokenizer.json").unlink()
    rows = table()
    assert all(torch.equal(rows[new], rows[source]) for new, source in tokenizer.initial_from.items())
