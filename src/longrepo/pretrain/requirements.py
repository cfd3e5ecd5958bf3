"""Count a model's parameters, and plan its memory: to generate, to train by batch and context, and on which machines.

Parameters are counted on the architecture without any weights. A preset is planned from its configuration, before any
folder holds it.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.engines.base import StepMethod
from longrepo.engines.lora_targets import with_lora_targets
from longrepo.engines.model_shape import ModelShape, read_shape
from longrepo.engines.torch.kv_cache import cache_bytes
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import Estimator
from longrepo.memory.planner import MemoryPlanner, StepEstimate, checked_phase_planner, disk_allowance
from longrepo.memory.report import machine_table
from longrepo.pretrain.presets import PRESET_CONTEXTS, Preset, find_preset, size_files

PARAMETER_PARTS = ("embedding", "positions", "attention", "mlp", "norms", "head", "other")


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by part (`PARAMETER_PARTS`). A tied head counts once, in the embedding; rotary positions have none."""

    by_part: dict[str, int]
    tied: bool
    rotary: bool

    @property
    def total(self) -> int:
        return sum(self.by_part.values())

    @property
    def position_share(self) -> float:
        """Share of the positions in all parameters."""
        return self.by_part["positions"] / self.total


def count_parameters(config: Any) -> ParameterCounts:
    """Count the parameters of a transformers configuration, built on torch's `meta` device.

    Raises InputError if transformers has no causal language model of that kind.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"model {config.name_or_path}: can't be built ({reason})") from None
    tokens, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    counted = dict.fromkeys(PARAMETER_PARTS, 0)
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                counted[_part_of(path, module, parameter is tokens, parameter is head)] += parameter.numel()
    rotary = any("rotary" in name for name, _ in model.named_modules())
    return ParameterCounts(counted, tied=tokens is head, rotary=rotary)


def _part_of(path: str, module: Any, tokens: bool, head: bool) -> str:
    if tokens:
        return "embedding"
    if head:
        return "head"
    kind, names = type(module).__name__.lower(), path.lower().split(".")
    if kind == "embedding" or "position" in names[-1]:
        return "positions"
    if "norm" in kind:
        return "norms"
    if any("attn" in name or "attention" in name for name in names):
        return "attention"
    if any(name in ("mlp", "feed_forward", "ffn") or "expert" in name for name in names):
        return "mlp"
    return "other"


DEFAULT_BATCHES, DEFAULT_CONTEXTS = (1, 8), (256, 1024, 4096)
BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2}
LISTED_CONTEXTS = (256, 1024, 2048, 4096)
PLANNED_DTYPE = "bfloat16"  # the compute type that machines are planned for


@dataclass(frozen=True)
class RequirementsQuery:
    """What to plan for a model `config`: `settings` give LoRA's rank and the budget; batch sizes, contexts."""

    config: Any
    settings: Settings
    batches: tuple[int, ...] = DEFAULT_BATCHES
    contexts: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """The requested contexts, or the usual ones and the model's own (at most 16,384), that its positions reach."""
        native = self.config.max_position_embeddings
        wanted = self.contexts or tuple(sorted({*DEFAULT_CONTEXTS, min(native, 16384)}))
        return tuple(context for context in wanted if context <= native)


def calculate_requirements(asked: RequirementsQuery, machines: bool = True) -> dict[str, Any]:
    """Return parameter counts and sizes in bytes; if training can't be planned, `unplanned` says why.

    Raises InputError if the model can't be built.
    """
    parts = count_parameters(asked.config)
    shape = read_shape(asked.config)
    lora = lora_settings(asked.settings, shape)
    result = _parameter_counts(asked, parts, shape, lora) | {"inference": _inference_requirements(asked, parts)}
    try:
        result |= {"training": _training_requirements(asked, shape, lora)}
        if lora is not None and lora.model.quantization == "nf4":
            result["inference"]["weights"]["nf4"] = _make_estimator(asked, lora, "cuda").model_bytes[0]
        if machines:
            result |= {"machines": _machine_table(asked, shape)}
    except (AttributeError, InputError) as error:  # its layers aren't where the engine looks for them
        result |= {"training": [], "unplanned": str(error).splitlines()[0]}
    return result


