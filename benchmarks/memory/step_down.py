"""A run whose limit shrinks between two updates, and one the kernel kills for memory in mid-step and that is resumed.

    OMP_NUM_THREADS=1 python benchmarks/memory/step_down.py [--work FOLDER] [--layers 16] [--length 1024]

Each trains a small StarCoder2 (random weights) by the real engine, planner and guard, in a memory cgroup of its own,
and is compared bit for bit with a run that nothing disturbed. Needs what benchmarks/memory/capped.py needs. What is in
--work is kept: finished runs aren't run again. Exit status 0 only if both finished lower and ended with the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from capped import MemoryCgroup, memory_cgroup

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.memory.budget import find_budget
from longrepo.memory.guard import machine_guard
from longrepo.memory.planner import MemoryPlanner, plan_run
from longrepo.reports.training import TerminalReporter
from longrepo.training.checkpoint import open_run_folder
from longrepo.training.events import UpdateRecord
from longrepo.training.loop import train
from longrepo.training.plan import RunStart, make_plan
from longrepo.training.resume import find_run, resume_start

GIB, MIB = 2**30, 2**20
VOCABULARY, UPDATES, DISTURBED_AFTER = 512, 3, 1
ROOM = 96 * MIB  # above the plan: what a process holds beside it, and the page cache of a run's files


@dataclass
class Tokenizer:
    """What the engine needs of one: no structure tokens."""

    vocabulary_size: int = VOCABULARY
    initial_from: dict[int, int] = field(default_factory=dict)


class Source:
    """A sequence of random tokens an update, and one to validate."""

    content_sha256 = "random"

    def __init__(self, length: int) -> None:
        self.length, self.count = length, UPDATES + 1

    def __len__(self) -> int:
        return self.count

    def column(self, name: str) -> list[Any]:
        values = {"split": ["train"] * (self.count - 1) + ["validation"], "difficulty": ["easy"] * self.count}
        return values.get(name, [0.0] * self.count)

    def lengths(self) -> np.ndarray:
        return np.full(self.count, self.length, dtype=np.int64)

    def tokens(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, VOCABULARY, self.length).astype(np.int32)

    def weights(self, index: int) -> np.ndarray:
        return np.ones(self.length, dtype=np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("step_down"))
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--child", choices=("whole", "shrinks", "killed"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return 0
    return Bench(arguments).table()


def settings_of(work: Path, length: int) -> Settings:
    return load_settings(None, [
        f"model.name={work / 'base'}", "model.quantization=none", "data.structure_tokens=false", "lora.r=8",
        "lora.dropout=0.1", "training.precision=float32", "training.gradient_accumulation_steps=1",
        "training.save_every_steps=1", f"long_context.phase1_max_length={length}", "long_context.phase1_epochs=1",
        f"long_context.phase2_min_length={length + 1}", f"long_context.phase2_max_length={length + 64}",
        "long_context.phase2_epochs=0", f"long_context.phase3_min_length={length + 65}",
        f"long_context.phase3_max_length={length + 128}", "memory.step=chunked", "memory.chunk_tokens=256",
    ])  # fmt: skip


class Bench:
    """The parent: base model, plans, cgroups."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.work, self.length, self.layers = arguments.work.resolve(), arguments.length, arguments.layers
        self.work.mkdir(parents=True, exist_ok=True)
        make_base(self.work / "base", self.layers)
        self.settings = settings_of(self.work, self.length)
        planner = MemoryPlanner.of(self.settings, "cpu", "float32", self.work)
        self.first, *_, self.lowest = planner.estimates(self.length)
        self.enough = self.first.peak + ROOM

    def table(self) -> int:
        for rung in (self.first, self.lowest):
            print(f"  {rung.method!s:<34} planned {rung.peak / MIB:6.0f} MiB")
        self.run("whole")
        self.run("shrinks")
        kills = self.run("killed")
        print(
            f"\n{platform.machine()}, {os.cpu_count()} cores, {versions()}; {self.layers} layers, {self.length} tokens"
        )
        print(f"  {shlex.join(['python', 'benchmarks/memory/step_down.py', *sys.argv[1:]])}\n")
        print(f"{'run':<34}{'rung before':<26}{'rung after':<34}{'updates':>8}  {'adapter':<11}{'optimizer':<11}")
        good = kills == 1 or (self.work / "killed" / "adapter").exists()
        for name, title in (
            ("shrinks", "limit shrinks between updates"),
            ("killed", "killed in mid-step, resumed"),
        ):
            path = self.work / name
            steps = [one for one in read_records(path) if one["record"] == "step_down"]
            updates = sum(one["record"] == "update" for one in read_records(path))
            same = [file_hash(path / file) == file_hash(self.work / "whole" / file) for file in FILES]
            before, after = (steps[0]["before"], steps[-1]["after"]) if steps else ("?", "?")
            words = "".join(f"{'identical' if one else 'DIFFERS':<11}" for one in same)
            print(f"{title:<34}{before:<26}{after:<34}{updates:>8}  {words}")
            good = good and all(same) and len(steps) == 1 and updates == UPDATES
        return 0 if good else 1

    def run(self, name: str) -> int:
        """Until it is finished; how often the kernel killed it. Each life begins with the whole limit."""
        path = self.work / name
        if (path / "adapter").exists():
            return 0
        shutil.rmtree(path, ignore_errors=True)
        with memory_cgroup() as group:
            for _ in range(3):
                group.limit(self.enough)
                status = self._child(group, name)
                print(f"{name}: status {status}, killed for memory {group.kills()} times", flush=True)
                if status >= 0:
                    break
            if status:
                sys.exit(f"{name} failed; see {self.work / 'log.txt'}")
            return group.kills()

    def _child(self, group: MemoryCgroup, name: str) -> int:
        limit = group.folder / ("memory.max" if group.v2 else "memory.limit_in_bytes")
        command = [
            sys.executable, __file__, "--work", self.work, "--layers", str(self.layers), "--length", str(self.length),
            "--child", name,
        ]  # fmt: skip
        # Memory that a step gives back goes back to the kernel, as a GPU's does: v1 refuses a limit below what is held.
        environment = os.environ | {
            "MALLOC_MMAP_THRESHOLD_": "131072",
            "MALLOC_TRIM_THRESHOLD_": "131072",
            "CUDA_VISIBLE_DEVICES": "",
            "STEP_DOWN_LIMIT": str(limit),
        }
        with (self.work / "log.txt").open("a") as log:
            return subprocess.run(group.within(command), stdout=log, stderr=log, env=environment).returncode


