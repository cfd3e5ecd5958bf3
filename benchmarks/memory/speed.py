"""Tokens per CPU-second of one training step: chunks, the plain checkpointed step, and TRL's, in one run.

    python benchmarks/memory/speed.py --work SHAPES --trl TRL [--layers 4] [--lengths 1024,2048,4096]

Four layers of StarCoder2-3B's true width, random weights, NF4, LoRA r=32 on all six projections, bfloat16, optimizer
included, no dropout (TRL's default). Each cell is a process of its own, on one thread so that no time is spent waiting
for the other core; its first step warms up, its last is timed. `--trl`: see usual_stack.py. Results stay in
SHAPES/speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from true_shape import shape_in
from usual_stack import Bench, numbers, processor

OURS = ("plain", "memory:512")
STEPS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trl", type=Path, required=True, help="the folder that TRL was installed into")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lengths", type=numbers, default="1024,2048,4096")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    model, file = shape_in(given.work, given.layers), given.work / "speed.json"
    bench = Bench(model, given.trl.resolve(), given.work / "usual-stack", 0.0)
    rates: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    for length in given.lengths:
        for way in (*OURS, "trl"):
            key = f"{given.layers} layers, {length} tokens, {way}"
            if key not in rates:
                print(f"{key} …", file=sys.stderr, flush=True)
                rates[key] = length / (trl(bench, given.layers, length) if way == "trl" else ours(model, length, way))
                file.write_text(json.dumps(rates, indent=1))
    table = Table(
        title=f"tokens per CPU-second, {given.layers} layers of true width",
        caption=f"{processor()}, one thread; Python {platform.python_version()}; python {' '.join(sys.argv)}",
    )
    for column in ("tokens", *OURS, "TRL", "best of ours / plain", "best of ours / TRL"):
        table.add_column(column, justify="right")
    for length in given.lengths:
        row = [rates[f"{given.layers} layers, {length} tokens, {way}"] for way in (*OURS, "trl")]
        best = max(row[1:-1])
        cells = [*(f"{rate:.1f}" for rate in row), f"{best / row[0]:.2f}×", f"{best / row[-1]:.2f}×"]
        table.add_row(f"{length:,}", *cells)
    Console(width=120).print(table)
    return 0


def ours(model: Path, length: int, way: str) -> float:
    """CPU-seconds of a step."""
    report = model.with_name("speed.part.json")
    step = Path(__file__).with_name("one_step.py")
    command = [sys.executable, step, model, length, way, report, "--timed", STEPS, "--set", "lora.dropout=0"]
    subprocess.run([str(word) for word in command], check=True)
    return float(json.loads(report.read_text())["cpu_seconds"])


def trl(bench: Bench, layers: int, length: int) -> float:
    run: dict[str, Any] = bench.run("speed", layers, length, "fused")
    return float(run["steps"][-1][0])


if __name__ == "__main__":
    sys.exit(main())
