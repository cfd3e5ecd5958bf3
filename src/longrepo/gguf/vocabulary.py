"""Rebuild a model's tokenizer.json from the vocabulary in its GGUF file.

The file names how text is split before merges (`tokenizer.ggml.pre`) and leaves the rules to its reader; those here are
the published tokenizers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from longrepo.errors import InputError
from longrepo.gguf.header import GgufModel

Json = dict[str, Any]

_CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 3, 4, 5, 6  # of tokenizer.ggml.token_type
GPT2_WORDS = "ByteLevel"  # the rule built into tokenizer.json's ByteLevel
DIGIT = r"\p{N}"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _CL100K.replace("{1,3}", "")
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)


@dataclass(frozen=True)
class Splitting:
    """How text is split before merges, by `rules` one after the other. `nfc`: Unicode's canonical composition before
    it; `whole_words`: a word in the vocabulary isn't merged."""

    rules: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False


_GPT2, _STARCODER = Splitting((GPT2_WORDS,)), Splitting((DIGIT, GPT2_WORDS))
# By llama.cpp's name, as tokenizer.json spells the rules; of names for the same rules the best known comes first.
SPLITTINGS = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mellum", "mpt", "granite-docling", "exaone4"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "mellum2"), _STARCODER),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), Splitting((_QWEN2,), nfc=True)),
    "qwen35": Splitting(
        (_QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"),), nfc=True
    ),
    "stablelm2": Splitting((_QWEN2,)),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), Splitting((_CL100K,))),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), Splitting((_CL100K,), whole_words=True)),
    "gpt-4o": Splitting((_CASED.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"),)),
    "tekken": Splitting((_CASED.replace("END", "").replace("{1,3}", ""),), whole_words=True),
    "seed-coder": Splitting((_QWEN2.replace(DIGIT + "|", DIGIT + "{1}|").replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+"),)),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, DIGIT)),
    "deepseek-v3": Splitting((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK_V3)),
}


def make_tokenizer(model: GgufModel) -> tuple[Json, Json]:
    """Return tokenizer.json and tokenizer_config.json. Raises InputError if the file has no tokenizer, or one that
    can't be rebuilt."""
    kind = model.metadata.get("tokenizer.ggml.model")
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if not kind or not tokens or kind == "no_vocab":
        raise InputError("it holds no tokenizer; give the file of a whole model")
    if kind not in _BUILDERS:
        raise InputError(f"its tokenizer is of the kind {kind}, which can't be rebuilt; byte-level BPE and SPM can")
    types = model.metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise InputError(f"its tokenizer has {len(tokens):,} tokens and {len(types):,} types; download it again")
    state = _BUILDERS[kind](model, tokens, types)
    state["added_tokens"] = [
        _added_token(id, text, type == _CONTROL)
        for id, (text, type) in enumerate(zip(tokens, types, strict=True))
        if type in (_CONTROL, _USER_DEFINED)
    ]
    return {"version": "1.0", "truncation": None, "padding": None} | state, _tokenizer_config(model, tokens)


def _added_token(id: int, text: str, special: bool) -> Json:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": text, "special": special} | plain


def _tokenizer_config(model: GgufModel, tokens: list[str]) -> Json:
    config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.get("context_length"),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_begin(model),
    }
    for ours, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        id = model.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if id is not None and id < len(tokens):
            config[f"{ours}_token"] = tokens[id]
    if template := model.metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _adds_begin(model: GgufModel) -> bool:
    default = model.metadata.get("tokenizer.ggml.model") == "llama"
    return bool(model.metadata.get("tokenizer.ggml.add_bos_token", default))


def _begin_template(model: GgufModel, tokens: list[str]) -> Json | None:
    """Return a post-processor that puts the begin token first, if the file says so."""
    id = model.metadata.get("tokenizer.ggml.bos_token_id")
    if not _adds_begin(model) or id is None or id >= len(tokens):
        return None
    begin, text = tokens[id], {"Sequence": {"id": "A", "type_id": 0}}
    mark = {"SpecialToken": {"id": begin, "type_id": 0}}
    pair = [mark, text, {"Sequence": {"id": "B", "type_id": 0}}]
    special = {begin: {"id": begin, "ids": [id], "tokens": [begin]}}
    return {"type": "TemplateProcessing", "single": [mark, text], "pair": pair, "special_tokens": special}


def _vocabulary(tokens: list[str], types: list[int]) -> dict[str, int]:
    """Return the ids by token, without the rows that only fill the embedding up."""
    return {token: id for id, (token, type) in enumerate(zip(tokens, types, strict=True)) if type != _UNUSED}


def _byte_level(model: GgufModel, tokens: list[str], types: list[int]) -> Json:
    name = model.metadata.get("tokenizer.ggml.pre", "default")
    if name not in SPLITTINGS:
        raise InputError(
            f"its tokenizer splits text by the rules {name!r}, unknown here; convert the model again with a newer "
            "llama.cpp, or give its Hugging Face folder"
        )
    splitting = SPLITTINGS[name]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps: list[Json] = [_split(rule) for rule in splitting.rules if rule != GPT2_WORDS]
    steps.append(byte_level | {"use_regex": GPT2_WORDS in splitting.rules})
    merges = model.metadata.get("tokenizer.ggml.merges")
    if not merges:
        raise InputError("its tokenizer has no merges; give the file of a whole model")
    return {
        "normalizer": {"type": "NFC"} if splitting.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": _begin_template(model, tokens) or byte_level | {"trim_offsets": False, "use_regex": True},
        "decoder": byte_level | {"use_regex": True},
        "model": _bpe_model(_vocabulary(tokens, types), [merge.split(" ", 1) for merge in merges])
        | {"ignore_merges": splitting.whole_words},
    }


def _split(rule: str) -> Json:
    if rule == DIGIT:
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}


def _bpe_model(vocabulary: dict[str, int], merges: list[list[str]]) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocabulary,
        "merges": merges,
    }


def _sentencepiece(model: GgufModel, tokens: list[str], types: list[int]) -> Json:
    """Return SentencePiece's BPE as merges: two pieces merge earlier the better the score of what they make."""
    scores = model.metadata.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise InputError("its tokenizer has no scores; give the file of a whole model")
    vocabulary = _vocabulary(tokens, types)
    plain = {token: id for token, id in vocabulary.items() if types[id] == 1}
    merges = sorted(
        ((-scores[id], id, split) for token, id in plain.items() for split in _splits(token, plain)),
        key=lambda merge: (merge[0], merge[1], plain[merge[2][0]], plain[merge[2][1]]),
    )
    unknown = model.metadata.get("tokenizer.ggml.unknown_token_id")
    prefix = model.metadata.get("tokenizer.ggml.add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, replace] if prefix else [replace]
    decoders: list[Json] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": _begin_template(model, tokens),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe_model(vocabulary, [list(split) for *_, split in merges])
        | {
            "byte_fallback": _BYTE in types,
            "fuse_unk": True,
            "unk_token": tokens[unknown] if unknown is not None else None,
        },
    }


def _splits(token: str, known: dict[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(token)):
        if token[:at] in known and token[at:] in known:
            yield token[:at], token[at:]


_BUILDERS: dict[str, Callable[[GgufModel, list[str], list[int]], Json]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}
