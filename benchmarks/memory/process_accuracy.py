"""The plan against the whole process on a CPU, with what the C library keeps of freed blocks and without.

    python benchmarks/memory/process_accuracy.py --work /tmp/process-accuracy

Resumable. Each step has a process of its own: four micro-batches and two updates on random weights. `planned`: tensors
and libraries, as `longrepo plan` counts a machine that was never calibrated. `kept`: the process's highest resident
memory as glibc manages it, `given back`: with `longrepo.utils.process.return_freed_memory`, both in parts of the plan;
CPU-seconds are the last micro-batch's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from plan_accuracy import Case, chunks, planner_of, ready, write_model
from rich.console import Console
from rich.table import Table

from longrepo.utils.process import peak_resident, return_freed_memory

CASES = (
    Case("starcoder2", 512),
    Case("starcoder2", 2048),
    Case("starcoder2", 2048, chunks(256)),
    Case("true width", 1024, r=32, precision="bfloat16"),
    Case("true width", 2048, r=32, precision="bfloat16"),
    Case("true width", 2048, chunks(256), r=32, precision="bfloat16"),
)
WAYS = ("kept", "given back")


def figures(case: Case, what: str, model: Path) -> dict[str, float]:
    """In this process, with nothing in it yet."""
    if what == "plan":
        return {"peak": planner_of(case, model).planned(case.method, case.length).peak}
    if what == "given back":
        assert return_freed_memory(), "this C library can't be told to"
    engine, batch = ready(case, model)
    for key in range(4):
        began = time.process_time()
        engine.accumulate(batch, 2 * batch.weight, key)
        seconds = time.process_time() - began
        if key % 2:
            engine.apply_update(1e-5, 1.0)
    return {"peak": peak_resident(), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--one", nargs=2, metavar=("NUMBER", "WHAT"), help="one figure, in this process")
    given = parser.parse_args()
    if given.one:
        case = CASES[int(given.one[0])]
        print(json.dumps(figures(case, given.one[1], given.work / case.model)))
        return
    for case in CASES:
        folder = given.work / case.model
        if not folder.exists():
            partial = folder.with_name(f".{case.model}.part")
            write_model(case, partial)
            partial.rename(folder)
    table = Table(title=f"the process's peak against the plan; CPU, torch {torch.__version__}")
    for column in ("configuration", "planned, MiB", *WAYS, *(f"CPU-s, {way}" for way in WAYS)):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for number, case in enumerate(CASES):
        plan, *ways = (_figure(given.work, number, what) for what in ("plan", *WAYS))
        parts = (f"{one['peak'] / plan['peak']:.2f}" for one in ways)
        table.add_row(case.name, f"{plan['peak'] / 2**20:,.0f}", *parts, *(f"{one['seconds']:.2f}" for one in ways))
    Console(width=140).print(table)


def _figure(work: Path, number: int, what: str) -> dict[str, Any]:
    file = work / f"{number}-{what.replace(' ', '-')}.json"
    if not file.exists():
        print(CASES[number].name, what, file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--work", str(work), "--one", str(number), what]
        file.write_text(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    main()
