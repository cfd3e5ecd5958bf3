"""Plan the known bases, and write what the planner finds into `src/longrepo/engines/known_bases.json`.

    python benchmarks/memory/bases.py               # all of them: about 15 s a base on one free core
    python benchmarks/memory/bases.py SmolLM2 Qwen  # those with one of these words in their names
    python benchmarks/memory/bases.py --engines     # only what the engines can compute, not memory: seconds

By method, from the fastest on, those that were tried to find the first that fits each machine: bytes of a step of one
sequence with the default settings, in bfloat16, by torch, on Macs (mps) and GPUs (cuda). Methods that compute layers
again or write to disk aren't tried: planning them takes minutes. Run it after a change of the engines.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from longrepo.config.loader import load_settings
from longrepo.engines.base import StepMethod
from longrepo.engines.known_bases import PLANNED_LENGTHS, TABLE
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.errors import InputError
from longrepo.memory.planner import MemoryPlanner
from longrepo.memory.report import base_machines

WAYS = (StepMethod(), StepMethod("chunked", 1024), StepMethod("chunked", 256))


def main(words: list[str]) -> None:
    only_engines = "--engines" in words
    wanted = [word for word in words if not word.startswith("--")]
    for row in json.loads(TABLE.read_text(encoding="utf-8"))["bases"]:
        name = row["name"]
        if row["config"] is None or (wanted and not any(word in name for word in wanted)):
            continue
        known = (row.get("planned") or {}).get("steps", {})
        planned = engines_of(name) | {"steps": known if only_engines else steps_of(name)}
        print(name, json.dumps(planned), flush=True)
        write(name, planned)


def write(name: str, planned: dict[str, Any]) -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    for row in table["bases"]:
        if row["name"] == name:
            row["planned"] = planned
    TABLE.write_text(as_text(table), encoding="utf-8")


def as_text(table: dict[str, Any]) -> str:
    """Return the table as JSON with a line for each fact of a base."""
    rows = (
        ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in row.items()) for row in table["bases"]
    )
    bases = ",\n".join(f"  {{\n{row}\n  }}" for row in rows)
    return f'{{\n "checked": {json.dumps(table["checked"])},\n "bases": [\n{bases}\n ]\n}}\n'


def engines_of(name: str) -> dict[str, Any]:
    shape = read_shape(read_config(name))
    try:
        mlx = bool(read_shape(read_config(name), "mlx"))
    except InputError:
        mlx = False
    plain_only = planner_of(name, "mps").estimator.chunked_unsupported_reason
    return {"parameters": shape.linear + shape.other, "mlx": mlx, "plain_only": plain_only}


def steps_of(name: str) -> dict[str, dict[str, list[tuple[str, int]]]]:
    return {
        device: {str(tokens): methods(planner_of(name, device), tokens, device) for tokens in PLANNED_LENGTHS}
        for device in ("mps", "cuda")
    }


def methods(planner: MemoryPlanner, tokens: int, device: str) -> list[tuple[str, int]]:
    if tokens > planner.shape.max_positions:
        return []
    ways = WAYS[:1] if planner.estimator.chunked_unsupported_reason else WAYS
    estimates = [planner.planned(way, tokens) for way in ways]
    tried: dict[str, int] = {}
    for machine in base_machines():
        if machine.device == device and planner.estimator.model_bytes[0] < machine.usable:
            for estimate in estimates:
                tried[str(estimate.method)] = estimate.peak
                if estimate.peak <= machine.usable:
                    break
    return [(str(way), tried[str(way)]) for way in ways if str(way) in tried]


def planner_of(name: str, device: str) -> MemoryPlanner:
    return MemoryPlanner.of(load_settings(None, [f"model.name={name}"]), device, "bfloat16")


if __name__ == "__main__":
    main(sys.argv[1:])
