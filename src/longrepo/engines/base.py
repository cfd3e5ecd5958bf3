"""The engine protocol, which is everything that training needs from a framework, and the types it speaks in.

An engine knows no phases, sequence files or metrics; the training loop knows no framework. All randomness inside an
engine is derived from the `key` that is passed in, so that an engine has no random state to save. Every engine reports
errors (a model that can't be loaded, memory that runs out) in the same words.

A step method says how a micro-batch is computed: plainly or in chunks, and where a chunked step stores what its
backward pass needs. Every method computes the same loss and gradients. The store never changes a bit; the chunk size
changes rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from longrepo.config.schema import ContextSettings
from longrepo.engines.prompt_cache import PromptCache, PromptProgress
from longrepo.errors import InputError, OutOfMemory

TokenChooser = Callable[[npt.NDArray[np.float32]], int]  # scores `[vocabulary]` to the id of the next token
StepKind = Literal["plain", "chunked"]
StoreKind = Literal["memory", "recompute", "disk"]


@dataclass(frozen=True)
class StepMethod:
    """`plain`: one graph for a sequence (with checkpointed layers if `training.use_gradient_checkpointing` is set).
    `chunked`: reverse mode in chunks of `chunk` tokens. Each layer's inputs, keys and values are kept in memory or on
    disk; `recompute` keeps only the input of every `every`-th layer and computes the layers in between again."""

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
        """Read what `as_dict` wrote. Raises TypeError if it isn't a method."""
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
        """The sum of all weights except column 0, which is never a target."""
        return float(self.loss_weights[:, 1:].sum(dtype=np.float64))

    @staticmethod
    def dummy(tokens: int, rows: int = 1, scored: int | None = None) -> Batch:
        """A batch for planning and timing: token 1 throughout; the last `scored` tokens are targets, None for all."""
        left_out = tokens - (tokens if scored is None else scored)
        return Batch.of([([1] * tokens, [0.0] * left_out + [1.0] * (tokens - left_out))] * rows, 0)

    @staticmethod
    def of(sequences: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], pad_id: int) -> Batch:
        """Pad (tokens, loss weights) pairs, each `[tokens]`, on the right to the longest one."""
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
    """Return which positions from `start` to `end` of each row are scored, the token that follows each, and its weight.

    `ids` and `weights` are `[rows, tokens]`; the results are `[scored]`, indices into the flattened positions. The
    weight of token p + 1 scores position p."""
    targets, following = np.zeros((len(ids), end - start), np.int64), np.zeros((len(ids), end - start), np.float32)
    count = min(end + 1, ids.shape[1]) - (start + 1)  # nothing follows the last token
    targets[:, :count] = ids[:, start + 1 : start + 1 + count]
    following[:, :count] = weights[:, start + 1 : start + 1 + count]
    at = np.flatnonzero(following)
    return at, targets.ravel()[at], following.ravel()[at]


