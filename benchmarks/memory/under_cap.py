"""StarCoder2-3B's true shape trained inside a memory cgroup the size of an 8 GB Mac's share for its GPU.

    python benchmarks/memory/under_cap.py --work /tmp/full-shape [--runs memory:256@2048,disk:512@16384] [--cap 5.33]

Random weights, NF4, float32 LoRA r=32 on all six projections, batch 1, bfloat16; the gradients of an accumulation
window and AdamW's moments are held, and one update is taken. Loading is inside the cap, too. Each run is a process of
its own; results stay in WORK/under_cap.json, and what is there is not run again. `tensors`: the highest sum of live
tensors (longrepo.engines.torch.fake_model); `anonymous`: the process's anonymous memory, sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from capped import GIB, run_capped
from rich.console import Console
from rich.table import Table
from true_shape import shape_in

RUNS = "memory:256@2048,disk:256@2048,memory:256@4096,disk:256@4096,disk:512@16384"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", default=RUNS, help="METHOD@LENGTH, comma-separated; see one_step.py")
    parser.add_argument("--cap", type=float, default=5.33, help="GiB")
    given = parser.parse_args()
    model = shape_in(given.work)
    file = given.work / "under_cap.json"
    for run in given.runs.split(","):
        results = json.loads(file.read_text()) if file.exists() else {}
        if run in results:
            continue
        method, _, length = run.partition("@")
        report = given.work / f"under_cap.{run.replace(':', '-')}.json"
        report.unlink(missing_ok=True)
        step = Path(__file__).with_name("one_step.py")
        command = [sys.executable, step, model, length, method, report, "--scratch", given.work]
        print(f"{run} …", file=sys.stderr, flush=True)
        result = run_capped(command, int(given.cap * GIB), log=report.with_suffix(".log"))
        told = json.loads(report.read_text()) if report.exists() else {}
        results = json.loads(file.read_text()) if file.exists() else {}
        results[run] = told | {
            "cap": given.cap,
            "returncode": result.returncode,
            "killed": result.killed,
            "peak_anonymous": result.peak_anonymous,
            "peak_usage": result.peak_usage,
            "whole_seconds": result.seconds,
        }
        file.write_text(json.dumps(results, indent=1))
    show(json.loads(file.read_text()))
    return 0


def show(results: dict[str, dict[str, object]]) -> None:
    versions = next((told["versions"] for told in results.values() if "versions" in told), {})
    table = Table(
        title=f"30 layers of true width under a cap; {platform.machine()}, {os.cpu_count()} cores, {versions}",
        caption=f"python {' '.join(sys.argv)}",
    )
    for column in ("tokens", "method", "outcome", "tensors", "anonymous", "cgroup's peak", "written", "seconds"):
        table.add_column(column, justify="left" if column in ("method", "outcome") else "right")
    for run, told in sorted(results.items(), key=lambda item: (int(item[0].partition("@")[2]), item[0])):
        method, _, length = run.partition("@")
        outcome = "killed" if told["killed"] else "done" if told["returncode"] == 0 else f"status {told['returncode']}"

        def gib(name: str, told: dict[str, object] = told) -> str:
            return f"{float(told[name]) / GIB:.2f}" if name in told else "–"  # type: ignore[arg-type]

        seconds = f"{told['seconds']:,.0f}" if "seconds" in told else "–"
        cells = [gib(name) for name in ("tensor_peak", "peak_anonymous", "peak_usage", "written")]
        table.add_row(f"{int(length):,}", method, f"{outcome} (cap {told['cap']} GiB)", *cells, seconds)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
