"""The figures of `longrepo plan`: parameters, phases and the longest length; other machines; and what inference needs.

Machines can be planned for without having one at hand: the table says what each gives a training process. Inference is
reported by tier: weights, keys and values, and the peak.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longrepo.config.schema import ContextSettings, Settings
from longrepo.engines.base import StepBytes, StepMethod
from longrepo.engines.known_bases import PLANNED_LENGTHS, USES, KnownBase, date_of_facts, known_bases
from longrepo.engines.model_shape import read_config
from longrepo.engines.registry import CacheLibrary, cache_library
from longrepo.engines.tiers import Tier, Tiers
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import Estimator, code_identity
from longrepo.memory.planner import MemoryPlanner, check_weights_fit
from longrepo.rope.apply import describe_context
from longrepo.utils.cache import JsonCache

if TYPE_CHECKING:
    from longrepo.engines.registry import EngineName


MIB = 2**20

AttentionKernel = Literal[
    "tiled", "fused"
]  # how long sequences are attended to there: in query chunks, or by one kernel

MAC_SIZES = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128)  # GiB of unified memory
GPU_SIZES = {  # MiB, as nvidia-smi reports them: error correction already takes its part of some
    "RTX 4060 8 GB": 8188,
    "RTX 4070 12 GB": 12282,
    "RTX 3060 12 GB": 12288,
    "T4 16 GB": 15360,
    "A10 24 GB": 23028,
    "L4 24 GB": 23034,
    "RTX 4090 24 GB": 24564,
    "RTX 3090 24 GB": 24576,
    "RTX 5090 32 GB": 32607,
    "A100 40 GB": 40960,
    "H100 80 GB": 81559,
    "A100 80 GB": 81920,
    "H200 141 GB": 143771,
}
GPU_OVERHEAD = 820 * MIB  # what the driver keeps (0.3 to 0.5 GiB) and a process's context with cuBLAS: an estimate


@dataclass(frozen=True)
class Machine:
    """A machine to plan for. `memory` is what it has, `usable` what one process gets if nothing else runs; in bytes.
    `source` says where `usable` comes from."""

    name: str
    device: Literal["mps", "cuda"]
    memory: int
    usable: int
    source: str

    @property
    def attention(self) -> AttentionKernel:
        """Metal has no fused attention with a backward pass, CUDA has."""
        return "tiled" if self.device == "mps" else "fused"


def mac_working_set(memory: int) -> int:
    """Metal's `recommendedMaxWorkingSetSize` in bytes, by a cautious rule (newer macOS gives more): two thirds of the
    memory below 36 GiB, three quarters from there on.

    As users report it: 5.3 GiB of 8 (SceneWorks pull request 1552), 10922 MiB of 16 GiB (llama-cpp-python issue 687),
    21845 MiB of 32 (ollama issue 434), 75 % of large ones (gpustack issue 1375). Some newer systems give more: 11.84
    of 16 GiB (llmfit pull request 754), 107.52 of 128 (ds4 pull request 893). On the machine itself Metal is asked.
    """
    return memory * 3 // 4 if memory >= 36 * GIB else memory * 2 // 3


def known_machines() -> tuple[Machine, ...]:
    """Macs, then GPUs, each from the smallest to the largest."""
    macs = (
        Machine(f"Mac {size} GB", "mps", size * GIB, mac_working_set(size * GIB), "recommendedMaxWorkingSetSize")
        for size in MAC_SIZES
    )
    gpus = (
        Machine(name, "cuda", size * MIB, size * MIB - GPU_OVERHEAD, "nvidia-smi's total less driver and context")
        for name, size in GPU_SIZES.items()
    )
    return (*macs, *gpus)


TABLE_LENGTHS = (1024, 2048, 4096, 8192, 16384)


BASE_MACHINES = ("Mac 8 GB", "Mac 16 GB", "Mac 24 GB", "RTX 4060 8 GB", "T4 16 GB", "RTX 4090 24 GB")


def base_machines() -> list[Machine]:
    """The machines that bases are planned for, each kind from the smallest to the largest."""
    return [machine for machine in known_machines() if machine.name in BASE_MACHINES]


def bases_report() -> dict[str, Any]:
    """Report the known bases: what was published, and by machine and length the fastest planned method that fits, with
    its peak in bytes; None if none fits, or its shape isn't known. Nothing is planned now."""
    machines = base_machines()
    return {
        "date": date_of_facts(),
        "machines": {machine.name: machine.usable for machine in machines},
        "bases": [_base_row(base, machines) for base in known_bases().values()],
    }