class Engine(Protocol):
    """A 4-bit base with a LoRA adapter and one optimizer for the adapter (and the structure-token rows). With
    `training.weights=all` it is a model with one optimizer for all its weights, which then take the adapter's place."""

    name: str
    device: str
    pad_id: int
    choices: list[tuple[str, str]]  # (choice, reason), for the terminal and the run's records
    method: StepMethod  # how micro-batches are computed; set with `use`

    def use(self, method: StepMethod, scratch: Path | None = None) -> None:
        """Use `method` from now on; a disk store is made in the folder `scratch`.

        Raises InputError if the model doesn't support the method, RunError if the folder isn't writable.
        """
        ...

    def chunked_unsupported_reason(self) -> str | None:
        """Return why this model can't be computed in chunks, or None if it can."""
        ...

    def position(self, context: ContextSettings) -> None:
        """Use these positions from now on, with the same weights. Raises InputError if the model doesn't support them;
        it then stays unchanged."""
        ...

    def accumulate(self, batch: Batch, normalizer: float, key: int) -> float:
        """Add the gradient of `sum(weight * nll) / normalizer` to the accumulated one; return `sum(weight * nll)`
        (nats).

        `key` (0 ≤ key < 2**63) seeds the dropout masks: the same key and batch give the same gradient. Raises
        OutOfMemory; the accumulated gradient is then undefined: call `drop_gradients` and start the update again.
        """
        ...

    def apply_update(self, learning_rate: float, max_grad_norm: float) -> float:
        """Clip by global norm, take one AdamW step and drop the gradients; return the norm before clipping."""
        ...

    def drop_gradients(self) -> None:
        """Drop what was accumulated since the last update."""
        ...

    def freeze(self, modules: Sequence[str]) -> int:
        """Stop training the adapter's weights in these modules (names as in `lora.target_modules`): they keep their
        values, their gradients and optimizer state are dropped. Return the number of frozen parameters."""
        ...

    def score(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the negative log-likelihood of each token given the tokens before it, in nats, `[rows, tokens]`.

        Only tokens with a loss weight are computed; the others are 0. No dropout, no gradient.
        """
        ...

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        bits: int = 16,
        tick: Callable[[], None] | None = None,
        choose: TokenChooser | None = None,
        kept: PromptCache | None = None,
        progress: PromptProgress | None = None,
    ) -> Generator[int]:
        """Yield the continuation of a prompt token by token, without the end token; each token is computed on demand.

        `choose` picks each token from its scores (float32), in order, and may be called for one token more than is
        yielded; None is greedy. `bits` per cached key and value: 8 or 4 only if the engine's `unsupported_bits_reason`
        is None. `tick` is called for each new token, the end token included.

        The prompt is read in parts of `PROMPT_PART` tokens, between which `progress` may raise. What `kept` holds of
        its beginning isn't computed again, and what is computed is kept there; with no new tokens that is all.

        Exhaust or close the generator, in the thread that started it, before the engine computes anything else.
        """
        ...

    def kept_bytes(self, tokens: int, bits: int = 16) -> int:
        """Return about how many bytes the keys and values of a text have in a `PromptCache`, at the current
        positions."""
        ...

    def generate(
        self, prompt: Sequence[int], max_new_tokens: int, *, bits: int = 16, tick: Callable[[], None] | None = None
    ) -> list[int]:
        """Return the greedy continuation, all tokens of `stream`."""
        ...

    def base_only(self) -> AbstractContextManager[None]:
        """Switch the adapter and the trained rows off inside the context, so that the model is the base. If all weights
        are trained, the model has its initial weights inside and its own again afterwards, bit for bit; raises
        InputError if the initial weights aren't available."""
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` in PEFT's format into an existing folder; if all
        weights are trained, write a model that transformers loads."""
        ...

    def load_adapter(self, folder: Path) -> None:
        """Load the trained weights from a folder that `save_adapter` wrote. Raises InputError if shapes or modules
        differ."""
        ...

    def save_optimizer(self, file: Path) -> None:
        """Write the optimizer's complete state (moments, step counts) as safetensors."""
        ...

    def load_optimizer(self, file: Path) -> None:
        """Load the optimizer's state from a file that `save_optimizer` wrote, bit for bit."""
        ...

    def peak_memory(self) -> int:
        """Return the peak in bytes since the last reset: the device allocator's, or the process's on a CPU."""
        ...

    def reset_peak_memory(self) -> None: ...

    def facts(self) -> dict[str, Any]:
        """Return versions, dtypes and parameter counts (total, trainable) for the run's records."""
        ...


class Placement(NamedTuple):
    """A model's device and precision. `kind`: `cuda`, `mps` or `cpu`; with MLX `metal` or `cpu`. `dtype_name` of the
    base's unquantized weights: `bfloat16` or `float32`. `choices`: (choice, reason) pairs."""

    kind: str
    dtype_name: str
    choices: tuple[tuple[str, str], ...] = ()


FIXED_PARTS = ("weights", "adapter", "gradients", "moments")
StepBytes = dict[str, int]  # bytes by name; names that begin with `peak ` belong to the step's phases


def extrapolate(x1: int, first: StepBytes, x2: int, second: StepBytes, x: int) -> StepBytes:
    """Evaluate the straight line through two measurements at `x`."""
    return {name: first[name] + round((second[name] - first[name]) * (x - x1) / (x2 - x1)) for name in first}


MODEL_DROPOUTS = (
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "residual_dropout",
)  # set to 0: lora.dropout is the only one


def layer_types(config: Any) -> list[str] | None:
    """Return the type of each layer by a transformers configuration, or None if it doesn't tell."""
    return getattr(config, "layer_types", None) or None


def probe_depths(config: Any, method: StepMethod) -> tuple[int, int]:
    """Return two small numbers of layers whose last layers are like the whole model's.

    They differ by the period of the layer types and of the layers that are recomputed together; the smaller holds a
    layer of each type and at least two groups of the latter."""
    kinds = layer_types(config) or ["layer"]
    period = next(n for n in range(1, len(kinds) + 1) if all(k == kinds[i % n] for i, k in enumerate(kinds)))
    every = method.every if method.store == "recompute" else 1
    step = math.lcm(period, every)
    small = (config.num_hidden_layers - 1) % step + 1
    while small <= every > 1 or set(kinds[:small]) < set(kinds):
        small += step
    return small, small + step


def truncate_config(config: Any, layers: int) -> Any:
    """Return a copy of a transformers configuration with `layers` layers and without the base's own dropouts."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    for name in MODEL_DROPOUTS:
        if getattr(config, name, 0):
            setattr(config, name, 0.0)
    return config


def check_model_type(published: Mapping[str, Any]) -> None:
    """Raise InputError if only code of a model's own, which is never run, computes it, or if it sees images too and
    transformers, so PEFT as well, has no class for its language model alone. `published`: config.json."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, code = published.get("model_type"), published.get("auto_map")
    if code and kind not in CONFIG_MAPPING:
        raise InputError(
            f"its config.json asks for code of its own (auto_map), which is never run, and transformers has no model "
            f"type {kind}; take a base of an architecture that transformers has (longrepo bases)"
        )
    if "text_config" in published and not MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(kind), "").endswith("ForCausalLM"):
        text = published["text_config"].get("model_type") or "text"
        raise InputError(
            f"it is a {kind}, which sees images too, and transformers has no class for its language model alone; take "
            f"a base of text ({text}, or see longrepo bases)"
        )


@contextmanager
def load_errors(model: str) -> Iterator[None]:
    """Turn everything that is wrong with a model's folder or name into one InputError that names the model."""
    try:
        yield
    except InputError as error:
        named = str(error).startswith((f"model {model}:", f"--model {model}:"))
        raise InputError(str(error) if named else f"model {model}: {error}") from None
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {model}: can't be loaded ({reason}); give a hub name with network access, "
            "a local Hugging Face folder, or --model embedded"
        ) from None


@contextmanager
def oom_as_error(device: str, tokens: int, words: Sequence[str]) -> Iterator[None]:
    """Turn a RuntimeError whose text contains one of `words` into OutOfMemory, for a step of `tokens` tokens."""
    try:
        yield
    except RuntimeError as error:
        if not any(one in str(error) for one in words):
            raise
        raise OutOfMemory(
            f"{device}: out of memory in a step of {tokens} tokens; the checkpoints are whole: end other programs, or "
            "leave out the longest phase, or lower lora.r, and go on with --resume auto"
        ) from None
