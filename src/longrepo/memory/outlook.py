"""What `longrepo plan` tells: parameters, phases, the longest length; other machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrepo.context.recorded import said
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import Estimator
from longrepo.memory.machines import machines
from longrepo.memory.planner import Planner, check_weights

if TYPE_CHECKING:
    from longrepo.engines.choose import EngineName

LENGTHS = (1024, 2048, 4096, 8192, 16384)


def outlook(
    planner: Planner, lengths: Mapping[str, tuple[int, Planner]], budget: Budget, sequences: Path | None
) -> dict[str, Any]:
    """`lengths`: name → tokens, and the planner at their positions. Bytes and seconds; a phase that nothing fits has no
    method.

    Raises InputError where not even the weights fit, or a length is beyond the model's positions.
    """
    shape, settings = planner.shape, planner.settings
    for name, (tokens, at) in lengths.items():
        if tokens > (reach := at.shape.max_positions):
            raise InputError(
                f"{name} ({tokens:,} tokens): {settings.model.name} was trained to {reach:,} positions; "
                "plan that or less, or have them reach farther with context.target_length and a context.method"
            )
    check_weights(planner, budget)
    lora = shape.lora_parameters(settings.lora.r, settings.lora.target_modules)
    phases = []
    for name, (tokens, at) in lengths.items():
        fit = at.first_fit(tokens, budget.bytes)
        entry: dict[str, Any] = {"name": name, "length": tokens, "positions": said(at.settings.context)}
        phases.append(
            entry | (fit.as_dict() | {"said": str(fit.method)} if fit else {"why_not": _why_not(at, tokens, budget)})
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
            "by_module": {name: settings.lora.r * shape.lora[name] for name in settings.lora.target_modules},
        },
        "overhead": planner.overhead,
        "phases": phases,
        "plain_only": planner.estimator.why_not_chunked,
        "longest": planner.longest(budget.bytes),
        "epochs": _epochs(planner, phases, sequences) if sequences else None,
    }
    return told


def _why_not(planner: Planner, tokens: int, budget: Budget) -> str:
    """What the leanest method needs, where nothing fits."""
    least = planner.rungs(tokens)[-1]
    if least.peak <= budget.bytes:
        room = f"{planner.disk / GIB:.1f} GiB may be used (memory.max_disk_gb, free space)"
        return f"{least.method} would fit, but needs {least.disk_held / GIB:.1f} GiB on disk, and {room}"
    return f"nothing fits: {least.method} needs {least.peak / GIB:.2f} GiB"


def machine_table(planner: Planner, dtype: str, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """Each machine with the cheapest method that fits it, by length; None where none does. Macs by the plan's engine,
    GPUs always by torch."""
    one, rows = planner.estimator, []
    engines: dict[str, tuple[str, EngineName]] = {
        "mps": ("metal", "mlx") if one.engine == "mlx" else ("mps", "torch"),
        "cuda": ("cuda", "torch"),
    }
    by_kind = {
        kind: replace(
            planner, estimator=Estimator(one.config, one.settings, device, dtype, one.added, engine), overhead=0
        )
        for kind, (device, engine) in engines.items()
    }
    for machine in machines():
        of = by_kind[machine.device]
        fits = {n: of.first_fit(n, machine.usable) for n in lengths if n <= planner.shape.max_positions}
        methods = {n: str(fit.method) if fit else None for n, fit in fits.items()}
        rows.append({"name": machine.name, "usable": machine.usable, "methods": methods})
    return rows


def _epochs(planner: Planner, phases: list[dict[str, Any]], sequences: Path) -> list[dict[str, Any]]:
    """Of each phase: tokens, seconds and bytes written to disk in an epoch, and its epochs."""
    from longrepo.curriculum.phases import phases_from
    from longrepo.sequences.store import read_sequences

    file = read_sequences(sequences)
    lengths = [n for n, split in zip(file.lengths(), file.column("split"), strict=True) if split == "train"]
    by_name = {entry["name"]: entry for entry in phases}
    found = []
    for phase in phases_from(planner.settings):
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
