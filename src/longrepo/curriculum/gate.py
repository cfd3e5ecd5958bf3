"""Two verdicts on validation losses: whether a phase may follow the one before it, whether one has stopped learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WORST_ENDING = 0.02  # a phase may end at most this share above its best: more is overfitting, which length won't cure


@dataclass(frozen=True)
class Verdict:
    go: bool
    because: str


def converged(before: int, start: float | None, epochs: Sequence[float], min_delta: float, phase: int) -> Verdict:
    """The rule of `auto` for `phase`: the best validation loss of the phase `before` it lies at least the share
    `min_delta` below the loss at that phase's start, and its last epoch at most 2 % above that best. Losses in nats."""
    out = f"phase {phase} is left out: phase {before}"
    if start is None or not epochs:
        return Verdict(False, f"{out} wasn't trained, so there is nothing to judge it by")
    best, last = min(epochs), epochs[-1]
    fell = (start - best) / start if start > 0 else 0.0
    if fell < max(min_delta, 0.0) or best >= start:
        return Verdict(
            False,
            f"{out} brought the validation loss from {start:.4f} only to {best:.4f} ({fell:+.2%} below its start; "
            f"needed {min_delta:.2%})",
        )
    if last > best * (1 + WORST_ENDING):
        return Verdict(
            False,
            f"{out} ended at {last:.4f}, {last / best - 1:.1%} above its best {best:.4f} (allowed {WORST_ENDING:.0%})",
        )
    return Verdict(
        True,
        f"phase {phase} follows: phase {before} brought the validation loss from {start:.4f} to {best:.4f} and ended "
        f"at {last:.4f}",
    )


def should_stop(losses: Sequence[float], patience: int, min_delta: float) -> bool:
    """Early stopping within a phase: whether the last `patience` epochs all failed to lie the share `min_delta`
    below the best epoch before them. Patience 0 never stops."""
    if patience == 0:
        return False
    best, waited = float("inf"), 0
    for loss in losses:
        if loss < best * (1 - min_delta):
            best, waited = loss, 0
        else:
            waited += 1
    return waited >= patience
