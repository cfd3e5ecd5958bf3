"""What tokenizer.json says beside the vocabulary: the token that begins a document, and spaces that nobody wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_SPACES = (" ", "\N{LOWER ONE EIGHTH BLOCK}")


def begin_token(state: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return the token that a tokenizer puts before a text, by tokenizer.json's post-processor, or by `add_bos_token`
    in tokenizer_config.json, which transformers and llama.cpp follow as well; None if it puts none."""
    for processor in _parts(state.get("post_processor"), "processors"):
        if processor["type"] == "TemplateProcessing" and "SpecialToken" in processor["single"][0]:
            return str(processor["single"][0]["SpecialToken"]["id"])
    token = config.get("bos_token")
    name = token.get("content") if isinstance(token, dict) else token
    return name if config.get("add_bos_token") is True and isinstance(name, str) else None


def drop_implied_space(state: dict[str, Any]) -> bool:
    """Change tokenizer.json so that a text gets no space at its beginning, and decoding takes none away; return whether
    that makes a difference.

    The tokenizers of Llama 2, Code Llama and Mistral do both; a text that is cut into pieces and put together again
    would gain and lose spaces. Meta encodes the text after a gap in the same way (codellama's `encode_infilling`).
    """
    rules = ("normalizer", "pre_tokenizer", "decoder")
    before = json.dumps([state.get(rule) for rule in rules])
    state["normalizer"] = _without(state.get("normalizer"), "normalizers", _is_prepend)
    state["decoder"] = _without(state.get("decoder"), "decoders", _is_strip)
    splits = list(_parts(state.get("pre_tokenizer"), "pretokenizers"))
    for part in (*splits, *_parts(state["decoder"], "decoders")):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
    for part in splits:
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    return before != json.dumps([state.get(rule) for rule in rules])


def _parts(rule: Any, inside: str) -> Iterator[dict[str, Any]]:
    if not isinstance(rule, dict):
        return
    if rule.get("type") == "Sequence":
        for part in rule[inside]:
            yield from _parts(part, inside)
    else:
        yield rule


def _without(rule: Any, inside: str, dropped: Any) -> Any:
    if not isinstance(rule, dict):
        return rule
    if rule.get("type") == "Sequence":
        return rule | {inside: [kept for part in rule[inside] if (kept := _without(part, inside, dropped)) is not None]}
    return None if dropped(rule) else rule


def _is_prepend(rule: Mapping[str, Any]) -> bool:
    return rule["type"] == "Prepend" and rule["prepend"] in _SPACES


def _is_strip(rule: Mapping[str, Any]) -> bool:
    return rule["type"] == "Strip" and rule["content"] in _SPACES and rule["start"] > 0
