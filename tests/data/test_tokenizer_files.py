"""The tokenizers that are written give the ids that training used, whichever library reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dialects import DIALECTS, TEN_LANGUAGES, write_dialect
from mlx_lm.tokenizer_utils import load as load_for_mlx
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from longrepo.data.marks import STRUCTURE_TOKENS
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer

TEXTS = list(TEN_LANGUAGES.values())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: folder / f"base-{index}" for index, name in enumerate(DIALECTS)}


def base_of(bases: dict[str, Path], name: str) -> Path:
    if not bases[name].exists():
        write_dialect(bases[name], name, TEXTS)
    return bases[name]


def check_same(folder: Path, trained: RepoTokenizer) -> None:
    """Every reader gives the ids of training, and the text back."""
    file, auto = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    mlx: Any = load_for_mlx(folder)
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in (*TEXTS, "".join(TEXTS)):
        ids = trained.encode(text)
        assert file.encode(text, add_special_tokens=False).ids == ids
        for reader in (auto, mlx, fast):
            assert reader.encode(text, add_special_tokens=False) == ids, type(reader).__name__
        assert auto.decode(ids) == trained.decode(ids)
    for token, id in trained.structure_ids.items():
        assert auto.convert_tokens_to_ids(token) == id and auto.encode(token, add_special_tokens=False) == [id]
        assert auto.decode([id], skip_special_tokens=True) == ""
    assert auto.eos_token_id == trained.end_id and len(auto) == trained.vocabulary_size


@pytest.mark.parametrize("structure", [True, False])
@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_written_gives_the_ids_trained_on(
    bases: dict[str, Path], tmp_path: Path, name: str, config: bool, structure: bool
) -> None:
    base = base_of(bases, name)
    trained = load_tokenizer(str(base), None, structure)
    if config:
        shutil.copy(base / "config.json", tmp_path)
    notes = trained.write(tmp_path)
    check_same(tmp_path, trained)
    assert bool(notes) == (tmp_path / "longrepo_tokenizer.py").exists()
    again = load_tokenizer(str(tmp_path), None, structure)
    assert (again.sha256, again.end_id, again.pad_id) == (trained.sha256, trained.end_id, trained.pad_id)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_class_that_reads_the_file_as_it_is_stays(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    base = base_of(bases, name)
    shutil.copy(base / "config.json", tmp_path)
    trained = load_tokenizer(str(base), None, False)
    trained.write(tmp_path)
    published = AutoTokenizer.from_pretrained(base)
    alike = all(published.encode(text, add_special_tokens=False) == trained.encode(text) for text in TEXTS)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    as_trained = alike or config.get("add_prefix_space") is False  # which the class of Llama 2 and Mistral follows
    named = config.get("tokenizer_class")
    assert named in {"PreTrainedTokenizerFast"} | ({DIALECTS[name].tokenizer_class} if as_trained else set())
    assert named == DIALECTS[name].tokenizer_class or name not in ("qwen2.5-coder", "qwen3", "gpt2", "phi-4", "olmo2")


def test_a_folder_whose_type_takes_its_own_rule_needs_auto_map_and_says_so(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base = base_of(bases, "qwen2, other rules")
    shutil.copy(base / "config.json", tmp_path)
    trained = load_tokenizer(str(base))
    (note,) = trained.write(tmp_path)
    assert "qwen2" in note and "PreTrainedTokenizerFast.from_pretrained" in note
    trusting = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert all(trusting.encode(text, add_special_tokens=False) == trained.encode(text) for text in TEXTS)


def test_the_folder_s_own_additions_survive(bases: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_of(bases, "starcoder2"), base)
    about = json.loads((base / "tokenizer_config.json").read_text())
    about |= {
        "auto_map": {"AutoTokenizer": ["theirs.T", None]},
        "name_or_path": "/home/someone",
        "padding_side": "left",
    }
    (base / "tokenizer_config.json").write_text(json.dumps(about))
    (base / "chat_template.jinja").write_text("{{ messages }}")
    backend = Tokenizer.from_file(str(base / "tokenizer.json"))
    backend.enable_truncation(8)
    backend.enable_padding(length=16)
    backend.save(str(base / "tokenizer.json"))
    out = tmp_path / "out"
    out.mkdir()
    trained = load_tokenizer(str(base), structure_tokens="added")
    trained.write(out)
    check_same(out, trained)
    auto = AutoTokenizer.from_pretrained(out)
    assert auto.chat_template == "{{ messages }}" and auto.padding_side == "left" and auto.model_max_length == 8192
    assert "someone" not in (out / "tokenizer_config.json").read_text()
    assert {*STRUCTURE_TOKENS, "<fim_prefix>"} <= {str(token) for token in auto.all_special_tokens}


def test_a_base_without_a_configuration_has_an_end_token_all_the_same(bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(base_of(bases, "starcoder2") / "tokenizer.json", tmp_path)
    trained = load_tokenizer(str(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    trained.write(out)
    check_same(out, trained)
