"""The engine protocol: all that the loop needs of a framework.

An engine knows no phases, files of sequences, or metrics; the loop knows no framework. Every source of randomness
inside an engine is derived from the `key` it is given, so that an engine has no random state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from longrepo.config.schema import ContextSettings
from longrepo.engines.method import Method


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences. A padded position has `loss_weights` 0 and lies at or after its row's `lengths`.

    input_ids: int64 `[rows, tokens]`; loss_weights: float32 `[rows, tokens]`, the weight of each token as a
    *target* (column 0 is ignored: nothing predicts it); lengths: int64 `[rows]`, in tokens.
    """

    input_ids: npt.NDArray[np.int64]
    loss_weights: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]

    @property
    def weight(self) -> float:
        """The sum of the weights that count (column 0 does not)."""
        return float(self.loss_weights[:, 1:].sum(dtype=np.float64))

    @staticmethod
    def of(sequences: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], pad_id: int) -> Batch:
        """Pad (tokens, loss weights) pairs, each `[tokens]`, on the right to the longest of them."""
        lengths = np.array([np.size(tokens) for tokens, _ in sequences], dtype=np.int64)
        ids = np.full((len(sequences), int(lengths.max())), pad_id, dtype=np.int64)
        weights = np.zeros(ids.shape, dtype=np.float32)
        for row, (tokens, row_weights) in enumerate(sequences):
            ids[row, : lengths[row]] = tokens
            weights[row, : lengths[row]] = row_weights
        weights[:, 0] = 0
        return Batch(ids, weights, lengths)


def scored_positions(
    ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], start: int, end: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Among the positions from `start` to `end` of each row, flattened; ids, weights `[rows, tokens]`: those that are
    scored, the token that follows each, and its weight, `[scored]`. The weight of token p + 1 scores position p."""
    targets, following = np.zeros((len(ids), end - start), np.int64), np.zeros((len(ids), end - start), np.float32)
    there = min(end + 1, ids.shape[1]) - (start + 1)  # the last token is followed by none
    targets[:, :there] = ids[:, start + 1 : start + 1 + there]
    following[:, :there] = weights[:, start + 1 : start + 1 + there]
    at = np.flatnonzero(following)
    return at, targets.ravel()[at], following.ravel()[at]


class Engine(Protocol):
    """A 4-bit base with a LoRA adapter, and one optimizer over the adapter (and the structure-token rows); or, with
    `training.weights=all`, a model and one optimizer over all its weights, which then stand where an adapter would."""

    name: str
    device: str
    pad_id: int
    choices: list[tuple[str, str]]  # (what was chosen, why), for the terminal and the run's records
    method: Method  # how micro-batches are computed; set with `use`

    def use(self, method: Method, scratch: Path | None = None) -> None:
        """Compute from here on by `method`; a disk store lies in the folder `scratch`.

        Raises InputError where the model can't be computed so, RunError where the folder can't be written.
        """
        ...

    def why_not_chunked(self) -> str | None:
        """Why this model can't be computed in chunks; None where it can."""
        ...

    def position(self, context: ContextSettings) -> None:
        """Compute from here on at these positions, with the same weights. Raises InputError where the model can't be
        computed so; it then stays as it was."""
        ...

    def accumulate(self, batch: Batch, normaliser: float, key: int) -> float:
        """Add the gradient of `sum(weight * nll) / normaliser` to what is held; return `sum(weight * nll)` (nats).

        `key` (0 ≤ key < 2**63) seeds the dropout masks: the same key and batch give the same gradient. Raises
        OutOfMemory; what was accumulated until then is undefined: `drop_gradients` and begin the update anew.
        """
        ...

    def apply_update(self, learning_rate: float, max_grad_norm: float) -> float:
        """Clip by global norm, take one AdamW step, drop the gradients; return the norm before clipping."""
        ...

    def drop_gradients(self) -> None:
        """Forget what was accumulated since the last update."""
        ...

    def freeze(self, modules: Sequence[str]) -> int:
        """Train the adapter's weights in these modules (names as in `lora.target_modules`) no further: they keep
        their values, their gradients and optimizer state are dropped. Return how many parameters that is."""
        ...

    def score(self, batch: Batch) -> npt.NDArray[np.float32]:
        """The negative log-likelihood of each token given those before it, nats, `[rows, tokens]`.

        Only where the loss weight isn't 0: the head is computed there alone. Elsewhere 0. No dropout, no gradient.
        """
        ...

    def generate(
        self, prompt: Sequence[int], max_new_tokens: int, *, bits: int = 16, tick: Callable[[], None] | None = None
    ) -> list[int]:
        """Greedy continuation of a prompt, without the prompt, up to and without the end token. `bits` of the cached
        keys and values: 8 or 4 where `key_values.why_not` has nothing against it. `tick` is called at each new token.
        """
        ...

    def base_only(self) -> AbstractContextManager[None]:
        """While entered, the adapter and the trained rows are off: the model is the base. Where all weights are
        trained, it has those that they began as, and its own again afterwards, bit for bit; raises InputError where
        these can't be had."""
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` in PEFT's format into an existing folder; where
        all weights are trained, a model as transformers loads it."""
        ...

    def load_adapter(self, folder: Path) -> None:
        """Set what is trained from such a folder. Raises InputError where shapes or modules differ."""
        ...

    def save_optimizer(self, file: Path) -> None:
        """Write the optimizer's whole state (moments, step counts) as safetensors."""
        ...

    def load_optimizer(self, file: Path) -> None:
        """Set the optimizer's state from such a file; bit-identical to what was saved."""
        ...

    def peak_memory(self) -> int:
        """Bytes at the highest since the last reset: the device allocator's, or the process's on a CPU."""
        ...

    def reset_peak_memory(self) -> None: ...

    def facts(self) -> dict[str, Any]:
        """Versions, dtypes and parameter counts (total, trainable) for the run's records."""
        ...