def _base_row(base: KnownBase, machines: Sequence[Machine]) -> dict[str, Any]:
    planned = base.planned
    fits = {
        machine.name: {
            tokens: None if planned is None else planned.first_fit(machine.device, tokens, machine.usable)
            for tokens in PLANNED_LENGTHS
        }
        for machine in machines
    }
    return {
        "name": base.name,
        "parameters": planned and planned.parameters,
        "license": base.license,
        "use_at_work": USES[base.use],
        "code": base.code,
        "positions": base.positions,
        "fim": base.fim,
        "dialect": base.dialect,
        "torch": planned is not None,
        "planned": bool(planned and planned.steps),
        "chunks": planned and planned.plain_only is None,
        "mlx": planned and planned.mlx,
        "fits": fits,
        "source": base.source,
        "unverified": list(base.unverified),
    }


def plan_report(
    planner: MemoryPlanner, lengths: Mapping[str, tuple[int, MemoryPlanner]], budget: Budget, sequences: Path | None
) -> dict[str, Any]:
    """Report parameters, phases and the longest length, in bytes and seconds. `lengths`: name → tokens, and the planner
    at their positions. A phase that no method fits has no method.

    Raises InputError if not even the weights fit, or a length is beyond the model's positions.
    """
    shape, settings = planner.shape, planner.settings
    for name, (tokens, at) in lengths.items():
        if tokens > (reach := at.shape.max_positions):
            length = name if name.endswith(" tokens") else f"{name} ({tokens:,} tokens)"
            raise InputError(
                f"{length}: {settings.model.name} was trained to {reach:,} positions; "
                "plan that or less, or have them reach farther with context.target_length and a context.method"
            )
    check_weights_fit(planner, budget)
    lora = shape.lora_parameters(settings.lora.r, planner.modules)
    phases = []
    for name, (tokens, at) in lengths.items():
        fit = at.first_fit(tokens, budget.bytes)
        entry: dict[str, Any] = {"name": name, "length": tokens, "positions": describe_context(at.settings.context)}
        phases.append(
            entry
            | (fit.as_dict() | {"said": str(fit.method)} if fit else {"why_not": _no_fit_reason(at, tokens, budget)})
        )
    told = {
        "model": settings.model.name,
        "engine": planner.estimator.engine,
        "device": planner.estimator.device,
        "dtype": planner.estimator.dtype,
        "budget": {"bytes": budget.bytes, "reason": budget.reason},
        "parameters": {
            "total": shape.linear + shape.other,
            "layers": shape.linear,
            "embeddings and norms": shape.other,
            "lora": lora,
            "structure tokens": planner.estimator.added * shape.hidden,
            "by_module": {name: settings.lora.r * shape.lora[name] for name in planner.modules},
        },
        "experts": shape.experts,
        "overhead": planner.overhead,
        "phases": phases,
        "plain_only": planner.estimator.chunked_unsupported_reason,
        "longest": planner.longest(budget.bytes),
        "epochs": _epoch_costs(planner, phases, sequences) if sequences else None,
    }
    return told


def _no_fit_reason(planner: MemoryPlanner, tokens: int, budget: Budget) -> str:
    """Say what the leanest method needs if none fits."""
    least = planner.estimates(tokens)[-1]
    if least.peak <= budget.bytes:
        room = f"{planner.disk / GIB:.1f} GiB may be used (memory.max_disk_gb, free space)"
        return f"{least.method} would fit, but needs {least.disk_held / GIB:.1f} GiB on disk, and {room}"
    return f"nothing fits: {least.method} needs {least.peak / GIB:.2f} GiB"


def machine_table(planner: MemoryPlanner, dtype: str, lengths: Sequence[int] = TABLE_LENGTHS) -> list[dict[str, Any]]:
    """List each machine with the fastest method that fits it, by length; None if none does. Macs use MLX if the plan
    was measured on Metal, else torch; GPUs always torch."""
    one, rows = planner.estimator, []
    engines: dict[str, tuple[str, EngineName]] = {
        "mps": ("metal", "mlx") if one.device == "metal" else ("mps", "torch"),
        "cuda": ("cuda", "torch"),
    }
    by_kind = {
        kind: replace(
            planner, estimator=Estimator(one.config, one.settings, device, dtype, one.added, engine), overhead=0
        )
        for kind, (device, engine) in engines.items()
    }
    for machine in known_machines():
        of = by_kind[machine.device]
        fits = {n: of.first_fit(n, machine.usable) for n in lengths if n <= planner.shape.max_positions}
        methods = {n: str(fit.method) if fit else None for n, fit in fits.items()}
        rows.append({"name": machine.name, "usable": machine.usable, "methods": methods})
    return rows


