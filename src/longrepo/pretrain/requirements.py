"""Parameters and memory of a preset.

What a model is made of: its parameters by part, counted on the architecture itself without any weights.

What a model needs, from the planner: to answer, and to train by batch and context; and which machines have it.

A preset's plan: the existing planner on a configuration that no folder holds yet.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.engines.base import StepMethod
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
    """Parameters by part (`PARTS`); what is tied counts once, in the embedding. Rotary positions have none."""

    by_part: dict[str, int]
    tied: bool
    rotary: bool

    @property
    def total(self) -> int:
        return sum(self.by_part.values())

    @property
    def position_share(self) -> float:
        """Of all parameters."""
        return self.by_part["positions"] / self.total


def count_parameters(config: Any) -> ParameterCounts:
    """Build the architecture of a configuration of transformers on torch's `meta` device, and count.

    Raises InputError where transformers has no causal language model of that kind.
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
PLANNED_DTYPE = "bfloat16"  # computed in, on the machines that are asked about


@dataclass(frozen=True)
class RequirementsQuery:
    """Of a model's configuration: `settings` give LoRA's rank and the budget; sequences in a batch, and tokens."""

    config: Any
    settings: Settings
    batches: tuple[int, ...] = DEFAULT_BATCHES
    contexts: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """The contexts that the model has positions for: those asked for, else the usual ones and its own (at most
        16,384)."""
        native = self.config.max_position_embeddings
        wanted = self.contexts or tuple(sorted({*DEFAULT_CONTEXTS, min(native, 16384)}))
        return tuple(context for context in wanted if context <= native)


def calculate_requirements(asked: RequirementsQuery, machines: bool = True) -> dict[str, Any]:
    """Counts in parameters, sizes in bytes; what can't be planned says why.

    Raises InputError for what can't be built.
    """
    parts = count_parameters(asked.config)
    shape = read_shape(asked.config)
    lora = lora_settings(asked.settings, shape)
    told = _parameter_counts(asked, parts, shape, lora) | {"inference": _inference_requirements(asked, parts)}
    try:
        told |= {"training": _training_requirements(asked, shape, lora)}
        if lora is not None and lora.model.quantization == "nf4":
            told["inference"]["weights"]["nf4"] = _make_estimator(asked, lora, "cuda").weights
        if machines:
            told |= {"machines": _machine_table(asked, shape)}
    except (AttributeError, InputError) as error:  # layers that aren't where the engine looks for them
        told |= {"training": [], "unplanned": str(error).splitlines()[0]}
    return told


def lora_settings(settings: Settings, shape: ModelShape) -> Settings | None:
    """With the configured modules, or, where the model has others, all linear ones of its layers; None without any."""
    if not shape.lora:
        return None
    known = all(name in shape.lora for name in settings.lora.target_modules)
    targets = settings.lora.target_modules if known else tuple(shape.lora)
    return settings.model_copy(update={"lora": settings.lora.model_copy(update={"target_modules": targets})})


def full_finetune_settings(settings: Settings) -> Settings:
    """To train everything, nothing quantised."""
    model = settings.model.model_copy(update={"quantization": "none"})
    training = settings.training.model_copy(update={"weights": "all"})
    return settings.model_copy(update={"model": model, "training": training})


def _parameter_counts(
    asked: RequirementsQuery, parts: ParameterCounts, shape: ModelShape, lora: Settings | None
) -> dict[str, Any]:
    config = asked.config
    told: dict[str, Any] = {
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
        targets = lora.lora.target_modules
        told["lora"] = {
            "r": lora.lora.r,
            "modules": list(targets),
            "parameters": shape.lora_parameters(lora.lora.r, targets),
        }
    return told


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
    """One plain step, by what is trained, context and batch, on a GPU with fused attention."""
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
    """By machine and context: the cheapest way to train all weights, one sequence at a time."""
    settings = full_finetune_settings(asked.settings)
    planner = MemoryPlanner(
        settings, shape, _make_estimator(asked, settings, "cuda"), 0, disk_allowance(settings, None)
    )
    return machine_table(planner, PLANNED_DTYPE, asked.lengths)


def preset_row(config: Any, settings: Settings, steps: bool) -> dict[str, Any]:
    """A preset's row: counts, memory to answer, and, where `steps` are asked for, bytes of a training step of all
    weights by context, one sequence, as on a GPU."""
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
    """Plans steps of the preset by torch; `settings.model.name` is not read."""
    with tempfile.TemporaryDirectory() as folder:
        return _planner_in(Path(folder), chosen, settings, device, dtype, scratch)


def check_positions(chosen: Preset, settings: Settings, device: str, dtype: str) -> None:
    """Raises InputError where the positions of a phase that is going to be trained don't reach its longest sequence, or
    can't be computed."""
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
    """The cheapest way to train on sequences of `length` tokens within the budget; None where there is none."""
    if fixed_bytes(planner) + planner.overhead > budget.bytes:
        return None
    return planner.first_fit(length, budget.bytes)


def fixed_bytes(planner: MemoryPlanner) -> int:
    """Weights, gradients and moments: what every way to train holds."""
    step = planner.estimator.step(StepMethod(), SHORTEST_STEP)
    return step.weights + step.adapter + step.gradients + step.moments


def check_fits(planner: MemoryPlanner, chosen: Preset, length: int, budget: Budget) -> StepEstimate:
    """As `fitting`. Raises InputError where there is none, with the nearest preset that fits."""
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
