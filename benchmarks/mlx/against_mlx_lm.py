"""Our chunked step against mlx-lm's trainer with gradient checkpointing: gradients, peak memory, CPU time.

    OMP_NUM_THREADS=1 python benchmarks/mlx/against_mlx_lm.py --work /tmp/against-mlx-lm
        [--lengths 512,1024,2048,4096] [--chunks 256,128,512] [--shapes "512 wide,1/8 width,embedded"]

Random weights of two shapes and the embedded base, unquantised and in 4 bits, float32, LoRA r=16 on all six
projections, dropout 0; see mlx_step.py for what is computed. Peaks are what MLX's allocator had handed out at the
highest moment of the measured micro-batch, above what was held before it (weights, adapter, accumulated gradients,
moments). Resumable: each measurement is a process of its own, its figures stay in --work, and all that is there is in
the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
from rich.console import Console
from rich.table import Table
from shapes import make_model, shape

from longrepo import embedded

SHAPES = {"512 wide": shape(512, 2048, 8, 2, 8192, 3), "1/8 width": shape(384, 1536, 3, 1, 6144, 3)}
EMBEDDED = "embedded"
POSITIONS = {EMBEDDED: 2048}
GOALS = {1024: 1 / 3, 2048: 1 / 5, 4096: 1 / 7}
BITS = ("full", "4-bit")
COLUMNS = ("", "tokens", "chunk", "mlx-lm, MiB", "ours", "ratio", "goal", "mlx-lm, CPU-s", "ours", "ratio", "gradient")
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lengths", type=numbers, default="512,1024,2048,4096")
    parser.add_argument("--chunks", type=numbers, default="256,128,512")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=[*SHAPES, EMBEDDED])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for length, chunk, name, bits in product(given.lengths, given.chunks, given.shapes, BITS):
        if length <= POSITIONS.get(name, length):
            measured(given.work, name, length, "mlx-lm", bits)
            measured(given.work, name, length, str(chunk), bits)
    show(given.work)
    return 0


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def report_of(work: Path, name: str, length: int, way: str, bits: str) -> Path:
    return work / f"{name.replace('/', '-').replace(' ', '-')}_{bits}_{length}_{way}.json"


def measured(work: Path, name: str, length: int, way: str, bits: str) -> None:
    report = report_of(work, name, length, way, bits)
    if report.exists():
        return
    folder = embedded.path() if name == EMBEDDED else work / name.replace("/", "-").replace(" ", "-")
    if name != EMBEDDED:
        make_model(folder, SHAPES[name], mx.float32)
    print(f"{name}, {bits}, {length} tokens, {way} …", file=sys.stderr, flush=True)
    command = [sys.executable, Path(__file__).with_name("mlx_step.py"), folder, length, way, bits, report]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = work / "last_run.txt"
    with log.open("w") as out:
        words = [str(word) for word in command]
        if subprocess.run(words, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"error: the step failed, see {log}")


def show(work: Path) -> None:
    table = Table(
        title="a micro-batch: mlx-lm's trainer with gradient checkpointing, and the chunked step",
        caption=f"peaks above what was held before; {platform.machine()} CPU, one thread; Python "
        f"{platform.python_version()}, mlx {version('mlx')}, mlx-lm {version('mlx-lm')}; "
        f"gradient: worst relative difference of a tensor; python {' '.join(sys.argv)}",
    )
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    for name, bits in product([*SHAPES, EMBEDDED], BITS):
        rows = [
            row_of(work, name, bits, length, chunk) for length in (512, 1024, 2048, 4096) for chunk in (128, 256, 512)
        ]
        for row in filter(None, rows):
            table.add_row(f"{name}, {bits}", *row)
        table.add_section()
    Console(width=130).print(table)


def row_of(work: Path, name: str, bits: str, length: int, chunk: int) -> list[str] | None:
    files = [report_of(work, name, length, way, bits) for way in ("mlx-lm", str(chunk))]
    if not all(file.exists() for file in files):
        return None
    theirs, ours = (json.loads(file.read_text()) for file in files)
    peaks = [(run["peak"] - run["held"]) / MIB for run in (theirs, ours)]
    goal = f"{GOALS[length]:.3f}" if length in GOALS else ""
    seconds = [run["cpu_seconds"] for run in (theirs, ours)]
    return [
        f"{length:,}", f"{chunk}", *(f"{peak:.1f}" for peak in peaks), f"{peaks[1] / peaks[0]:.3f}", goal,
        *(f"{one:.1f}" for one in seconds), f"{seconds[1] / seconds[0]:.2f}", f"{worst(*files):.1e}",
    ]  # fmt: skip


def worst(theirs: Path, ours: Path) -> float:
    """Of all tensors' gradients, relative to each one's norm."""
    one, other = (np.load(file.with_suffix(".npz")) for file in (theirs, ours))
    if set(one) != set(other):
        sys.exit(f"error: {theirs} and {ours} hold other tensors")
    return max(float(np.linalg.norm(one[name] - other[name]) / np.linalg.norm(one[name])) for name in one)


if __name__ == "__main__":
    sys.exit(main())
