"""A tuned model, ready to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings, Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.data.template import completion_text
from longrepo.data.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.engines.adapter_io import ADAPTER_CONFIG
from longrepo.engines.base import Engine
from longrepo.engines.registry import EngineSelection, cache_library, create_engine
from longrepo.engines.tiers import Tier, TieredEngine, model_tiers
from longrepo.errors import InputError
from longrepo.serve.prompts import PromptBuilder, WorkingTree
from longrepo.training.artifact import find_artifact, read_adapter_config

_UNSUPPORTED_LORA_KEYS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class TunedModel:
    """`adaptive` has its engine at the positions of each text; `notes` are lines for the terminal."""

    name: str
    adaptive: TieredEngine
    tokenizer: RepoTokenizer
    settings: Settings
    notes: tuple[str, ...]

    @staticmethod
    def load(
        path: Path, model: str | None, choice: EngineSelection, device: str, asked: ContextSettings | None = None
    ) -> TunedModel:
        """Of a run's folder, a checkpoint's, or that of what they trained; `model` stands in for the base it names,
        `asked` are the positions of texts that are longer than its own reach.

        Raises InputError where it can't be had, or is another base's.
        """
        found = find_artifact(path)
        source, notes = found.on(model), found.notes
        settings = with_adapter_lora(source.settings, source.adapter)
        base = settings.model
        if base.name != found.settings.model.name:
            own = found.settings.model.name
            named = f"training began with {own}" if source.whole else f"the adapter names {own} as its base"
            notes += (f"{named}; {base.name} is taken, as asked",)
        tiers = model_tiers(base, settings.context, asked, _longest_length(settings))
        tokenizer = load_tokenizer(source.tokenizer, base.revision, settings.data.structure_tokens)
        engine = create_engine(choice, settings, tokenizer, device)
        engine.load_adapter(source.adapter)
        name = f"{Path(base.name).name}-{path.resolve().name}"
        return TunedModel(name, TieredEngine(engine, tiers), tokenizer, settings, notes)

    @property
    def engine(self) -> Engine:
        return self.adaptive.engine

    def length(self, asked: int | None) -> int:
        """Tokens of prompt and completion together: what is asked for, else the longest the run was planned for, as
        far as the positions reach. Raises InputError for more than that."""
        tiers = self.adaptive.tiers
        if asked is not None and asked > tiers.reach:
            name = self.settings.model.name
            raise InputError(f"--length {asked}: {name} reaches {tiers.reach} tokens here: {tiers.remedy_for(asked)}")
        return asked or min(tiers.reach, _longest_length(self.settings))

    def check_cache(self, tier: Tier, bits: int) -> None:
        """Raises InputError where the engine's library can't keep so many bits of keys and values in this tier."""
        from longrepo.engines.model_shape import read_config

        config = read_config(self.settings.model.name, self.settings.model.revision, tier.context)
        library = cache_library(self.engine.name)
        if reason := library.unsupported_bits_reason(config, bits, self.engine.device):
            raise InputError(f"--cache-bits {bits}: {reason}; leave it out, or see longrepo plan --inference")

    def prompts(self, length: int | None, repo: Path | None) -> PromptBuilder:
        """Of `length` tokens (see there), with the files of a repository around what is asked, if one is given. Without
        a `length`, a text as it is may have all that the positions reach."""
        around = WorkingTree.read(repo, self.tokenizer, self.settings) if repo is not None else None
        return PromptBuilder(self.tokenizer, self.length(length), around, length or self.adaptive.tiers.reach)

    def complete(self, text: str, max_tokens: int = 64, length: int | None = None) -> str:
        """What the model writes after a text, greedily; `length`: tokens of both together. Raises InputError for a text
        that is too long."""
        asked = self.prompts(length, None).from_text(text, None, max_tokens)
        self.adaptive.select_tier(len(asked.ids) + max_tokens)
        return completion_text(self.tokenizer, list(self.engine.generate(asked.ids, max_tokens)))


def _longest_length(settings: Settings) -> int:
    return max(phase.max_length for phase in make_schedule(settings))


def with_adapter_lora(settings: Settings, adapter: Path) -> Settings:
    """The settings with the LoRA of an adapter's folder, which an adapter alone brings without its run's settings."""
    if settings.training.weights == "all":
        return settings
    config: dict[str, Any] = read_adapter_config(adapter)
    modules = config.get("target_modules")
    if config.get("peft_type") != "LORA" or not isinstance(modules, list):
        raise InputError(f"{adapter / ADAPTER_CONFIG}: only plain LoRA on named modules can be loaded")
    if more := [name for name in _UNSUPPORTED_LORA_KEYS if config.get(name)]:
        raise InputError(f"{adapter / ADAPTER_CONFIG}: only plain LoRA can be loaded, and this has {more[0]}")
    ours = {"r": config["r"], "alpha": config["lora_alpha"], "target_modules": tuple(modules)}
    return settings.model_copy(update={"lora": settings.lora.model_copy(update=ours)})
