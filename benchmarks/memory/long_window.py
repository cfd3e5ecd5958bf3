"""131,072 tokens through one and two layers of StarCoder2-3B's true width, and what that means for thirty.

    python benchmarks/memory/long_window.py --work /tmp/full-shape [--length 131072] [--chunk 512] [--layers 1,2]

Attention keeps the model's own window of 4,096 tokens; the head scores the last 4,096 positions; the store is on disk.
Peaks of live tensors are measured, extrapolated to 30 layers (each adds the same), and stand beside the plan's. The
model's own position table ends at 16,384: what is shown is memory, not quality. Results stay in WORK/long_window.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from true_shape import StructureTokens, shape_in

from longrepo.config.load import load_settings
from longrepo.engines.method import Method

GIB = 2**30
SCORED = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--length", type=int, default=131072)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--layers", default="1,2")
    given = parser.parse_args()
    file = given.work / "long_window.json"
    method = Method("chunked", given.chunk, "disk")
    for layers in (int(n) for n in given.layers.split(",")):
        results = json.loads(file.read_text()) if file.exists() else {}
        key = f"{layers} layers, {given.length} tokens, {method}"
        if key in results:
            continue
        model = shape_in(given.work, layers)
        report = given.work / "long_window.part.json"
        step = Path(__file__).with_name("one_step.py")
        command = [sys.executable, step, model, given.length, f"disk:{given.chunk}", report]
        subprocess.run([str(word) for word in [*command, "--scratch", given.work, "--scored", SCORED]], check=True)
        results[key] = json.loads(report.read_text())
        file.write_text(json.dumps(results, indent=1))
    show(json.loads(file.read_text()), given.work, given.length, method)
    return 0


def planned(model: Path, length: int, method: Method) -> int:
    """Bytes of tensors at the highest moment, by dry run."""
    import torch
    from transformers import AutoConfig

    from longrepo.engines.torch.dry_run import PHASES, DryRun

    settings = load_settings(None, [f"model.name={model}", "training.precision=bfloat16"])
    added = len(StructureTokens().initial_from)
    run = DryRun(AutoConfig.from_pretrained(model), settings, method, "cpu", torch.bfloat16, added)
    # A dry run of 131,072 tokens is long: beyond the window every peak grows by the same for each token.
    first, second = 3 * 4096, 4 * 4096
    peaks = [max(run.whole(tokens)[f"peak {phase}"] for phase in PHASES) for tokens in (first, second)]
    return peaks[0] + (peaks[1] - peaks[0]) * (length - first) // (second - first)


def show(results: dict[str, dict[str, float]], work: Path, length: int, method: Method) -> None:
    table = Table(
        title=f"{length:,} tokens, window 4,096, {method}, bfloat16, r=32", caption=f"python {' '.join(sys.argv)}"
    )
    for column in ("layers", "tensors, GiB", "plan, GiB", "written, GiB", "minutes"):
        table.add_column(column, justify="right")
    measured: dict[int, float] = {}
    for key, told in results.items():
        if not key.endswith(f"{length} tokens, {method}"):
            continue
        layers = int(key.split()[0])
        measured[layers] = told["tensor_peak"]
        plan = planned(shape_in(work, layers), length, method)
        cells = (told["tensor_peak"] / GIB, plan / GIB, told["written"] / GIB)
        table.add_row(str(layers), *(f"{cell:.3f}" for cell in cells), f"{told['seconds'] / 60:.1f}")
    if {1, 2} <= measured.keys():
        whole = measured[1] + 29 * (measured[2] - measured[1])
        plan = planned(shape_in(work), length, method)
        table.add_row("30 (extrapolated)", f"{whole / GIB:.3f}", f"{plan / GIB:.3f}", "–", "–")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
