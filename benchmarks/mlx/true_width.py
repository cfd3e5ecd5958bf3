"""A step of StarCoder2-3B's true width on MLX: the measured peak beside the plan.

    python benchmarks/mlx/true_width.py --work /tmp/mlx-true-width [--only 1]

Layers of 3072/12288 with 24 heads and 2 KV heads, vocabulary 49,152 and the structure tokens, random weights in
4 bits (groups of 64), bfloat16, LoRA r=32 on all six projections, chunks of 256, the loss on the last 256 positions;
the plan is made for the same.
What is held before the step (weights, adapter, gradients of a former micro-batch, the optimizer's moments) is given
apart. Resumable: each configuration is a process of its own and its figures stay in --work. MLX has no fast bfloat16 on
a CPU (4-bit products: 0.14 GFLOP/s here).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from rich.console import Console
from rich.table import Table
from shapes import Tokens, make_model, shape

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.marks import STRUCTURE_TOKENS
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.measure import MlxMeasurement
from longrepo.engines.model_shape import read_config

ADDED = len(STRUCTURE_TOKENS)
SCORED, CHUNK, WARM_UP = 256, 256, 8  # tokens
WIDTHS = {"true": (3072, 12288, 24, 2, 49152), "tiny": (192, 768, 3, 1, 512)}
MIB = 2**20


@dataclass(frozen=True)
class Case:
    layers: int
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.layers} layer{'s' if self.layers > 1 else ''}, {self.tokens:,} tokens"

    def file(self, work: Path, width: str) -> Path:
        return work / f"{width}-{self.layers}-{self.tokens}.json"


CASES = (Case(1, 2048), Case(1, 4096), Case(2, 2048))


def settings_of(folder: Path) -> Settings:
    return load_settings(None, [f"model.name={folder}", "training.precision=bfloat16", "lora.r=32"])


def planned(case: Case, folder: Path) -> int:
    """Peak bytes, measured with random weights from the configuration alone."""
    config = read_config(str(folder))
    run = MlxMeasurement(config, settings_of(folder), StepMethod("chunked", CHUNK), "cpu", mx.bfloat16, ADDED)
    found = run.at(case.layers, case.tokens, every_chunk=True, scored=SCORED)
    return max(size for name, size in found.items() if name.startswith("peak "))


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Bytes and seconds of a micro-batch and its update."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokens = Tokens(vocabulary + ADDED, {vocabulary + k: k for k in range(ADDED)})
    engine = MlxEngine.create(settings_of(folder), tokens, "cpu")  # type: ignore[arg-type]
    engine.use(StepMethod("chunked", CHUNK))
    ids = np.random.default_rng(0).integers(0, vocabulary, case.tokens)
    weights = np.zeros(case.tokens)
    weights[-SCORED:] = 1
    small, batch = Batch.of([(ids[:WARM_UP], np.ones(WARM_UP))], 0), Batch.of([(ids, weights)], 0)
    engine.accumulate(small, small.weight, 0)
    engine.apply_update(1e-5, 1.0)
    engine.accumulate(small, small.weight, 1)
    mx.clear_cache()
    held, start = mx.get_active_memory(), time.process_time()
    mx.reset_peak_memory()
    engine.accumulate(batch, batch.weight, 2)
    step, seconds = mx.get_peak_memory(), time.process_time() - start
    mx.reset_peak_memory()
    engine.apply_update(1e-5, 1.0)
    return {"held": held, "step": step, "update": mx.get_peak_memory(), "cpu_seconds": seconds, "mlx": version("mlx")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=int, default=len(CASES), help="the first so many configurations")
    parser.add_argument("--width", choices=WIDTHS, default="true", help="tiny: to try the benchmark")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        case = CASES[given.measure]
        found = measured(case, folder_of(given.work, given.width, case))
        case.file(given.work, given.width).write_text(json.dumps(found))
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(CASES[: given.only]):
        if case.file(given.work, given.width).exists():
            continue
        print(f"{time.strftime('%H:%M:%S')} {case.name} …", file=sys.stderr, flush=True)
        folder_of(given.work, given.width, case)
        command = [sys.executable, __file__, "--work", given.work, "--width", given.width, "--measure", number]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([str(word) for word in command], check=True, env=environment)
    show(given.work, given.width)
    return 0


def folder_of(work: Path, width: str, case: Case) -> Path:
    return make_model(work / f"{width}-{case.layers}-layers", shape(*WIDTHS[width], case.layers), mx.bfloat16)


def show(work: Path, width: str) -> None:
    table = Table(
        title=f"peak of a step, MiB: {width} width, 4-bit, bfloat16, LoRA r=32, chunks of {CHUNK}",
        caption=f"{platform.machine()} CPU, one thread; Python {platform.python_version()}, mlx {version('mlx')}, "
        f"mlx-lm {version('mlx-lm')}; python {' '.join(sys.argv)}",
    )
    for column in ("configuration", "planned", "measured", "error", "of it held before", "update's", "CPU-minutes"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for case in CASES:
        plan = planned(case, folder_of(work, width, case))
        if not (file := case.file(work, width)).exists():
            table.add_row(case.name, f"{plan / MIB:.1f}", *["not measured"] * 5)
            continue
        found = json.loads(file.read_text())
        peak = max(found["step"], found["update"])
        sizes = (f"{size / MIB:.1f}" for size in (found["held"], found["update"]))
        minutes = f"{found['cpu_seconds'] / 60:.0f}"
        table.add_row(case.name, f"{plan / MIB:.1f}", f"{peak / MIB:.1f}", f"{plan / peak - 1:+.1%}", *sizes, minutes)
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
