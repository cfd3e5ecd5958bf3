"""Compute the head and the loss in chunks, so that the logits of a whole sequence never exist at once.

The logits of 4,096 tokens take 768 MiB in float32 with StarCoder2's vocabulary of 49,152, and their gradient as much
again. Only the gradient of the hidden states has to outlive a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from longrepo.engines.base import scored_positions
from longrepo.engines.chunked import StepObserver

Tensor = torch.Tensor
Head = Callable[[Tensor], Tensor]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
LOSS_CHUNK = 512  # positions; 96 MiB of float32 logits at StarCoder2's vocabulary


def scaled_head(model: Any) -> Head:
    """Return what makes logits of a transformers model's last hidden state: its head and, in Granite, the division by
    `logits_scaling`."""
    head, divisor = model.get_output_embeddings(), getattr(model.config, "logits_scaling", 1.0)
    if divisor == 1.0:
        return head
    # In place: the product keeps no reference to its output, so the backward pass loses nothing.
    return lambda hidden: head(hidden).div_(divisor)


@dataclass(frozen=True)
class TorchScoredPositions:
    """The scored positions of a chunk, `[scored]` each: `at` (indices), `targets` (the token that follows each) and
    `weights`. They are computed on the host, so that a step's shapes depend on no tensor's values."""

    at: Tensor
    targets: Tensor
    weights: Tensor

    @staticmethod
    def of(ids: Int64, weights: Float32, start: int, end: int, device: torch.device) -> TorchScoredPositions:
        """Find them among the flattened positions from `start` to `end` of each row; `ids` and `weights` are
        `[rows, tokens]`. The weight of token p + 1 scores position p."""
        parts = scored_positions(ids, weights, start, end)
        return TorchScoredPositions(*(torch.from_numpy(part).to(device) for part in parts))


def backward_weighted_nll(
    head: Head, hidden: Tensor, scored: TorchScoredPositions, normalizer: float, observer: StepObserver | None = None
) -> list[Tensor]:
    """Back-propagate `sum(weight * nll) / normalizer` into `hidden` and the head; return the parts of
    `sum(weight * nll)`, a scalar each.

    `hidden` is `[positions, width]` and has a graph. Only scored positions are computed. The sums are those of the
    plain loss, up to rounding.
    """
    if not len(scored.at):
        return []
    leaf = hidden.detach()[scored.at].requires_grad_()
    totals = []
    for part in _chunk_slices(len(scored.at)):
        nll = _nll(head(leaf[part]), scored.targets[part])
        weighted = (nll * scored.weights[part]).sum()
        (weighted / normalizer).backward()
        totals.append(weighted.detach())
    assert leaf.grad is not None
    if observer:
        observer.enter("backward")
    hidden.backward(torch.zeros_like(hidden).index_copy_(0, scored.at, leaf.grad))
    return totals


def token_nll(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood (nats, float32) `[positions]` of `targets` for `hidden` `[positions,
    width]`."""
    parts = [_nll(head(hidden[part]), targets[part]) for part in _chunk_slices(len(targets))]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _chunk_slices(length: int) -> Iterator[slice]:
    return (slice(start, start + LOSS_CHUNK) for start in range(0, length, LOSS_CHUNK))
