"""Small tokenizers by the published rules of well-known ones, in folders like theirs, and code in ten languages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_CL100K = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
_CL100K += r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
_QWEN = _CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = _QWEN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
_SEED = _QWEN.replace(r"|\p{N}|", r"|\p{N}{1}|").replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+")
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CJK_V3 = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
_LINE = "\u2581"


def _split(*rules: str, digits: bool = False) -> pre_tokenizers.PreTokenizer:
    parts: list[Any] = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in rules]
    parts += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_STARCODER = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2])
_SPM = normalizers.Sequence([normalizers.Prepend(_LINE), normalizers.Replace(" ", _LINE)])
_SPM_DECODER = [decoders.Replace(_LINE, " "), decoders.ByteFallback(), decoders.Fuse()]


@dataclass(frozen=True)
class Dialect:
    """A published tokenizer: the class its tokenizer_config.json names (None: none), and tokenizer.json's rules."""

    model_type: str
    tokenizer_class: str | None
    pre_tokenizer: Any = None
    normalizer: Any = None
    decoder: Any = None  # None: byte-level, as the whole tokenizer then is
    end: str = "<|endoftext|>"
    more: tuple[tuple[str, Any], ...] = ()


DIALECTS = {
    "starcoder2": Dialect("starcoder2", "GPT2Tokenizer", _STARCODER),
    "starcoder2 without a class": Dialect("starcoder2", None, _STARCODER),
    "granite-code": Dialect("llama", "GPT2Tokenizer", _STARCODER),
    "smollm2": Dialect("llama", "GPT2Tokenizer", _STARCODER),
    "starcoder": Dialect("gpt_bigcode", "GPT2TokenizerFast", _STARCODER),
    "gpt2": Dialect("gpt2", "GPT2Tokenizer", _GPT2),
    "granite 4": Dialect("granite", "GPT2Tokenizer", _split(_CL100K)),
    "granite 4 hybrid": Dialect("granitemoehybrid", "GPT2Tokenizer", _split(_CL100K)),
    "olmo2": Dialect("olmo2", "GPT2Tokenizer", _split(_CL100K)),
    "phi-4": Dialect("phi3", "GPT2Tokenizer", _split(_CL100K)),
    "llama 3": Dialect("llama", "PreTrainedTokenizerFast", _split(_CL100K), end="<|end_of_text|>"),
    "qwen2.5-coder": Dialect("qwen2", "Qwen2Tokenizer", _split(_QWEN), normalizers.NFC()),
    "qwen2, other rules": Dialect("qwen2", "TokenizersBackend", _STARCODER),
    "qwen3": Dialect("qwen3", "Qwen2Tokenizer", _split(_QWEN), normalizers.NFC()),
    "qwen3.5": Dialect("qwen3_5", "Qwen2Tokenizer", _split(_QWEN35), normalizers.NFC()),
    "qwen3.5, other rules": Dialect("qwen3_5", "Qwen2Tokenizer", _split(_CL100K)),
    "deepseek-coder": Dialect(
        "llama",
        "LlamaTokenizerFast",
        _split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, digits=True),
        normalizers.Sequence([]),
        more=(("add_bos_token", True), ("bos_token", "<|begin|>"), ("legacy", True)),
    ),
    "deepseek's rules on qwen2": Dialect(
        "qwen2", "LlamaTokenizerFast", _split(r"\p{N}{1,3}", _CJK_V3, _DEEPSEEK_V3), normalizers.Sequence([])
    ),
    "seed-coder": Dialect("llama", "PreTrainedTokenizerFast", _split(_SEED), end="<[end]>"),
    "stablelm": Dialect("stablelm", "GPTNeoXTokenizerFast", _GPT2, normalizers.NFC()),
    "codellama": Dialect(
        "llama",
        "LlamaTokenizerFast",
        None,
        _SPM,
        decoders.Sequence([*_SPM_DECODER, decoders.Strip(" ", 1, 0)]),
        "</s>",
        (("add_bos_token", True), ("bos_token", "<s>"), ("legacy", None)),
    ),
    "codegemma": Dialect(
        "gemma",
        "GemmaTokenizer",
        pre_tokenizers.Split(" ", "merged_with_previous"),
        normalizers.Replace(" ", _LINE),
        decoders.Sequence(_SPM_DECODER),
        "<eos>",
        (("bos_token", "<bos>"),),
    ),
    "codestral": Dialect(
        "mistral",
        "LlamaTokenizerFast",
        pre_tokenizers.Metaspace(_LINE, prepend_scheme="first", split=False),
        None,
        decoders.Sequence([*_SPM_DECODER, decoders.Strip(" ", 1, 0)]),
        "</s>",
        (("bos_token", "<s>"),),
    ),
}


