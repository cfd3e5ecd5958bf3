"""The presets' table against what is measured: a real step of a preset, all weights trained, and its plan.

    python benchmarks/context/preset_memory.py --work /tmp/preset-memory [--preset 150M_256 --preset 150M_1024]

Resumable: each preset's figures stay in --work. The plan comes from the configuration alone; then the model is made
with random weights, and an update and two micro-batches are computed for real. Both count the bytes of tensors at the
highest moment by `longrepo.engines.torch.fake_model`, on the CPU in float32, by the plain step with layers computed
again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, tensors_of
from longrepo.engines.torch.full_finetune import write_random_model
from longrepo.pretrain.presets import Preset, find_preset
from longrepo.pretrain.requirements import full_finetune_settings, make_planner

PRESETS = ("150M_256", "150M_1024")


def settings_of(folder: str) -> Settings:
    return full_finetune_settings(load_settings(None, [f"model.name={folder}", "data.structure_tokens=false"]))


def planned(chosen: Preset) -> int:
    """Bytes, from the configuration alone."""
    return (
        make_planner(chosen, settings_of("embedded"), "cpu", "float32")
        .planned(StepMethod(), chosen.context)
        .memory.peak
    )


def measured(chosen: Preset) -> int:
    """Bytes of a real step."""
    with tempfile.TemporaryDirectory() as folder:
        chosen.write_config(Path(folder))
        write_random_model(Path(folder), 0)
        tokenizer = load_tokenizer("embedded", structure_tokens="none")  # its ids are among the preset's
        engine = TorchEngine.create(settings_of(folder), tokenizer, "cpu")
    ids = np.random.default_rng(0).integers(0, chosen.config["vocab_size"], chosen.context)
    few, whole = (Batch.of([(ids[:n], np.ones(n))], engine.pad_id) for n in (16, chosen.context))
    engine.accumulate(few, 2 * whole.weight, 0)
    engine.apply_update(1e-5, 1.0)  # makes the moments
    engine.accumulate(few, 2 * whole.weight, 1)  # makes the gradients
    tracker = PeakTracker()
    tracker.adopt(tensors_of(engine.model), "model")
    tracker.adopt([p.grad for p in engine.parameters.values() if p.grad is not None], "gradients")
    tracker.adopt([t for state in engine.optimizer.state.values() for t in state.values()], "moments")
    with tracker:
        engine.accumulate(whole, 2 * whole.weight, 2)
        engine.apply_update(1e-5, 1.0)
    return tracker.peak


def figures(names: list[str], work: Path) -> dict[str, dict[str, Any]]:
    """Of each preset, all planned before the first is made: a plan notes what the process holds without a model."""
    files = {name: work / f"{name}.json" for name in names}
    plans = {name: planned(find_preset(name)) for name, file in files.items() if not file.exists()}
    for name, plan in plans.items():
        print(name, file=sys.stderr, flush=True)
        began = time.process_time()
        found = {"planned": plan, "measured": measured(find_preset(name)), "torch": torch.__version__}
        files[name].write_text(json.dumps(found | {"cpu_seconds": time.process_time() - began}))
    return {name: json.loads(file.read_text()) for name, file in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", action="append")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"all weights, one sequence, float32, CPU, torch {torch.__version__}: GiB of tensors")
    for column in ("preset", "planned", "measured", "error"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for name, found in figures(given.preset or list(PRESETS), given.work).items():
        sizes = (f"{found[key] / 2**30:.3f}" for key in ("planned", "measured"))
        table.add_row(name, *sizes, f"{found['planned'] / found['measured'] - 1:+.2%}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
