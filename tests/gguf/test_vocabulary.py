"""The tokenizer rebuilt from a GGUF file gives the ids of the tokenizer whose vocabulary is in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from dialects import TEN_LANGUAGES, write_dialect

from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_files import _PROBE as PROBE
from longrepo.gguf.header import GgufModel
from longrepo.gguf.vocabulary import make_tokenizer

# llama.cpp's names of the splitting rules of published tokenizers (the converter's list of hashes).
PRE = {
    "starcoder2": "starcoder",
    "granite-code": "refact",
    "smollm2": "smollm",
    "gpt2": "gpt-2",
    "granite 4": "dbrx",
    "phi-4": "dbrx",
    "qwen2.5-coder": "qwen2",
    "qwen3": "qwen2",
    "deepseek-coder": "deepseek-coder",
    "llama 3": "llama-bpe",
    "qwen3.5": "qwen35",
    "deepseek's rules on qwen2": "deepseek-v3",
    "seed-coder": "seed-coder",
}
TEXTS = [*TEN_LANGUAGES.values(), PROBE, "<|endoftext|> x", "<|user|>hello"]


def in_gguf(tokenizer: Tokenizer, **keys: Any) -> GgufModel:
    """What the converter writes of a tokenizer, with one row of the embedding that no token has."""
    state = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    added = {one["content"]: 3 if one["special"] else 4 for one in state["added_tokens"]}
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": 512,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, "[PAD1]"],
        "tokenizer.ggml.token_type": [*(added.get(token, 1) for token in tokens), 5],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in state["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 0,
    }
    return GgufModel((), metadata | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}, {})


@pytest.mark.parametrize("name", PRE)
def test_ids_are_those_of_the_published_rules(name: str, tmp_path: Path) -> None:
    texts = TEN_LANGUAGES.values()
    published = write_dialect(tmp_path / "base", name, texts)
    state, config = make_tokenizer(in_gguf(published, pre=PRE[name]))
    rebuilt = Tokenizer.from_str(json.dumps(state))
    assert rebuilt.get_vocab() == published.get_vocab()
    for text in TEXTS:
        expected = published.encode(text, add_special_tokens=False).ids
        assert rebuilt.encode(text, add_special_tokens=False).ids == expected, text
        assert rebuilt.decode(expected, skip_special_tokens=False) == published.decode(
            expected, skip_special_tokens=False
        )
    ours = RepoTokenizer(rebuilt, "rebuilt", "added", config)
    end = config["eos_token"]
    assert ours.end_id == 0 and ours.encode(f"a {end}")[-1] != 0 and ours.encode_marked(end) == [0]
    assert ours.structure_ids and min(ours.structure_ids.values()) == published.get_vocab_size()


def test_control_tokens_are_special_and_user_defined_ones_are_not(tmp_path: Path) -> None:
    published = write_dialect(tmp_path / "base", "starcoder2", ["a b"])
    state, _ = make_tokenizer(in_gguf(published, pre="starcoder"))
    special = {one["content"]: one["special"] for one in state["added_tokens"]}
    assert special == {"<|endoftext|>": True, "<fim_prefix>": True, "<fim_suffix>": True, "<fim_middle>": True,
                       "<|user|>": False}  # fmt: skip


@pytest.mark.parametrize("adds, count", [(True, 1), (False, 0)])
def test_a_begin_token_is_added_if_the_file_says_so(adds: bool, count: int, tmp_path: Path) -> None:
    published = write_dialect(tmp_path / "base", "deepseek-coder", ["a b"])
    keys = {"pre": "deepseek-coder", "add_bos_token": adds, "bos_token_id": 0, "eos_token_id": 1}
    state, config = make_tokenizer(in_gguf(published, **keys))
    assert config["bos_token"] == "<|begin|>" and config["add_bos_token"] is adds
    ids = Tokenizer.from_str(json.dumps(state)).encode("a b").ids
    assert ids[:count] == [0] * count and 0 not in ids[count:]


@pytest.mark.parametrize("name", ["codellama", "codegemma"])
def test_sentencepiece_merges_by_score(name: str, tmp_path: Path) -> None:
    """A piece's score is minus the place of its merge; llama.cpp merges the neighbours whose piece has the best one."""
    published = write_dialect(tmp_path / "base", name, TEN_LANGUAGES.values())
    model = json.loads(published.to_str())["model"]
    rank = {first + second: place for place, (first, second) in reversed(list(enumerate(model["merges"])))}
    file = in_gguf(published, model="llama", add_space_prefix=name == "codellama")
    tokens = file.metadata["tokenizer.ggml.tokens"]
    file.metadata["tokenizer.ggml.scores"] = [-float(rank.get(token, 1e6)) for token in tokens]
    types = [
        6 if token.startswith("<0x") else type
        for token, type in zip(tokens, file.metadata["tokenizer.ggml.token_type"], strict=True)
    ]
    file.metadata.update({"tokenizer.ggml.token_type": types, "tokenizer.ggml.unknown_token_id": tokens.index("<unk>")})
    state, config = make_tokenizer(file)
    rebuilt = Tokenizer.from_str(json.dumps(state))
    for text in TEXTS:
        expected = published.encode(text, add_special_tokens=False).ids
        assert rebuilt.encode(text, add_special_tokens=False).ids == expected, text
        assert rebuilt.decode(expected, skip_special_tokens=False) == published.decode(
            expected, skip_special_tokens=False
        )
    assert config["eos_token"] == "<s>" if name == "codellama" else "<bos>"