def write_dialect(folder: Path, name: str, texts: Iterable[str], size: int = 900, config: bool = True) -> Tokenizer:
    """Write a base's tokenizer, and its config.json, into a new folder; return what tokenizer.json is."""
    dialect = DIALECTS[name]
    tokenizer = _trained(dialect, texts, size)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about: dict[str, Any] = {
        "added_tokens_decoder": {
            str(id): {"content": token.content, "lstrip": False, "normalized": False, "special": True}
            for id, token in tokenizer.get_added_tokens_decoder().items()
        },
        "clean_up_tokenization_spaces": True,
        "eos_token": dialect.end,
        "model_max_length": 8192,
        "tokenizer_class": dialect.tokenizer_class,
        **dict(dialect.more),
    }
    about |= {} if dialect.tokenizer_class else {"add_prefix_space": False}
    about = {key: value for key, value in about.items() if key != "tokenizer_class" or value}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    if config:
        (folder / "config.json").write_text(json.dumps({"model_type": dialect.model_type, "vocab_size": size + 100}))
    return tokenizer


def _trained(dialect: Dialect, texts: Iterable[str], size: int) -> Tokenizer:
    byte_level = dialect.decoder is None
    tokenizer = Tokenizer(models.BPE() if byte_level else models.BPE(unk_token="<unk>", fuse_unk=True))
    if dialect.normalizer is not None:
        tokenizer.normalizer = dialect.normalizer
    if dialect.pre_tokenizer is not None:
        tokenizer.pre_tokenizer = dialect.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel() if byte_level else dialect.decoder
    first = str(dict(dialect.more).get("bos_token", ""))
    special = [token for token in (first, dialect.end, "<fim_prefix>", "<fim_suffix>", "<fim_middle>") if token]
    special += [] if byte_level else ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False, limit_alphabet=400
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if not one["content"].startswith("<0x")]
    state["model"]["byte_fallback"] = not byte_level
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_tokens([AddedToken("<|user|>", normalized=False)])
    return tokenizer


TEN_LANGUAGES = {
    "Python": "ROWS = [\n        1, 22,\n        345,\n]\n\n\ndef mean(xs: list[float]) -> float:\n"
    '    """It\'s 1/n."""\n    return sum(xs) / len(xs) if xs else 0.0\n',
    "JavaScript": "const it = `${a.b?.c ?? 10_000}`;\r\nexport default async (x) => {\r\n  await f(x, 0xFF);\r\n};\r\n",
    "TypeScript": "interface Größe<T> { readonly naïve: T[]; n?: 12345 }\n"
    "type A = keyof typeof x & { id: `id-${number}` };\n",
    "Go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfor i := 0; i < 1024; i++ {\n'
    '\t\tfmt.Printf("%03d\\n", i)\n\t}\n}\n',
    "Rust": "impl<'a> Iterator for Rows<'a> {\n    type Item = &'a [u8];\n"
    "    fn next(&mut self) -> Option<Self::Item> {\n        self.0.checked_mul(16_777_216)?;\n"
    "        None\n    }\n}\n",
    "C": "#define MAX_LEN 4096\nstatic int *p[3] = {0};\n/* don't */ if (x->y != NULL && (a|b)<<2) { goto end; }\n",
    "Java": "@Override public String toString() { return \"été \" + 3.14159f + '\\u00e9'; }\n"
    "// \u65e5\u672c\u8a9e\n\n\n",
    "Ruby": "module A::B\n  RE = /\\A\\d{3}-\\w+\\z/i\n"
    "  def call!(*args, **opts) = puts \"#{args.size} can't, we'LL\"\nend\n",
    "SQL": "SELECT t.id, COUNT(*) AS n FROM t WHERE d >= '2026-11-30' AND x IN (1,22,333) GROUP BY 1;\n"
    "-- \u0440\u0443\n",
    "YAML": "on:\n  push: { branches: [main, 'v1.2.*'] }\njobs:\n    a:\n"
    "      - run: echo 100%   # \U0001f600 e\u0301\n",
}
