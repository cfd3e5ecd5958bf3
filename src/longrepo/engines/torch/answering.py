"""The memory of an answer, dry: a prompt read and a first token written on fake tensors, as `generate` does it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from longrepo.engines.base_config import two_depths
from longrepo.engines.measured import Measured, line
from longrepo.engines.method import Method
from longrepo.engines.torch.dry_run import DryRun
from longrepo.engines.torch.fake_model import tensors_of
from longrepo.engines.torch.key_values import cache_of
from longrepo.engines.torch.tracker import PeakTracker


def answering(run: DryRun, tokens: int, bits: int = 16) -> Measured:
    """Bytes of tensors for a prompt of `tokens` tokens: the `model`, and at the highest moment (`peak`)."""
    small, large = two_depths(run.config, Method())
    layers = run.config.num_hidden_layers
    if layers <= large:
        return _at(run, layers, tokens, bits)
    return line(small, _at(run, small, tokens, bits), large, _at(run, large, tokens, bits), layers)


def _at(run: DryRun, layers: int, tokens: int, bits: int) -> Measured:
    with run._faked(layers) as engine, ExitStack() as stack:
        tracker = PeakTracker()
        model: Any = engine.model.eval()
        tracker.adopt(tensors_of(model), "model")
        held = tracker.live
        for entered in (torch.no_grad(), engine._autocast(), tracker):
            stack.enter_context(entered)
        cache, ids = cache_of(engine.base.config, bits), torch.ones(1, tokens, dtype=torch.long)
        for part, seen in ((ids, tokens), (ids[:, :1], tokens + 1)):
            mask = torch.ones(1, seen, dtype=torch.long)
            asked = {"input_ids": part, "attention_mask": mask, "past_key_values": cache, "logits_to_keep": 1}
            model(**asked, use_cache=True).logits[:, -1].float().argmax(-1)
        return {"model": held, "peak": tracker.peak}
