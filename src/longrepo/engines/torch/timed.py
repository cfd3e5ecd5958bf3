"""The time of a real step of a few layers of true width, with random weights, and what its process holds beside it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from longrepo.engines.base import Batch
from longrepo.engines.process import peak_resident, reset_peak_resident
from longrepo.engines.torch.device import Placement
from longrepo.engines.torch.dry_run import DryRun
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import materialise, meta_model, tensors_of
from longrepo.engines.torch.tracker import PeakTracker


class Seconds(NamedTuple):
    """Of one micro-batch: embedding and layers forward, head and loss, layers backward (computed again before)."""

    forward: float
    head: float
    backward: float


class TimedStep:
    """An engine with `layers` layers on `run.device`, which must be there."""

    def __init__(self, run: DryRun, layers: int) -> None:
        model, rows = meta_model(run.shortened(layers), run.settings, run.dtype, run.added)
        materialise(model, run.device)
        _fill(model)
        self._engine = TorchEngine(model, rows, run.settings, Placement(torch.device(run.device), run.dtype, ()))
        self._engine.method = run.method

    def seconds(self, tokens: int) -> Seconds:
        """One sequence."""
        base = self._engine.base
        heads: list[float] = []
        layers: list[float] = []
        hooks = [
            base.get_output_embeddings().register_forward_pre_hook(lambda *_: heads.append(time.perf_counter())),
            next(base.get_decoder().layers[-1].children()).register_forward_pre_hook(
                lambda *_: layers.append(time.perf_counter())
            ),
        ]
        began = time.perf_counter()
        self._engine.accumulate(_batch(tokens), 1.0, 0)  # its loss is read from the device: nothing is left in flight
        ended = time.perf_counter()
        for hook in hooks:
            hook.remove()
        back = next(at for at in layers if at > heads[0])
        return Seconds(heads[0] - began, back - heads[0], ended - back)

    def overhead(self, tokens: int) -> int:
        """Bytes that the process holds above its tensors at the highest moment of a step on the CPU."""
        tracker = PeakTracker()
        tracker.adopt(tensors_of(self._engine.model), "model")
        reset_peak_resident()
        with tracker:
            self._engine.accumulate(_batch(tokens), 1.0, 0)
        return peak_resident() - tracker.peak


def _batch(tokens: int) -> Batch:
    return Batch.of([([1] * tokens, [1.0] * tokens)], 0)


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    """Values that stay finite: what they are doesn't change the time."""
    for tensor in tensors_of(model):
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02)
        else:
            tensor.zero_()