def lora_settings(settings: Settings, shape: ModelShape) -> Settings | None:
    """Return the settings with LoRA modules the model has: the configured ones, or what `auto` comes to; None if
    none."""
    if not shape.targets:
        return None
    wanted = settings.lora.target_modules
    known = wanted != "auto" and all(name in shape.lora for name in wanted)
    auto = settings.model_copy(update={"lora": settings.lora.model_copy(update={"target_modules": "auto"})})
    return settings if known else with_lora_targets(auto, shape.targets)


def full_finetune_settings(settings: Settings) -> Settings:
    """Return the settings for training all weights, unquantised."""
    model = settings.model.model_copy(update={"quantization": "none"})
    training = settings.training.model_copy(update={"weights": "all"})
    return settings.model_copy(update={"model": model, "training": training})


def _parameter_counts(
    asked: RequirementsQuery, parts: ParameterCounts, shape: ModelShape, lora: Settings | None
) -> dict[str, Any]:
    config = asked.config
    result: dict[str, Any] = {
        "parameters": parts.total,
        "by_part": parts.by_part,
        "tied": parts.tied,
        "rotary": parts.rotary,
        "position_share": parts.position_share,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or shape.heads,
        "vocabulary": shape.vocabulary,
        "max_positions": shape.max_positions,
        "window": getattr(config, "sliding_window", None),
        "lora": None,
    }
    if lora is not None:
        targets = lora.lora.module_names
        result["lora"] = {
            "r": lora.lora.r,
            "modules": list(targets),
            "parameters": shape.lora_parameters(lora.lora.r, targets),
        }
    return result


def _inference_requirements(asked: RequirementsQuery, parts: ParameterCounts) -> dict[str, Any]:
    cache = {n: cache_bytes(asked.config, n, PLANNED_DTYPE) for n in asked.lengths}
    return {
        "weights": {name: parts.total * size for name, size in BYTES_PER_VALUE.items()},
        "cache_token": cache_bytes(asked.config, 1, PLANNED_DTYPE),
        "cache": cache,
    }


def _make_estimator(asked: RequirementsQuery, settings: Settings, device: str, batch: int = 1) -> Estimator:
    training = settings.training.model_copy(update={"batch_size_reference": batch})
    return Estimator(asked.config, settings.model_copy(update={"training": training}), device, PLANNED_DTYPE, 0)


def _training_requirements(asked: RequirementsQuery, shape: ModelShape, lora: Settings | None) -> list[dict[str, Any]]:
    """Plan one plain step by trained weights, context and batch, on a GPU with fused attention."""
    ways = {"all weights": full_finetune_settings(asked.settings)} | ({"LoRA, 4-bit": lora} if lora else {})
    return [
        {"trained": trained, "context": context, "batch": batch, "peak": step.peak, "parts": asdict(step)}
        for trained, settings in ways.items()
        for batch in asked.batches
        for estimator in [_make_estimator(asked, settings, "cuda", batch)]
        for context in asked.lengths
        for step in [estimator.step(StepMethod(), context)]
    ]


def _machine_table(asked: RequirementsQuery, shape: ModelShape) -> list[dict[str, Any]]:
    """Return, by machine and context, the cheapest way to train all weights, one sequence at a time."""
    settings = full_finetune_settings(asked.settings)
    planner = MemoryPlanner(
        settings, shape, _make_estimator(asked, settings, "cuda"), 0, disk_allowance(settings, None)
    )
    return machine_table(planner, PLANNED_DTYPE, asked.lengths)


