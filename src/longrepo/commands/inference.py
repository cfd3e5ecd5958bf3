"""What `longrepo plan --inference` does: what answering needs by tier, and its speed where the weights are here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrepo.commands.generate import asked_positions
from longrepo.config.load import load_settings
from longrepo.config.schema import ContextSettings, Settings

if TYPE_CHECKING:
    from longrepo.context.tiers import Tiers
    from longrepo.engines.choose import Choice
    from longrepo.memory.budget import Budget

NOT_HERE = "it is planned for another machine"


@dataclass(frozen=True)
class Answering:
    """`settings.context`: where it was trained; `asked`: positions beyond. `adapter`: None for a model alone."""

    settings: Settings
    asked: ContextSettings | None
    adapter: Path | None = None
    tokenizer: str | None = None

    @staticmethod
    def of(name: str | None, config: Path | None, overrides: tuple[str, ...], set_: list[str] | None) -> Answering:
        """A run's, a checkpoint's or an adapter's folder; else a model by its name, or the one of the settings.

        Raises InputError where there is none.
        """
        if name is not None and not (Path(name) / "config.json").is_file() and Path(name).is_dir():
            from longrepo.export.source import find_source
            from longrepo.use.tuned import with_lora

            source = find_source(Path(name))
            return Answering(
                with_lora(source.settings, source.adapter), asked_positions(set_), source.adapter, source.tokenizer
            )
        settings = load_settings(config, (*overrides, *((f"model.name={name}",) if name else ())))
        asked = settings.context if settings.context != ContextSettings() else None
        return Answering(settings.model_copy(update={"context": ContextSettings()}), asked)

    def tiers(self) -> Tiers:
        """Raises InputError where the positions can't be."""
        from longrepo.engines.adaptive import tiers_for

        return tiers_for(self.settings.model, self.settings.context, self.asked, 4096)


def plan_inference(
    answering: Answering, place: tuple[str, str, bool], choice: Choice, budget: Budget, seconds: float, as_json: bool
) -> None:
    """`place`: kind of device, precision, whether it is this machine's. Measures for about so many seconds."""
    from rich.console import Console

    from longrepo.memory.inference import inference_outlook
    from longrepo.memory.planner import Planner
    from longrepo.reports.inference import show_inference

    kind, dtype, here = place
    settings, tiers = answering.settings, answering.tiers()
    planner = Planner.of(settings, kind, dtype, engine=choice.name)
    told = inference_outlook(planner, tiers, budget)
    fitting = [tier for tier, row in zip(tiers.every, told["tiers"], strict=True) if row["fits"]]
    told["unmeasured"] = _why_unmeasured(settings, here, seconds, bool(fitting))
    told["speeds"] = []
    if not told["unmeasured"]:
        told["speeds"] = _speeds(answering, replace(tiers, every=tuple(fitting)), choice, kind, seconds)
    print(json.dumps(told, indent=2)) if as_json else show_inference(told, Console(highlight=False))


def _speeds(answering: Answering, tiers: Tiers, choice: Choice, kind: str, seconds: float) -> list[dict[str, Any]]:
    from longrepo.engines.adaptive import Adaptive
    from longrepo.engines.choose import create
    from longrepo.engines.speed import speeds
    from longrepo.sequences.tokenizer import load_tokenizer

    settings, model = answering.settings, answering.settings.model
    tokenizer = load_tokenizer(answering.tokenizer or model.name, model.revision, settings.data.structure_tokens)
    engine = create(choice, settings, tokenizer, "auto" if kind == "metal" else kind)
    if answering.adapter is not None:
        engine.load_adapter(answering.adapter)
    found = speeds(Adaptive(engine, tiers), tokenizer.vocabulary_size, seconds)
    return [asdict(one) | {"prompt_rate": one.prompt_rate, "new_rate": one.new_rate} for one in found]


def _why_unmeasured(settings: Settings, here: bool, seconds: float, fits: bool) -> str | None:
    if not here:
        return NOT_HERE
    if not seconds:
        return "as asked"
    if not _weights_here(settings):
        return f"the weights of {settings.model.name} aren't on this machine"
    return None if fits else "no tier fits"


def _weights_here(settings: Settings) -> bool:
    from huggingface_hub import try_to_load_from_cache

    from longrepo.config.model_source import model_location

    where, revision = model_location(settings.model.name), settings.model.revision
    if Path(where).is_dir():
        return any(Path(where).glob("*.safetensors"))
    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(where, name, revision=revision), str) for name in names)
