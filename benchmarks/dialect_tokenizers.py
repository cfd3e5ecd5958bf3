"""Tokenizers built to the published list of each dialect's tokens, where the base's own files can't be had.

    python benchmarks/dialect_tokenizers.py DIALECT FOLDER

writes one that is the embedded tokenizer's but for its special tokens, which are the dialect's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from longrepo import embedded
from longrepo.data.dialects import DIALECTS, Dialect


def in_dialect(state: dict[str, Any], dialect: Dialect, special: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return tokenizer.json and tokenizer_config.json of a byte-level tokenizer with a dialect's tokens in place of its
    own special ones. `special`: whether the dialect's are special tokens; Qwen's and DeepSeek's are plain added ones.

    Its first special token, which ends a document, gets the dialect's name for it.
    """
    state = json.loads(json.dumps(state))
    vocabulary: dict[str, int] = state["model"]["vocab"]
    own = [token["content"] for token in state["added_tokens"]]
    end, *others = own
    renamed = {end: dialect.end} | {name: f"<unused{number}>" for number, name in enumerate(others)}
    state["model"]["vocab"] = {renamed.get(name, name): id for name, id in vocabulary.items()}
    for token in state["added_tokens"]:
        token["content"] = renamed[token["content"]]
    wanted = [*dialect.tokens, *(name for name in (dialect.begin, dialect.pad) if name)]
    following = 1 + max([*vocabulary.values(), *(token["id"] for token in state["added_tokens"])])
    for name in dict.fromkeys(wanted):
        if name == dialect.end:
            continue
        plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        is_special = special or name in (dialect.begin, dialect.pad)
        state["added_tokens"].append({"id": following, "content": name, "special": is_special, **plain})
        following += 1
    state["post_processor"] = None
    if dialect.begins and dialect.begin is not None:
        id = next(token["id"] for token in state["added_tokens"] if token["content"] == dialect.begin)
        begin, first, second = (
            {"SpecialToken": {"id": dialect.begin, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        )
        state["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, begin, second],
            "special_tokens": {dialect.begin: {"id": dialect.begin, "ids": [id], "tokens": [dialect.begin]}},
        }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": dialect.begin,
        "eos_token": dialect.end,
        "pad_token": dialect.pad,
        "add_bos_token": dialect.begins,
    }
    return state, config


def write_in_dialect(dialect: Dialect, folder: Path, state: dict[str, Any] | None = None, special: bool = True) -> Path:
    """Write a tokenizer into a folder, made if need be, and return the folder. `state`: the tokenizer.json to start
    from; the embedded one's if None."""
    if state is None:
        state = json.loads((embedded.path() / "tokenizer.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, tree in zip(
        ("tokenizer.json", "tokenizer_config.json"), in_dialect(state, dialect, special), strict=True
    ):
        (folder / name).write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder


if __name__ == "__main__":
    by_name = {dialect.name: dialect for dialect in DIALECTS}
    if len(sys.argv) != 3 or sys.argv[1] not in by_name:
        sys.exit(f"give a dialect ({', '.join(by_name)}) and a folder")
    print(write_in_dialect(by_name[sys.argv[1]], Path(sys.argv[2])))
