"""The usual stack (TRL's SFTTrainer, PEFT, bitsandbytes, gradient checkpointing) in a memory cgroup: where does it die?

    python benchmarks/memory/true_shape.py SHAPES            (makes SHAPES/starcoder2-3b-shape, 6 GB, random weights)
    pip install --no-deps --target TRL -r benchmarks/memory/requirements.txt
    python benchmarks/memory/usual_stack.py --model SHAPES/starcoder2-3b-shape --trl TRL --work DIR
    …  --tensors        without a cap, at 2 and 4 layers: each phase's tensor peak, extrapolated to all layers
    …  --speed          without a cap, at 4 layers: tokens per CPU-second of a second step, optimizer included

One optimizer step of one sequence of random tokens, lengths upwards until one dies, once with composite attention (the
scores are materialised: what a Mac runs) and once fused. Each result is kept in DIR/usual_stack.json; a run that is
there is not done again, and everything that is there is in the table. Linux, and the right to make memory cgroups.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capped import GIB, clean_up_when_terminated, run_capped
from rich.console import Console
from rich.table import Table

STEP = Path(__file__).with_name("trl_step.py")
LENGTHS = {"capped": "512,1024,1536,2048,3072,4096", "tensors": "1024,2048,4096", "speed": "1024,2048,4096"}
LAYERS = {"capped": "30", "tensors": "2,4", "speed": "4"}
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
NOTES = (
    "NF4 with double quantisation, LoRA r=32 on q, k, v, o, c_fc, c_proj in bf16 (TRL casts it), batch 1, dropouts 0 "
    "(fused attention on a CPU has none). The model was quantised outside the cap: transformers takes 8.5 GiB to do it "
    "on a CPU; inside, it is loaded from the quantised folder and copied out of the mapping. Anonymous memory is "
    "sampled 5 times a second and includes the libraries (0.4 GiB once all are imported); the cgroup's figure is the "
    "kernel's, page cache included. Tensors: counted at every operation, attention's and products' scratch excluded; "
    "without Triton TRL's head works in float32, on up to 4,096 × 32,768 logits at once, so backward's peak can be "
    "the head's, whatever attention does."
)


class Bench:
    """The work folder: quantised models, results by name, and the command that asks for what is missing."""

    def __init__(self, model: Path, trl: Path, work: Path, cap_gib: float) -> None:
        self.model, self.trl, self.work, self.cap_gib = model, trl, work, cap_gib
        work.mkdir(parents=True, exist_ok=True)
        self._file = work / "usual_stack.json"
        self.results: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def quantized(self, layers: int) -> Path:
        folder = self.work / f"nf4-{layers}-layers"
        if not folder.exists():
            print(f"quantising {layers} layers …", file=sys.stderr)
            self._python("quantise", self.model, layers, folder)
        return folder

    def lock(self) -> None:
        """Until this process ends: two at once would spoil each other's results."""
        self._lock = (self.work / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"error: {self.work} is in use by another run")

    def run(self, kind: str, layers: int, length: int, attention: str) -> dict[str, Any]:
        """One run in a process of its own, or what is known of it."""
        cap = self.cap_gib if kind == "capped" else None
        name = f"{kind} {layers} layers, {length} tokens, {attention}" + (f", {cap} GiB" if cap else "")
        if name in self.results and not failed(self.results[name]):
            return self.results[name]
        folder, report = self.quantized(layers), self.work / "report.json"
        report.write_text("{}")
        print(f"{name} …", file=sys.stderr, flush=True)
        steps = 2 if kind == "speed" else 1
        result = run_capped(
            [sys.executable, STEP, "step", folder, str(length), attention, str(steps), report],
            int(cap * GIB) if cap else None,
            log=self.work / "last_run.txt",
            environment={"PYTHONPATH": str(self.trl), "HF_HUB_OFFLINE": "1"},
        )
        facts = json.loads(report.read_text())
        if failed(asdict(result)):
            print(f"  failed, see {self.work / 'last_run.txt'}", file=sys.stderr)
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        self.results[name] = {
            "kind": kind, "layers": layers, "length": length, "attention": attention, "cap_gib": cap,
            "threads": threads, **asdict(result), **facts,
        }  # fmt: skip
        beside = self._file.with_suffix(".part")
        beside.write_text(json.dumps(self.results, indent=1))
        beside.rename(self._file)
        return self.results[name]

    def _python(self, *arguments: object) -> None:
        command = [sys.executable, str(STEP), *map(str, arguments)]
        with (self.work / "quantise.txt").open("w") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
                sys.exit(f"error: quantising failed, see {log.name}")


def failed(run: dict[str, Any]) -> bool:
    """Ended by an exception: said, and done again the next time."""
    return run["returncode"] != 0 and not run["killed"]


