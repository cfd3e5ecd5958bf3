"""Define the presets for training from scratch, and write a model folder with random weights to start from.

They are StarCoder2's architecture at 150 to 500 million parameters, and the embedded model's shape. A preset's name is
a size and a context, `150M_1024`; a size alone takes the context in its file. Rotary positions have no parameters, so
one file per size serves every context.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo import embedded
from longrepo.config.schema import ModelSettings, Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.utils import files

PRESET_CONTEXTS = (256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens
SIZES_FOLDER = Path(__file__).parent / "sizes"
STARCODER2_TOKENIZER = "bigcode/starcoder2-3b"  # its tokenizer has the sized presets' 49,152 tokens


@dataclass(frozen=True)
class Preset:
    """A model to train from scratch. `config`: the content of config.json. `tokenizer`: a name for `--model`."""

    name: str
    config: dict[str, Any]
    tokenizer: str

    @property
    def context(self) -> int:
        """Tokens."""
        return int(self.config["max_position_embeddings"])

    def write_config(self, folder: Path) -> None:
        """Write config.json into an existing folder."""
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def size_files() -> dict[str, Path]:
    """Return the file of each size, smallest first."""
    files = sorted(SIZES_FOLDER.glob("*.json"), key=lambda file: int(file.stem.removesuffix("M")))
    return {"embedded": embedded.path() / "config.json"} | {file.stem: file for file in files}


def preset_names() -> list[str]:
    """Return the name of every preset: `embedded_256`, …, `500M_16384`."""
    return [f"{size}_{context}" for size in size_files() for context in PRESET_CONTEXTS]


def find_preset(name: str) -> Preset:
    """Return a preset by name. Raises InputError for an unknown one, suggesting the nearest."""
    size, _, context = name.partition("_")
    known = size_files()
    if size not in known or (context and context not in map(str, PRESET_CONTEXTS)):
        raise InputError(f"preset {name}: no such preset; {_nearest_name(name)}; see longrepo models list")
    config = json.loads(known[size].read_text(encoding="utf-8"))
    if context:
        config["max_position_embeddings"] = int(context)
    full = f"{size}_{config['max_position_embeddings']}"
    return Preset(full, config, "embedded" if size == "embedded" else STARCODER2_TOKENIZER)


def _nearest_name(name: str) -> str:
    size, _, context = name.partition("_")
    if size in size_files() and context.isdecimal():
        closest = min(PRESET_CONTEXTS, key=lambda tokens: abs(tokens - int(context)))
        return f"the nearest context of {size} is {size}_{closest}"
    if name.lower() == (default := ModelSettings().name).rpartition("/")[2]:
        return f"the model is {default}"
    by_lower = {one.lower(): one for one in (*size_files(), *preset_names())}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f"the nearest name is {by_lower[found[0]]}" if found else "names are a size and a context, as in 150M_1024"


# GPT-3's by size (arXiv 2005.14165, table 2.1); the embedded model is narrow and takes a higher rate.
LEARNING_RATES = {"embedded": 3e-3, "150M": 6e-4, "200M": 6e-4, "250M": 4e-4, "350M": 3e-4, "500M": 3e-4}


def pretrain_overrides(chosen: Preset, max_steps: int | None) -> tuple[str, ...]:
    """Return settings for `--set`: all weights, one phase at the preset's context; one pass without `max_steps`."""
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


def longest_trained_sequence(settings: Settings) -> int:
    """Return the length in tokens of the longest sequence that will be trained on."""
    return max(phase.max_length for phase in make_schedule(settings) if phase.epochs)


def check_vocabulary(chosen: Preset, tokenizer: RepoTokenizer) -> None:
    """Raises InputError if the tokenizer has more tokens, structure tokens aside, than the preset's embedding."""
    own = tokenizer.vocabulary_size - len(tokenizer.structure_ids)
    rows = int(chosen.config["vocab_size"])
    if own > rows:
        raise InputError(
            f"--tokenizer {tokenizer.name}: has {own:,} tokens, but the embedding of {chosen.name} has {rows:,} rows; "
            f"leave it out ({chosen.tokenizer}) or choose a preset with more"
        )


def write_initial_model(folder: Path, chosen: Preset, tokenizer: RepoTokenizer, settings: Settings) -> None:
    """Write a Hugging Face folder, completely or not at all: configuration, random weights (seeded), tokenizer."""
    from longrepo.engines.torch.full_finetune import write_random_model

    special = {"bos_token_id": tokenizer.end_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    with files.temporary_folder_beside(folder) as beside:
        Preset(chosen.name, chosen.config | special, chosen.tokenizer).write_config(beside)
        write_random_model(beside, settings.training.seed)
        tokenizer.write(beside)
        files.move_into_place(beside, folder)
