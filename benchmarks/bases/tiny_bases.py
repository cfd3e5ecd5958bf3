"""Tiny random models of each architecture people tune, with a tokenizer of each dialect: folders as the hub has them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrepo import embedded

WIDTH = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
FOUR_LAYERS = {"num_hidden_layers": 4}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 32,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

STARCODER = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>")
QWEN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
DEEPSEEK = ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>")
SMOLLM = ("<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<jupyter_start>", "<jupyter_text>",
          "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>")  # fmt: skip


@dataclass(frozen=True)
class TinyBase:
    """A base by the name of the real one that it stands for. `model_type` and `shape`: of its config.json; `tokens`:
    what its tokenizer has beside the vocabulary; `plain`: those of them that aren't special."""

    name: str
    model_type: str
    tokens: tuple[str, ...] = ()
    shape: dict[str, Any] = field(default_factory=dict)
    begin: str | None = None
    plain: frozenset[str] = frozenset()


BASES = (
    TinyBase("StarCoder2-3B", "starcoder2", (), {"sliding_window": 64}),
    TinyBase("Qwen2.5-Coder-1.5B", "qwen2", QWEN, plain=frozenset(QWEN)),
    TinyBase("Qwen3-1.7B-Base", "qwen3", QWEN, {"head_dim": 32}, plain=frozenset(QWEN)),
    TinyBase("Qwen3.5-2B-Base", "qwen3_5_text", QWEN, FOUR_LAYERS | {
        "head_dim": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4}, plain=frozenset(QWEN)),
    TinyBase("DeepSeek-Coder-1.3B", "llama", DEEPSEEK, begin="<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
    TinyBase("CodeLlama-7B", "llama", ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>"), begin="<s>"),
    TinyBase("CodeGemma-2B", "gemma", ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"),
             {"head_dim": 32}, begin="<bos>"),
    TinyBase("Gemma-3-1B", "gemma3_text", (), FOUR_LAYERS | {"head_dim": 32, "sliding_window": 64}, begin="<bos>"),
    TinyBase("Codestral-22B", "mistral", ("[PREFIX]", "[SUFFIX]"), begin="<s>"),
    TinyBase("Granite-4.1-3B-Base", "granite", ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
             {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.0625,
              "logits_scaling": 8.0}),
    TinyBase("Granite-4.0-1B", "granitemoehybrid",
             ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
             {"num_local_experts": 0, "shared_intermediate_size": 128, "layer_types": ["attention"] * 2} | MAMBA),
    TinyBase("Granite-4.0-H-1B", "granitemoehybrid",
             ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
             FOUR_LAYERS | {"num_local_experts": 0, "shared_intermediate_size": 128,
                            "layer_types": ["mamba", "mamba", "mamba", "attention"]} | MAMBA),
    TinyBase("Mellum-4b-base", "llama", (*STARCODER, "<filename>", "<reponame>")),
    TinyBase("Seed-Coder-8B-Base", "llama", ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
             begin="<[begin\u2581of\u2581sentence]>"),
    TinyBase("StableCode-3B", "stablelm", (*STARCODER, "<reponame>", "<filename>"), {"partial_rotary_factor": 0.25}),
    TinyBase("SmolLM2-135M", "llama", SMOLLM),
    TinyBase("SmolLM3-3B", "smollm3", (), FOUR_LAYERS | {"no_rope_layers": [1, 1, 1, 0]}),
    TinyBase("OpenCoder-1.5B", "llama"),
    TinyBase("OLMo-2-1B", "olmo2"),
    TinyBase("Phi-3-mini", "phi3"),
    TinyBase("GLM-4-9B", "glm4", ("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"), {"head_dim": 16},
             begin="[gMASK]"),
    TinyBase("Mellum2-12B", "mellum", (*STARCODER, "<filename>", "<reponame>"), EXPERTS | {"head_dim": 16}),
)  # fmt: skip


def write(base: TinyBase, folder: Path) -> None:
    """Write a base's folder: config.json, random weights, tokenizer.json and tokenizer_config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = _tokenizer(base)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    end = vocabulary["<|endoftext|>"]
    ends = {"bos_token_id": vocabulary.get(base.begin or "<|endoftext|>"), "eos_token_id": end, "pad_token_id": end}
    config = AutoConfig.for_model(base.model_type, **WIDTH | {"vocab_size": len(vocabulary)} | ends | base.shape)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    if base.begin:
        settings |= {"bos_token": base.begin, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _tokenizer(base: TinyBase) -> Any:
    """Return the embedded model's tokenizer; its own special tokens stay for StarCoder2, others get the base's."""
    from tokenizers import AddedToken, Tokenizer, processors

    state = json.loads((embedded.path() / "tokenizer.json").read_text(encoding="utf-8"))
    if base.model_type != "starcoder2":
        renamed = _neutral_names(state)
        state = json.loads(renamed)
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokens = [*([base.begin] if base.begin else []), *base.tokens]
    for token in tokens:
        tokenizer.add_special_tokens([AddedToken(token, special=token not in base.plain, normalized=False)])
    if base.begin:
        known = tokenizer.token_to_id(base.begin)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{base.begin} $A", pair=f"{base.begin} $A $B", special_tokens=[(base.begin, known)]
        )
    return tokenizer


def _neutral_names(state: dict[str, Any]) -> str:
    """Return the tokenizer's state with all special tokens but the end token under names that no dialect has."""
    vocabulary = state["model"]["vocab"]
    for number, token in enumerate(state["added_tokens"]):
        if token["content"] != "<|endoftext|>":
            name = f"<|unused_{number}|>"
            if token["content"] in vocabulary:
                vocabulary[name] = vocabulary.pop(token["content"])
            token["content"] = name
    return json.dumps(state)


def by_name(names: list[str]) -> list[TinyBase]:
    """Return the bases of these names, or all."""
    return [base for base in BASES if not names or base.name in names]


