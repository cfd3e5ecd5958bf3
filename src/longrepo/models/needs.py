"""What a model needs, from the planner: to answer, and to train by batch and context; and which machines have it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from longrepo.config.schema import Settings
from longrepo.engines.method import Method
from longrepo.engines.torch.key_values import cache_bytes
from longrepo.errors import InputError
from longrepo.memory.estimate import Estimator
from longrepo.memory.outlook import machine_table
from longrepo.memory.planner import Planner, disk_room
from longrepo.memory.shape import ModelShape, read_shape
from longrepo.models.parts import Parts, count_parts

BATCHES, CONTEXTS = (1, 8), (256, 1024, 4096)
BYTES = {"float32": 4, "bfloat16": 2}
STEPS = (256, 1024, 2048, 4096)
DTYPE = "bfloat16"  # computed in, on the machines that are asked about


@dataclass(frozen=True)
class Asked:
    """Of a model's configuration: `settings` give LoRA's rank and the budget; sequences in a batch, and tokens."""

    config: Any
    settings: Settings
    batches: tuple[int, ...] = BATCHES
    contexts: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """The contexts that the model has positions for: those asked for, else the usual ones and its own (at most
        16,384)."""
        native = self.config.max_position_embeddings
        wanted = self.contexts or tuple(sorted({*CONTEXTS, min(native, 16384)}))
        return tuple(context for context in wanted if context <= native)


def calculated(asked: Asked, machines: bool = True) -> dict[str, Any]:
    """Counts in parameters, sizes in bytes; what can't be planned says why.

    Raises InputError for what can't be built.
    """
    parts = count_parts(asked.config)
    shape = read_shape(asked.config)
    lora = lora_settings(asked.settings, shape)
    told = _counts(asked, parts, shape, lora) | {"inference": _inference(asked, parts)}
    try:
        told |= {"training": _training(asked, shape, lora)}
        if lora is not None and lora.model.quantization == "nf4":
            told["inference"]["weights"]["nf4"] = _estimator(asked, lora, "cuda").weights
        if machines:
            told |= {"machines": _machines(asked, shape)}
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


def all_weights(settings: Settings) -> Settings:
    """To train everything, nothing quantised."""
    model = settings.model.model_copy(update={"quantization": "none"})
    training = settings.training.model_copy(update={"weights": "all"})
    return settings.model_copy(update={"model": model, "training": training})


def _counts(asked: Asked, parts: Parts, shape: ModelShape, lora: Settings | None) -> dict[str, Any]:
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


def _inference(asked: Asked, parts: Parts) -> dict[str, Any]:
    cache = {n: cache_bytes(asked.config, n, DTYPE) for n in asked.lengths}
    return {
        "weights": {name: parts.total * size for name, size in BYTES.items()},
        "cache_token": cache_bytes(asked.config, 1, DTYPE),
        "cache": cache,
    }


def _estimator(asked: Asked, settings: Settings, device: str, batch: int = 1) -> Estimator:
    training = settings.training.model_copy(update={"batch_size_reference": batch})
    return Estimator(asked.config, settings.model_copy(update={"training": training}), device, DTYPE, 0)


def _training(asked: Asked, shape: ModelShape, lora: Settings | None) -> list[dict[str, Any]]:
    """One plain step, by what is trained, context and batch, on a GPU with fused attention."""
    ways = {"all weights": all_weights(asked.settings)} | ({"LoRA, 4-bit": lora} if lora else {})
    return [
        {"trained": trained, "context": context, "batch": batch, "peak": step.peak, "parts": asdict(step)}
        for trained, settings in ways.items()
        for batch in asked.batches
        for estimator in [_estimator(asked, settings, "cuda", batch)]
        for context in asked.lengths
        for step in [estimator.step(Method(), context)]
    ]


def _machines(asked: Asked, shape: ModelShape) -> list[dict[str, Any]]:
    """By machine and context: the cheapest way to train all weights, one sequence at a time."""
    settings = all_weights(asked.settings)
    planner = Planner(settings, shape, _estimator(asked, settings, "cuda"), 0, disk_room(settings, None))
    return machine_table(planner, DTYPE, asked.lengths)


def listed(config: Any, settings: Settings, steps: bool) -> dict[str, Any]:
    """A preset's row: counts, memory to answer, and, where `steps` are asked for, bytes of a training step of all
    weights by context, one sequence, as on a GPU."""
    asked = Asked(config, settings)
    parts, shape = count_parts(config), read_shape(config)
    estimator = _estimator(asked, all_weights(settings), "cuda")
    sizes = {n: estimator.step(Method(), n).peak for n in STEPS} if steps else {}
    return _counts(asked, parts, shape, lora_settings(settings, shape)) | {
        "inference": _inference(asked, parts),
        "steps": sizes,
    }
