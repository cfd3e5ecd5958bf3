"""One training step in a process of its own: its tensors' peak, its loss and its time, as JSON.

    python benchmarks/memory/one_step.py MODEL LENGTH METHOD REPORT [--scratch DIR] [--set lora.r=16]

METHOD is `plain` or `STORE:CHUNK[:EVERY]`: `memory:256`, `recompute:256:6`, `disk:512`. What a long run holds is there
before the step: LoRA's gradients of an accumulation window in progress, and AdamW's moments.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from true_shape import StructureTokens

from longrepo.config.loader import load_settings
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker
from longrepo.utils.process import return_freed_memory

GIB = 2**30


def method_of(words: str) -> StepMethod:
    if words == "plain":
        return StepMethod()
    store, chunk, *every = words.split(":")
    return StepMethod("chunked", int(chunk), store, *(int(k) for k in every))  # type: ignore[arg-type]


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("length", type=int)
    parser.add_argument("method", type=method_of)
    parser.add_argument("report", type=Path)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--scored", type=int, default=None, help="last positions that the head scores; default: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    parser.add_argument("--timed", type=int, metavar="STEPS", help="only time so many steps; the last one counts")
    given = parser.parse_args()
    report: dict[str, Any] = {}

    def note(**facts: Any) -> None:
        report.update(facts)
        given.report.write_text(json.dumps(report))

    if not given.timed:
        return_freed_memory()  # as `longrepo train` does where memory is short; where it isn't, it would only cost time
    settings = load_settings(
        None, [f"model.name={given.model}", "training.precision=bfloat16", "lora.r=32", *given.set]
    )
    began = time.perf_counter()
    engine = TorchEngine.create(settings, StructureTokens(), "cpu")  # type: ignore[arg-type]
    note(loaded_in=time.perf_counter() - began, anonymous_loaded=anonymous(), versions=engine.facts()["versions"])
    tracker = PeakTracker()
    tracker.adopt((t for t in (*engine.model.parameters(), *engine.model.buffers())), "base and adapter")
    tracker.adopt((t for m in engine.model.modules() for t in held_by_state(m)), "base and adapter")
    ids = np.random.default_rng(0).integers(0, StructureTokens().vocabulary_size, given.length)
    weights = np.zeros(given.length)
    weights[-(given.scored or given.length) :] = 1.0
    batch = Batch.of([(ids, weights)], engine.pad_id)
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    engine.apply_update(0.0, 1.0)
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    tracker.adopt((p.grad for p in engine.parameters.values() if p.grad is not None), "gradients")
    tracker.adopt((t for state in engine.optimizer.state.values() for t in state.values()), "moments")
    engine.use(given.method, given.scratch)
    note(resident_tensors=tracker.live)
    for step in range(given.timed or 1):
        began, began_cpu = time.perf_counter(), time.process_time()
        with nullcontext() if given.timed else tracker:
            loss = engine.accumulate(batch, batch.weight, key=step + 1) / batch.weight
            norm = engine.apply_update(5e-5, 1.0)
    note(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - began_cpu,
        loss=loss,
        norm=norm,
        tensor_peak=tracker.peak,
        at_peak=dict(tracker.at_peak),
        written=getattr(engine._store, "written", 0),
        anonymous_end=anonymous(),
    )


def held_by_state(module: Any) -> list[torch.Tensor]:
    """The tensors of a 4-bit weight's quantisation state: no parameters, no buffers, but memory."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None:
        return []
    nested = state.state2
    parts = [state.absmax, state.code, state.offset, *((nested.absmax, nested.code) if nested else ())]
    return [part for part in parts if isinstance(part, torch.Tensor)]


if __name__ == "__main__":
    main()