class Disturbing(TerminalReporter):
    """Lowers the limit of its own cgroup after an update: at once, or in the middle of the next step."""

    def __init__(self, how: str, less: int) -> None:
        super().__init__(verbose=True)
        self.how, self.file, self.less = how, Path(os.environ["STEP_DOWN_LIMIT"]), less

    def update(self, record: UpdateRecord) -> None:
        super().update(record)
        if record.update != DISTURBED_AFTER:
            return
        if self.how == "shrinks":
            self.limit(self.less)
        elif self.how == "killed":
            threading.Timer(record.seconds / 4, self.starve).start()

    def limit(self, size: int) -> None:
        self.file.write_text(str(size))

    def starve(self) -> None:
        """As little as is in use: the next page is too much."""
        usage = self.file.with_name("memory.usage_in_bytes")
        usage = usage if usage.exists() else self.file.with_name("memory.current")
        while True:
            try:
                self.limit(int(usage.read_text()))
                return
            except OSError:  # more is in use than a moment ago
                time.sleep(0.01)


def child(arguments: argparse.Namespace) -> None:
    from longrepo.engines.torch.engine import TorchEngine

    work, name = arguments.work, arguments.child
    settings, source, path = settings_of(work, arguments.length), Source(arguments.length), work / name
    resuming = (path / "checkpoints").exists()
    start = RunStart("new", settings)
    if resuming:
        start = resume_start(find_run("auto", path), settings, source.content_sha256, None)
    plan = make_plan(start, source, "random")
    planner = MemoryPlanner.of(plan.settings, "cpu", "float32", work)
    run_plan = plan_run(planner, [plan.schedule.phase(1)], find_budget("cpu", None))
    # A resumed run is disturbed no more.
    rungs = run_plan.phases[1].estimates
    less = (rungs[0].peak + rungs[-1].peak) // 2
    reporter = TerminalReporter(verbose=True) if resuming else Disturbing(name, less)
    for line in run_plan.lines():
        reporter.note(line)
    with open_run_folder(path, resuming) as run:
        engine = TorchEngine.create(plan.settings, Tokenizer(), "cpu")  # type: ignore[arg-type]
        guard = machine_guard("cpu", plan.settings.memory.budget_gb, engine.peak_memory)
        train(engine, plan, run, reporter, memory=run_plan, make_guard=guard)


def make_base(folder: Path, layers: int) -> None:
    if (folder / "config.json").exists():
        return
    import torch
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    torch.manual_seed(0)
    config = Starcoder2Config(
        hidden_size=256, intermediate_size=512, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=VOCABULARY, sliding_window=512, max_position_embeddings=16384, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attention_dropout=0.0, residual_dropout=0.0,
        embedding_dropout=0.0,
    )  # fmt: skip
    Starcoder2ForCausalLM(config).save_pretrained(folder)


FILES = ("adapter/adapter_model.safetensors", "last/optimizer.safetensors")


def read_records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))


if __name__ == "__main__":
    sys.exit(main())
