"""Engine protocol, Batch, Method, EngineName.

How a micro-batch is computed: plainly, or in chunks, and where a chunked step keeps what its backward pass needs.

Every method computes the same loss and gradients. The store never changes a bit; the chunk size changes rounding.

The engine protocol: all that the loop needs of a framework.

An engine knows no phases, files of sequences, or metrics; the loop knows no framework. Every source of randomness
inside an engine is derived from the `key` it is given, so that an engine has no random state to save.

What a dry run measures, and how it grows.

A base's configuration: what is changed of it, and how few layers tell what all need.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from longrepo.config.schema import ContextSettings

StepKind = Literal["plain", "chunked"]
StoreKind = Literal["memory", "recompute", "disk"]


@dataclass(frozen=True)
class StepMethod:
    """`plain`: one graph for a sequence (layers checkpointed as `training.use_gradient_checkpointing` says).
    `chunked`: reverse mode in chunks of `chunk` tokens; each layer's inputs, keys and values are kept in memory, on
    disk, or (`recompute`) only the input of every `every`-th layer, and the layers between are computed again."""

    step: StepKind = "plain"
    chunk: int = 0
    store: StoreKind = "memory"
    every: int = 1

    def __str__(self) -> str:
        if self.step == "plain":
            return "plain"
        kept = f"1 layer in {self.every}" if self.store == "recompute" else self.store
        return f"chunks of {self.chunk}, {kept}"

    def as_dict(self) -> dict[str, str | int]:
        if self.step == "plain":
            return {"step": "plain"}
        kept = {"every": self.every} if self.store == "recompute" else {}
        return {"step": self.step, "chunk": self.chunk, "store": self.store, **kept}

    @staticmethod
    def from_dict(tree: dict[str, str | int]) -> StepMethod:
        """Raises TypeError for what isn't a method."""
        return StepMethod(**tree)  # type: ignore[arg-type]


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
    method: StepMethod  # how micro-batches are computed; set with `use`

    def use(self, method: StepMethod, scratch: Path | None = None) -> None:
        """Compute from here on by `method`; a disk store lies in the folder `scratch`.

        Raises InputError where the model can't be computed so, RunError where the folder can't be written.
        """
        ...

    def chunked_unsupported_reason(self) -> str | None:
        """Why this model can't be computed in chunks; None where it can."""
        ...

    def position(self, context: ContextSettings) -> None:
        """Compute from here on at these positions, with the same weights. Raises InputError where the model can't be
        computed so; it then stays as it was."""
        ...

    def accumulate(self, batch: Batch, normalizer: float, key: int) -> float:
        """Add the gradient of `sum(weight * nll) / normalizer` to what is held; return `sum(weight * nll)` (nats).

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

    def stream(
        self, prompt: Sequence[int], max_new_tokens: int, *, bits: int = 16, tick: Callable[[], None] | None = None
    ) -> Generator[int]:
        """Yield the greedy continuation of a prompt token by token, up to and without the end token; each token is
        computed when it is asked for. `bits` of the cached keys and values: 8 or 4 if the engine's
        `kv_cache.unsupported_bits_reason` gives no reason against it. `tick` is called at each new token, the end token
        included.

        Consume or close it, in the thread that began it, before the engine computes anything else.
        """
        ...

    def generate(
        self, prompt: Sequence[int], max_new_tokens: int, *, bits: int = 16, tick: Callable[[], None] | None = None
    ) -> list[int]:
        """All of `stream`."""
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


StepBytes = dict[str, int]  # bytes by name; names that begin with `peak ` are of the step's phases


def extrapolate(x1: int, first: StepBytes, x2: int, second: StepBytes, x: int) -> StepBytes:
    """The straight line through two measurements, at `x`."""
    return {name: first[name] + round((second[name] - first[name]) * (x - x1) / (x2 - x1)) for name in first}


MODEL_DROPOUTS = (
    "attention_dropout",
    "residual_dropout",
    "embedding_dropout",
)  # set to 0: lora.dropout is the only one


def probe_depths(config: Any, method: StepMethod) -> tuple[int, int]:
    """Numbers of layers that end as the whole model does: they differ by a period of unlike layers, and of those that
    are computed again together. Of the latter there are at least two."""
    kinds = getattr(config, "layer_types", None) or ["layer"]
    period = next(n for n in range(1, len(kinds) + 1) if all(k == kinds[i % n] for i, k in enumerate(kinds)))
    every = method.every if method.store == "recompute" else 1
    step = math.lcm(period, every)
    small = (config.num_hidden_layers - 1) % step + 1
    if small <= every > 1:
        small += step
    return small, small + step


def truncate_config(config: Any, layers: int) -> Any:
    """A configuration of transformers with so many layers, and without the base's own dropouts."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    for name in MODEL_DROPOUTS:
        if getattr(config, name, 0):
            setattr(config, name, 0.0)
    return config