def _epoch_costs(planner: MemoryPlanner, phases: list[dict[str, Any]], sequences: Path) -> list[dict[str, Any]]:
    """For each phase: its epochs, and an epoch's tokens, seconds and bytes written to disk."""
    from longrepo.curriculum.schedule import make_schedule
    from longrepo.data.dataset import read_sequences

    file = read_sequences(sequences)
    lengths = [n for n, split in zip(file.lengths(), file.column("split"), strict=True) if split == "train"]
    by_name = {entry["name"]: entry for entry in phases}
    found = []
    for phase in make_schedule(planner.settings):
        entry = by_name.get(f"phase {phase.number}")
        if entry is None or "method" not in entry:
            continue
        taken = [int(n) for n in lengths if phase.takes(int(n))]
        share = sum(taken) / entry["length"]  # of a longest sequence: time and disk grow with the tokens
        seconds = None if entry["seconds"] is None else share * entry["seconds"]
        written = int(share * entry["parts"]["disk_written"])
        found.append(
            {"phase": phase.number, "epochs": phase.epochs, "sequences": len(taken), "tokens": sum(taken),
             "seconds": seconds, "written": written}
        )  # fmt: skip
    return found


CACHE_BITS = (16, 8, 4)


def inference_report(planner: MemoryPlanner, tiers: Tiers, budget: Budget) -> dict[str, Any]:
    """Report what inference needs in each tier, in bytes. `planner`: the one of the trained positions.

    `together` is the model, a cache as computed and the process's libraries. `peak` adds the working memory of reading
    a prompt that fills the tier, from a dry run; None on MLX, which has no dry run of inference: there `together` is a
    lower bound. `cache` is by bits; None if the engine's library doesn't support them, and `why_not` says why. `16`
    stands for `dtype`.
    """
    one = planner.estimator
    weights, adapter = one.model_bytes
    estimators = {tier.context: _estimator_at(one, planner.settings, tier.context) for tier in tiers.every}
    model = weights + adapter
    rows = [_tier_row(tier, estimators[tier.context], model, planner.overhead, budget) for tier in tiers.every]
    return {
        "model": planner.settings.model.name,
        "engine": one.engine,
        "device": one.device,
        "dtype": one.dtype,
        "weights": weights,
        "adapter": adapter,
        "overhead": planner.overhead,
        "budget": {"bytes": budget.bytes, "reason": budget.reason},
        "tiers": rows,
        "why_not": _unsupported_bits(estimators),
    }


def _estimator_at(one: Estimator, settings: Settings, context: ContextSettings) -> Estimator:
    config = read_config(settings.model.name, settings.model.revision, context)
    return Estimator(config, settings, one.device, one.dtype, one.added, one.engine)


def _tier_row(tier: Tier, of: Estimator, model: int, overhead: int, budget: Budget) -> dict[str, Any]:
    library = cache_library(of.engine)
    cache = {
        bits: None
        if library.unsupported_bits_reason(of.config, bits, of.device)
        else _cache_bytes(library, of, tier.length, bits)
        for bits in CACHE_BITS
    }
    together = model + _cache_bytes(library, of, tier.length, 16) + overhead
    peak = _generation_peak(of, tier.length) + overhead if of.engine == "torch" else None
    return {
        "length": tier.length,
        "positions": describe_context(tier.context),
        "context": tier.context.model_dump(mode="json"),
        "cache": cache,
        "together": together,
        "peak": peak,
        "fits": (together if peak is None else max(peak, together)) <= budget.bytes,
    }


def _cache_bytes(library: CacheLibrary, of: Estimator, tokens: int, bits: int) -> int:
    return library.cache_bytes(of.config, tokens, of.dtype, bits)


def _generation_peak(of: Estimator, tokens: int) -> int:
    """Peak bytes of tensors during generation, from cached dry runs."""
    kept, key = JsonCache("answers.json"), _generation_key(of, tokens)
    found: StepBytes | None = kept.get(key)
    if found is None:
        from longrepo.engines.torch.dry_run import generation_memory

        run: Any = of.dry_run(StepMethod())
        found = generation_memory(run, tokens)
        kept.put(key, found)
    return found["peak"]


def _generation_key(of: Estimator, tokens: int) -> str:
    model, lora = of.settings.model, of.settings.lora
    matters = [
        of.config.to_dict(), tokens, of.device, of.dtype, of.added, model.quantization, model.double_quantization,
        lora.r, lora.target_modules, of.settings.training.weights, code_identity(of.engine),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(matters, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _unsupported_bits(estimators: Mapping[ContextSettings, Estimator]) -> dict[int, str]:
    """Say why some tier can't have a cache of so few bits: bits → reason."""
    found: dict[int, str] = {}
    for of in estimators.values():
        library = cache_library(of.engine)
        found |= {
            bits: reason
            for bits in CACHE_BITS
            if (reason := library.unsupported_bits_reason(of.config, bits, of.device))
        }
    return found
