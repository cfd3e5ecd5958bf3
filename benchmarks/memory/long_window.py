"""Long texts through one and two layers of StarCoder2-3B's true width, and what that means for thirty.

    python benchmarks/memory/long_window.py --work /tmp/full-shape [--length 131072] [--chunk 512] [--layers 1,2]
    python benchmarks/memory/long_window.py --work /tmp/full-shape --full --length 32768 --layers 1 --cap 5.33

Attention keeps the model's own window of 4,096 tokens, or (--full) sees all, its positions scaled by YaRN; the head
scores the last 4,096 positions; the store is on disk. Peaks of live tensors are measured, extrapolated to 30 layers
(each adds the same), and stand beside the plan's. With --cap, in a memory cgroup of so many GiB (see capped.py).
The model's own positions end at 16,384: what is shown is memory, not quality. Results stay in WORK/long_window.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capped import clean_up_when_terminated, run_capped
from rich.console import Console
from rich.table import Table
from true_shape import shape_in

from longrepo.config.loader import load_settings
from longrepo.engines.base import StepMethod
from longrepo.memory.planner import MemoryPlanner

GIB = 2**30
SCORED = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--length", type=int, default=131072)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--layers", default="1,2")
    parser.add_argument("--full", action="store_true", help="open the window, positions scaled to the length by YaRN")
    parser.add_argument("--cap", type=float, metavar="GIB", help="of the memory cgroup that a step runs in")
    given = parser.parse_args()
    clean_up_when_terminated()
    case = Case(given.work, given.length, given.chunk, given.full)
    for layers in (int(n) for n in given.layers.split(",")):
        if f"{layers} layers, {case.name}" not in case.results():
            case.measure(layers, given.cap)
    show(case)
    return 0


@dataclass(frozen=True)
class Case:
    """A length, a chunk, and the window kept or opened."""

    work: Path
    length: int
    chunk: int
    full: bool

    @property
    def method(self) -> StepMethod:
        """How a step is computed."""
        return StepMethod("chunked", self.chunk, "disk")

    @property
    def name(self) -> str:
        """Of its results, after the number of layers."""
        return f"{self.length} tokens, {self.method}{', full attention' if self.full else ''}"

    @property
    def overrides(self) -> list[str]:
        """Settings beyond the model's own."""
        positions = ["context.method=yarn", "context.window=full", f"context.target_length={self.length}"]
        return positions if self.full else []

    def results(self) -> dict[str, dict[str, Any]]:
        """All there are, of other cases too."""
        file = self.work / "long_window.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def measure(self, layers: int, cap: float | None) -> None:
        """One step in a process of its own, within `cap` GiB."""
        key, model, log = f"{layers} layers, {self.name}", shape_in(self.work, layers), self.work / "long_window.log"
        report = self.work / "long_window.part.json"
        step = Path(__file__).with_name("one_step.py")
        command = [sys.executable, step, model, self.length, f"disk:{self.chunk}", report]
        command += ["--scratch", self.work, "--scored", SCORED]
        command += [word for one in self.overrides for word in ("--set", one)]
        done = run_capped([str(word) for word in command], int(cap * GIB) if cap else None, log=log)
        if done.returncode:
            sys.exit(f"{key}: {'killed for memory' if done.killed else f'failed, see {log}'}")
        told = json.loads(report.read_text()) | {"cap": cap, "anonymous": done.peak_anonymous}
        (self.work / "long_window.json").write_text(json.dumps(self.results() | {key: told}, indent=1))

    def planned(self, layers: int) -> int:
        """Bytes of tensors at the highest moment, as `longrepo plan` says."""
        model = shape_in(self.work, layers)
        fixed = [f"model.name={model}", "training.precision=bfloat16", "lora.r=32"]
        planner = MemoryPlanner.of(load_settings(None, [*fixed, *self.overrides]), "cpu", "bfloat16", self.work)
        return planner.planned(self.method, self.length).peak - planner.overhead


def show(case: Case) -> None:
    """What there is, beside the plan, and thirty layers from it."""
    window = "full attention" if case.full else "window 4,096"
    table = Table(
        title=f"{case.length:,} tokens, {window}, {case.method}, bfloat16, r=32", caption=f"python {' '.join(sys.argv)}"
    )
    for column in ("layers", "tensors, GiB", "plan, GiB", "anonymous, GiB", "cap, GiB", "written, GiB", "minutes"):
        table.add_column(column, justify="right")
    measured: dict[int, float] = {}
    for key, told in case.results().items():
        layers, _, name = key.partition(" layers, ")
        if name != case.name:
            continue
        measured[int(layers)] = told["tensor_peak"]
        sizes = (told["tensor_peak"], case.planned(int(layers)), told.get("anonymous") or told["anonymous_end"])
        cells = [f"{size / GIB:.3f}" for size in sizes]
        cells += [f"{told['cap']:.2f}" if told.get("cap") else "–", f"{told['written'] / GIB:.3f}"]
        table.add_row(layers, *cells, f"{told['seconds'] / 60:.1f}")
    if {1, 2} <= measured.keys():
        whole = measured[1] + 29 * (measured[2] - measured[1])
        cells = [f"{size / GIB:.3f}" for size in (whole, case.planned(30))]
        table.add_row("30 (extrapolated)", *cells, *["–"] * 4)
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