def outcome(run: dict[str, Any]) -> str:
    if run["killed"]:
        return f"killed in {run.get('stage', 'loading')} (SIGKILL)"
    return f"exception in {run.get('stage', 'loading')}" if failed(run) else "ok"


def extrapolated(runs: list[dict[str, Any]], layers: int) -> dict[str, float]:
    """Bytes of each phase at `layers`, through the two runs with the fewest and the most."""
    few, many = min(runs, key=lambda run: run["layers"]), max(runs, key=lambda run: run["layers"])
    apart = many["layers"] - few["layers"]
    return {
        phase: few["tensors"][phase] + (layers - few["layers"]) * (peak - few["tensors"][phase]) / apart
        for phase, peak in many["tensors"].items()
    }


def show(results: dict[str, dict[str, Any]], depth: int) -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    table = Table(
        title="the usual stack on StarCoder2-3B's shape",
        caption=f"{NOTES}\n{processor()}, {os.cpu_count()} cores; {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, {versions}, {required()}\n{shlex.join(['python', *sys.argv])}",
    )
    for column in ("", "layers", "tokens", "attention", "outcome", "tensors", "anonymous", "cgroup, GiB", "seconds"):
        table.add_column(column, justify="left" if column in ("", "attention", "outcome") else "right")
    runs = sorted(results.values(), key=lambda run: (run["attention"], run["layers"], run["length"]))
    for run in (run for run in runs if run["kind"] == "capped"):
        tensors = f"{max(run['tensors'].values()) / GIB:.2f}" if "tensors" in run else ""
        memory = (f"{run[key] / GIB:.2f}" for key in ("peak_anonymous", "peak_usage"))
        table.add_row(f"cap {run['cap_gib']} GiB", *cells(run), outcome(run), tensors, *memory, f"{run['seconds']:.0f}")
    table.add_section()
    free = [run for run in runs if run["kind"] == "tensors" and "tensors" in run]
    for attention, length in sorted({(run["attention"], run["length"]) for run in free}):
        of = [run for run in free if (run["attention"], run["length"]) == (attention, length)]
        for run in of:
            table.add_row("no cap", *cells(run), outcome(run), f"{max(run['tensors'].values()) / GIB:.2f}",
                          f"{run['peak_anonymous'] / GIB:.2f}", "", f"{run['seconds']:.0f}")  # fmt: skip
        if len(of) > 1:
            phases = extrapolated(of, depth)
            highest = max(phases, key=lambda phase: phases[phase])
            table.add_row("extrapolated", str(depth), f"{length:,}", attention, f"highest in {highest}",
                          f"{phases[highest] / GIB:.2f}", "", "", "")  # fmt: skip
    table.add_section()
    for run in (run for run in runs if run["kind"] == "speed" and run.get("stage") == "done"):
        rate = run["length"] / run["steps"][-1][0]
        table.add_row("speed", *cells(run), f"[bold]{rate:.1f} tokens/CPU-s[/], {run['threads']} threads", "",
                      f"{run['peak_anonymous'] / GIB:.2f}", "", f"{run['steps'][-1][1]:.0f}")  # fmt: skip
    Console(width=max(Console().width, 140)).print(table)


def cells(run: dict[str, Any]) -> tuple[str, str, str]:
    return str(run["layers"]), f"{run['length']:,}", run["attention"]


def required() -> str:
    lines = STEP.with_name("requirements.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("trl==")).replace("==", " ")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder that true_shape.py made")
    parser.add_argument("--trl", type=Path, required=True, help="the folder that TRL was installed into")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lengths", type=numbers)
    parser.add_argument("--layers", type=numbers)
    parser.add_argument("--attention", default="composite,fused")
    parser.add_argument("--cap-gib", type=float, default=5.33)
    parser.add_argument("--tensors", dest="kind", action="store_const", const="tensors", default="capped")
    parser.add_argument("--speed", dest="kind", action="store_const", const="speed")
    parser.add_argument("--table", dest="kind", action="store_const", const="table", help="run nothing")
    given = parser.parse_args()
    if not (given.trl / "trl").is_dir():
        parser.error(f"--trl {given.trl}: no TRL there; pip install --no-deps --target {given.trl} -r requirements.txt")
    if not (given.model / "config.json").exists():
        parser.error(f"--model {given.model}: no model there; benchmarks/memory/true_shape.py makes it")
    bench = Bench(given.model, given.trl.resolve(), given.work, given.cap_gib)
    if given.kind != "table":
        clean_up_when_terminated()
        bench.lock()
        for attention in given.attention.split(","):
            for layers in given.layers or numbers(LAYERS[given.kind]):
                for length in given.lengths or numbers(LENGTHS[given.kind]):
                    if bench.run(given.kind, layers, length, attention)["killed"]:
                        break
    depth = json.loads((given.model / "config.json").read_text())["num_hidden_layers"]
    show(bench.results, depth)
    return 0


if __name__ == "__main__":
    sys.exit(main())