def preset_row(config: Any, settings: Settings, steps: bool) -> dict[str, Any]:
    """Return a preset's row: counts, memory to generate and, with `steps`, bytes of a training step of all weights by
    context, one sequence, on a GPU."""
    asked = RequirementsQuery(config, settings)
    parts, shape = count_parameters(config), read_shape(config)
    estimator = _make_estimator(asked, full_finetune_settings(settings), "cuda")
    sizes = {n: estimator.step(StepMethod(), n).peak for n in LISTED_CONTEXTS} if steps else {}
    return _parameter_counts(asked, parts, shape, lora_settings(settings, shape)) | {
        "inference": _inference_requirements(asked, parts),
        "steps": sizes,
    }


SHORTEST_STEP = 2  # tokens


def make_planner(
    chosen: Preset, settings: Settings, device: str, dtype: str, scratch: Path | None = None
) -> MemoryPlanner:
    """Return a planner of the preset's steps with torch; `settings.model.name` isn't read."""
    with tempfile.TemporaryDirectory() as folder:
        return _planner_in(Path(folder), chosen, settings, device, dtype, scratch)


def check_positions(chosen: Preset, settings: Settings, device: str, dtype: str) -> None:
    """Raises InputError if the positions of a phase don't reach its longest sequence, or can't be computed."""
    with tempfile.TemporaryDirectory() as folder:
        planner = _planner_in(Path(folder), chosen, settings, device, dtype, None)
        try:
            for phase in make_schedule(settings):
                if phase.epochs:
                    checked_phase_planner(planner, phase)
        except InputError as error:
            raise InputError(str(error).replace(folder, chosen.name)) from None


def _planner_in(
    folder: Path, chosen: Preset, settings: Settings, device: str, dtype: str, scratch: Path | None
) -> MemoryPlanner:
    chosen.write_config(folder)
    named = settings.model.model_copy(update={"name": str(folder), "revision": None})
    planner = MemoryPlanner.of(settings.model_copy(update={"model": named}), device, dtype, scratch)
    planner.estimator.config.name_or_path = chosen.name
    return planner


def find_fit(planner: MemoryPlanner, length: int, budget: Budget) -> StepEstimate | None:
    """Return the cheapest way to train on sequences of `length` tokens within the budget, or None."""
    if fixed_bytes(planner) + planner.overhead > budget.bytes:
        return None
    return planner.first_fit(length, budget.bytes)


def fixed_bytes(planner: MemoryPlanner) -> int:
    """Return the bytes that every way to train holds: weights, gradients and moments."""
    step = planner.estimator.step(StepMethod(), SHORTEST_STEP)
    return step.weights + step.adapter + step.gradients + step.moments


def check_fits(planner: MemoryPlanner, chosen: Preset, length: int, budget: Budget) -> StepEstimate:
    """Return what `find_fit` returns. Raises InputError instead of None, suggesting the nearest preset that fits."""
    if (fit := find_fit(planner, length, budget)) is not None:
        return fit
    beside = f" and {planner.overhead / GIB:.2f} GiB of libraries" if planner.overhead else ""
    raise InputError(
        f"--preset {chosen.name}: weights, gradients and moments take {fixed_bytes(planner) / GIB:.2f} GiB{beside}, "
        f"{length:,} tokens more, and the budget is {budget.bytes / GIB:.2f} GiB ({budget.reason}): "
        f"{_suggest_preset(planner, chosen, budget)}"
    )


def _suggest_preset(planner: MemoryPlanner, chosen: Preset, budget: Budget) -> str:
    size, known, one = chosen.name.partition("_")[0], list(size_files()), planner.estimator
    shorter = [f"{size}_{context}" for context in PRESET_CONTEXTS if context < chosen.context]
    smaller = [f"{other}_{chosen.context}" for other in reversed(known[: known.index(size)])]
    for name in (*shorter[:1], *smaller):  # if the shortest doesn't fit, no context of this size does
        other = find_preset(name)
        if find_fit(make_planner(other, planner.settings, one.device, one.dtype), other.context, budget):
            return f"--preset {name} fits"
    return "no smaller preset fits either; raise memory.budget_gb"
