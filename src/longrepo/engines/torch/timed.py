"""The time of a real step of a few layers of true width, with random weights."""

from __future__ import annotations

import time

import torch

from longrepo.engines.base import Batch
from longrepo.engines.torch.device import Placement
from longrepo.engines.torch.dry_run import DryRun
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import materialise, meta_model, tensors_of


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    """Values that stay finite: what they are doesn't change the time."""
    for tensor in tensors_of(model):
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02)
        else:
            tensor.zero_()


def step_seconds(run: DryRun, layers: int, tokens: int) -> float:
    """Seconds of one micro-batch of one sequence on `run.device`, which must be there."""
    model, rows = meta_model(run.shortened(layers), run.settings, run.dtype, run.added)
    materialise(model, run.device)
    _fill(model)
    engine = TorchEngine(model, rows, run.settings, Placement(torch.device(run.device), run.dtype, ()))
    engine.method = run.method
    batch = Batch.of([([1] * tokens, [1.0] * tokens)], 0)
    began = time.perf_counter()
    engine.accumulate(batch, 1.0, 0)  # its loss is read from the device: nothing is left in flight
    return time.perf_counter() - began
