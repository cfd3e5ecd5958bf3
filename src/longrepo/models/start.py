"""Where training from scratch begins: a preset's settings, and a model folder with random weights and a tokenizer."""

from __future__ import annotations

from pathlib import Path

from longrepo.config.schema import Settings
from longrepo.curriculum.phases import phases_from
from longrepo.errors import InputError
from longrepo.models.presets import Preset
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.training import disk

# GPT-3's by size (arXiv 2005.14165, table 2.1); the embedded model's small width takes more.
LEARNING_RATES = {"embedded": 3e-3, "150M": 6e-4, "200M": 6e-4, "250M": 4e-4, "350M": 3e-4, "500M": 3e-4}


def from_scratch(chosen: Preset, max_steps: int | None) -> tuple[str, ...]:
    """Settings as `--set` takes them: all weights, one phase of the preset's context. Without `max_steps` one pass."""
    context = chosen.context
    return (
        "training.weights=all",
        "model.quantization=none",
        f"model.max_position_embeddings={context}",
        "data.overlap=0",
        f"training.base_learning_rate={LEARNING_RATES[chosen.name.partition('_')[0]]}",
        "training.weight_decay=0.1",
        "training.warmup_ratio=0.05",
        "training.gradient_accumulation_steps=8",
        "training.early_stopping_patience=0",
        f"training.max_updates={max_steps or 'null'}",
        f"long_context.phase1_max_length={context}",
        f"long_context.phase1_epochs={max_steps or 1}",
        f"long_context.phase2_min_length={context + 1}",
        f"long_context.phase2_max_length={2 * context}",
        "long_context.phase2_epochs=0",
        f"long_context.phase3_min_length={2 * context + 1}",
        f"long_context.phase3_max_length={4 * context}",
    )


def longest(settings: Settings) -> int:
    """Tokens of the longest sequence that is going to be trained on."""
    return max(phase.max_length for phase in phases_from(settings) if phase.epochs)


def check_vocabulary(chosen: Preset, tokenizer: RepoTokenizer) -> None:
    """Raises InputError where the tokenizer has more tokens, structure tokens aside, than the preset's embedding."""
    own = tokenizer.vocabulary_size - len(tokenizer.structure_ids)
    rows = int(chosen.config["vocab_size"])
    if own > rows:
        raise InputError(
            f"--tokenizer {tokenizer.name}: has {own:,} tokens, and {chosen.name} an embedding of {rows:,}; leave it "
            f"out ({chosen.tokenizer}) or take a preset with more"
        )


def write_start(folder: Path, chosen: Preset, tokenizer: RepoTokenizer, settings: Settings) -> None:
    """A Hugging Face folder, whole or not there: configuration, random weights (from `training.seed`), tokenizer."""
    from longrepo.engines.torch.whole import write_new_model

    special = {"bos_token_id": tokenizer.end_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    with disk.folder_beside(folder) as beside:
        Preset(chosen.name, chosen.config | special, chosen.tokenizer).write_config(beside)
        write_new_model(beside, settings.training.seed)
        tokenizer.source.save_pretrained(str(beside))
        disk.move_into_place(beside, folder)
