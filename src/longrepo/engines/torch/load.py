"""Loading a causal language model, 4-bit or not, ready for an adapter."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from longrepo.config.model_source import model_location
from longrepo.config.schema import ModelSettings
from longrepo.engines.torch.device import Placement
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.sequences.tokenizer import RepoTokenizer

DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout")


def load_base(settings: ModelSettings, tokenizer: RepoTokenizer, placement: Placement) -> tuple[nn.Module, list[str]]:
    """A frozen base model on its device, its embedding wide enough for the tokenizer; and notes for the terminal.

    Added rows begin as the rows that `tokenizer.initial_from` names. Raises InputError where the model can't be had.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    notes: list[str] = []
    try:
        where = model_location(settings.name)
        config = transformers.AutoConfig.from_pretrained(where, revision=settings.revision)
        _silence_dropouts(config, notes)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            where,
            revision=settings.revision,
            config=config,
            dtype=placement.dtype,
            attn_implementation="sdpa",
            device_map={"": placement.device},
            **_quantization(settings, placement),
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {settings.name}: can't be loaded ({reason}); give a hub name with network access, "
            "a local Hugging Face folder, or --model embedded"
        ) from None
    model.requires_grad_(False)
    module: Any
    for module in model.modules():
        # bitsandbytes repacks 4-bit weights for inference the first time it sees eval mode on a CPU with AVX512-BF16:
        # lossy, and without a backward pass from then on. Validation would silently end the training.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if placement.device.type == "cpu":
        _let_go_of_files(model)
    _widen(model, tokenizer)
    return model, notes


def _let_go_of_files(model: nn.Module) -> None:
    """On a CPU the loader maps the weight files; one bias that still lies in the mapping would keep all of it (6 GB
    of StarCoder2-3B in bfloat16) in the process. What wasn't quantised is copied out."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.clone()


def _quantization(settings: ModelSettings, placement: Placement) -> dict[str, Any]:
    if settings.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=settings.double_quantization,
            bnb_4bit_compute_dtype=placement.dtype,
        )
    }


def _silence_dropouts(config: Any, notes: list[str]) -> None:
    """StarCoder2 was released with dropouts of 0.1; `lora.dropout` is to be the only one."""
    changed = [name for name in DROPOUTS if getattr(config, name, 0)]
    for name in changed:
        setattr(config, name, 0.0)
    if changed:
        notes.append(f"{', '.join(changed)} of the base set to 0: lora.dropout is the only dropout")


def _widen(model: Any, tokenizer: RepoTokenizer) -> None:
    embedding = model.get_input_embeddings()
    if tokenizer.vocabulary_size > embedding.num_embeddings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.resize_token_embeddings(tokenizer.vocabulary_size, mean_resizing=False)
        model.requires_grad_(False)
    tables = {id(t): t for t in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    with torch.no_grad():
        for table in tables.values():
            for new, source in tokenizer.initial_from.items():
                table[new] = table[source]
