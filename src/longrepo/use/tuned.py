"""A tuned model, ready to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import Settings
from longrepo.curriculum.phases import phases_from
from longrepo.engines.base import Engine
from longrepo.engines.choose import Choice, create
from longrepo.engines.peft_names import CONFIG
from longrepo.errors import InputError
from longrepo.export.source import find_source, read_adapter_config
from longrepo.sequences.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.use.around import Around
from longrepo.use.prompts import Prompts

_MORE_THAN_LORA = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Tuned:
    """`positions`: tokens that the base reaches, as the run trained it; `notes` are lines for the terminal."""

    name: str
    engine: Engine
    tokenizer: RepoTokenizer
    settings: Settings
    positions: int
    notes: tuple[str, ...]

    @staticmethod
    def load(path: Path, model: str | None, choice: Choice, device: str) -> Tuned:
        """Of a run's folder, a checkpoint's or an adapter's; `model` stands in for the base it names.

        Raises InputError where it can't be had, or the adapter is another base's.
        """
        from longrepo.memory.shape import read_config

        found = find_source(path)
        source, notes = found.on(model), found.notes
        settings = _with_lora(source.settings, source.adapter)
        base = settings.model
        if base.name != found.settings.model.name:
            notes += (f"the adapter names {found.settings.model.name} as its base; {base.name} is taken, as asked",)
        tokenizer = load_tokenizer(source.tokenizer, base.revision, settings.data.structure_tokens)
        engine = create(choice, settings, tokenizer, device)
        engine.load_adapter(source.adapter)
        positions = int(getattr(read_config(base.name, base.revision, settings.context), "max_position_embeddings", 0))
        name = f"{Path(base.name).name}-{path.resolve().name}"
        return Tuned(name, engine, tokenizer, settings, positions or _longest(settings), notes)

    def length(self, asked: int | None) -> int:
        """Tokens of prompt and completion together: what is asked for, else the longest the run was planned for, as
        far as the base reaches. Raises InputError for more than that."""
        if asked is not None and asked > self.positions:
            raise InputError(f"--length {asked}: {self.settings.model.name} reaches {self.positions} tokens here")
        return asked or min(self.positions, _longest(self.settings))

    def prompts(self, length: int | None, repo: Path | None) -> Prompts:
        """Of `length` tokens (see there), with the files of a repository around what is asked, if one is given."""
        around = Around.read(repo, self.tokenizer, self.settings) if repo is not None else None
        return Prompts(self.tokenizer, self.length(length), around)


def _longest(settings: Settings) -> int:
    return max(phase.max_length for phase in phases_from(settings))


def _with_lora(settings: Settings, adapter: Path) -> Settings:
    """The settings with the LoRA of an adapter's folder, which an adapter alone brings without its run's settings."""
    if settings.training.weights == "all":
        return settings
    config: dict[str, Any] = read_adapter_config(adapter)
    modules = config.get("target_modules")
    if config.get("peft_type") != "LORA" or not isinstance(modules, list):
        raise InputError(f"{adapter / CONFIG}: only plain LoRA on named modules can be loaded")
    if more := [name for name in _MORE_THAN_LORA if config.get(name)]:
        raise InputError(f"{adapter / CONFIG}: only plain LoRA can be loaded, and this has {more[0]}")
    ours = {"r": config["r"], "alpha": config["lora_alpha"], "target_modules": tuple(modules)}
    return settings.model_copy(update={"lora": settings.lora.model_copy(update=ours)})
