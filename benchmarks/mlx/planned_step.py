"""A step of a whole model on MLX: the measured peak beside the plan, which measures one and two layers.

    python benchmarks/mlx/planned_step.py --work /tmp/mlx-planned-step [--quick]

StarCoder2's architecture, 512 wide, six layers, 4-bit, a window of 1,024 tokens, random weights, float32 on the CPU,
LoRA r=16 and the trained structure tokens. The measured peak is MLX's own, of an update's last micro-batch and of the
update, the highest of two.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from rich.console import Console
from rich.table import Table
from shapes import Tokens, make_model, shape

from longrepo.config.loader import load_settings
from longrepo.data.marks import STRUCTURE_TOKENS
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.model_shape import read_config
from longrepo.memory.estimate import Estimator

ADDED = len(STRUCTURE_TOKENS)
VOCABULARY, WINDOW = 8192, 1024
MIB = 2**20
CASES = [
    (StepMethod("chunked", 128), 512),
    (StepMethod("chunked", 128), 2048),
    (StepMethod("chunked", 256), 4096),
    (StepMethod("chunked", 256, "recompute", 2), 4096),
    (StepMethod("chunked", 256, "disk"), 4096),
    (StepMethod(), 1024),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="the first case alone")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    mx.set_default_device(mx.Device(mx.DeviceType.cpu))
    folder = make_model(given.work / "model", shape(512, 2048, 8, 2, VOCABULARY, 6), mx.float32)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sliding_window": WINDOW}))
    settings = load_settings(None, [f"model.name={folder}", "training.precision=float32", "lora.r=16"])
    table = Table(
        title="peak of a step, MiB: 512 wide, six layers, 4-bit",
        caption=f"{platform.machine()} CPU; Python {platform.python_version()}, mlx {version('mlx')}, "
        f"mlx-lm {version('mlx-lm')}",
    )
    for column in ("method", "tokens", "planned", "measured", "error", "seconds to plan", "a step's seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, tokens in CASES[: 1 if given.quick else None]:
        began = time.perf_counter()
        estimator = Estimator(read_config(str(folder)), settings, "cpu", "float32", ADDED, "mlx")
        planned = estimator.step(method, tokens).peak
        planning = time.perf_counter() - began
        engine = MlxEngine.create(
            settings,
            Tokens(VOCABULARY + ADDED, {VOCABULARY + k: k for k in range(ADDED)}),  # type: ignore[arg-type]
            "cpu",
        )
        engine.use(method, given.work)
        peak, seconds = measured(engine, tokens)
        cells = f"{planned / MIB:.1f}", f"{peak / MIB:.1f}", f"{planned / peak - 1:+.1%}", f"{planning:.0f}"
        table.add_row(str(method), f"{tokens:,}", *cells, f"{seconds:.0f}")
        del engine
        mx.clear_cache()
    Console(width=120).print(table)
    return 0


def measured(engine: MlxEngine, tokens: int) -> tuple[int, float]:
    """Bytes at the peak of a step with gradients and moments, and the seconds of a micro-batch."""
    small, batch = (Batch.of([([1] * n, [1.0] * n)], 0) for n in (8, tokens))
    engine.accumulate(small, 1.0, 0)
    engine.apply_update(1e-5, 1.0)
    peaks, began = [], time.perf_counter()
    for key in range(2):
        engine.accumulate(small, 1.0, key)
        mx.clear_cache()
        mx.reset_peak_memory()
        engine.accumulate(batch, 1.0, key)
        engine.apply_update(1e-5, 1.0)
        peaks.append(mx.get_peak_memory())
    return max(peaks), (time.perf_counter() - began) / 2


if __name__ == "__main__":
    sys.exit(main())
