"""The head and the loss, in chunks: the logits of a whole sequence never exist at once.

4,096 tokens of StarCoder2's 49,152-word logits are 768 MiB in float32, and as much again for their gradient. Only
the gradient of the hidden states has to outlive a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

Tensor = torch.Tensor
Head = Callable[[Tensor], Tensor]
CHUNK = 512  # positions; 96 MiB of float32 logits at StarCoder2's vocabulary


def backward_weighted(head: Head, hidden: Tensor, targets: Tensor, weights: Tensor, normaliser: float) -> float:
    """Back-propagate `sum(weight * nll) / normaliser` into `hidden` and the head; return `sum(weight * nll)`.

    hidden `[positions, width]` with a graph behind it, targets `[positions]`, weights `[positions]`. Positions of
    weight 0 are neither computed nor scored. Exact: the same sums as the plain loss, up to rounding.
    """
    scored = weights.nonzero().squeeze(-1)
    leaf = hidden.detach()[scored].requires_grad_()
    total = 0.0
    for part in _chunks(len(scored)):
        nll = _nll(head(leaf[part]), targets[scored[part]])
        weighted = (nll * weights[scored[part]]).sum()
        (weighted / normaliser).backward()
        total += weighted.item()
    if leaf.grad is not None:
        hidden.backward(torch.zeros_like(hidden).index_copy_(0, scored, leaf.grad))
    return total


def token_nll(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood (nats, float32) `[positions]` of `targets` after `hidden` `[positions, width]`."""
    parts = [_nll(head(hidden[part]), targets[part]) for part in _chunks(len(targets))]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))
