"""The tracker against torch's own profiler, and what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TinyTokenizer, model_folder, settings
from torch._subclasses.fake_tensor import FakeTensorMode

from longrepo.engines.base import Batch
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker

MIB = 2**20


@pytest.mark.parametrize(("quantization", "checkpointing"), [("nf4", "true"), ("none", "false")])
def test_the_peak_of_a_step_is_the_profilers_within_a_hundredth(
    tmp_path: Path, quantization: str, checkpointing: str
) -> None:
    folder = model_folder(tmp_path, hidden_size=128, intermediate_size=512, vocab_size=1000)
    tokenizer = TinyTokenizer(1004, {1000 + k: k for k in range(4)})
    given = (f"model.quantization={quantization}", f"training.use_gradient_checkpointing={checkpointing}")
    engine = TorchEngine.create(settings(folder, *given), tokenizer, "cpu")
    batch = Batch.of([(list(range(500)), [1.0] * 500)], 0)

    def step() -> None:
        engine.accumulate(batch, batch.weight, 0)
        engine.apply_update(1e-4, 1.0)

    step()
    tracker = PeakTracker()
    with tracker:
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    live = peak = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak > MIB
    assert tracker.peak == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("fake", [False, True])
def test_each_storage_counts_once_from_its_making_to_its_end(fake: bool) -> None:
    tracker = PeakTracker()
    with FakeTensorMode() if fake else torch.device("cpu"):
        before = torch.ones(MIB, dtype=torch.uint8)
        with tracker:
            view = before.view(2, -1)[0]
            assert tracker.live == 0  # from before
            tracker.enter("work")
            one = view + 1
            other = one[::2].mul_(2)
            assert tracker.live == MIB // 2
            two = torch.cat([one, one])
            del one
            assert tracker.live == 3 * MIB // 2, "a view keeps its storage alive"
            del other, two
            tracker.enter("other")
            assert tracker.live == 0
            tracker.adopt([before, view], "held")
    assert tracker.live == MIB
    assert (tracker.peak, tracker.peaks["work"], tracker.peaks["other"]) == (3 * MIB // 2, 3 * MIB // 2, MIB)
    assert tracker.at_peak == {"work": 3 * MIB // 2}
    del before, view
    assert tracker.live == 0
