"""A small deterministic engine in numpy: a bigram softmax with dropout, its gradient by hand, and a real Adam."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from longrepo.config.schema import ContextSettings
from longrepo.engines.base import Batch, StepMethod
from longrepo.errors import OutOfMemory
from longrepo.rope.apply import describe_context, write_context

VOCABULARY = 12
FROZEN = 8


class FakeEngine:
    """Implements `longrepo.engines.base.Engine`. `explode_at` and `fails` let tests provoke what they need: an update
    whose gradient isn't finite, and calls that run out of memory. The rows of `weights` up to `FROZEN` stand for the
    largest LoRA module."""

    name = "fake"
    device = "cpu"
    pad_id = 0

    def __init__(self, seed: int = 0, explode_at: int | None = None, dropout: float = 0.1) -> None:
        self.weights = np.random.default_rng(seed).normal(0, 0.1, (VOCABULARY, VOCABULARY))
        self.first, self.second, self.steps = np.zeros_like(self.weights), np.zeros_like(self.weights), 0
        self.gradient = np.zeros_like(self.weights)
        self.choices: list[tuple[str, str]] = []
        self.explode_at, self.dropout = explode_at, dropout
        self.accumulated: list[int] = []  # rows of each micro-batch, for tests
        self.scored = 0
        self.method = StepMethod()
        self.used: list[str] = []
        self.fails: Callable[[str], bool] = lambda call: False  # whether this "accumulate" or "score" runs out
        self.frozen: tuple[str, ...] = ()
        self.longest = 0  # tokens of the longest row accumulated
        self.rates: list[float] = []
        self.context = ContextSettings()
        self.positions: list[str] = []  # everything `position` was told
        self.offset: Callable[[ContextSettings], float] = lambda context: 0.0  # nats that positions add to every score

    def _log_probabilities(self, weights: np.ndarray, ids: np.ndarray) -> np.ndarray:
        logits = weights[ids]
        logits = logits - logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def use(self, method: StepMethod, scratch: Path | None = None) -> None:
        self.method = method
        self.used.append(str(method))

    def chunked_unsupported_reason(self) -> str | None:
        return None

    def position(self, context: ContextSettings) -> None:
        self.context = context
        self.positions.append(describe_context(context))

    def freeze(self, modules: Sequence[str]) -> int:
        self.frozen = tuple(modules)
        self.first[:FROZEN] = self.second[:FROZEN] = 0
        return FROZEN * VOCABULARY

    def _run_out(self, call: str) -> None:
        if self.fails(call):
            self.gradient += 1  # undefined, as the protocol says
            raise OutOfMemory("fake: out of memory in a step; the rest of the sentence")

    def accumulate(self, batch: Batch, normalizer: float, key: int) -> float:
        self._run_out("accumulate")
        self.longest = max(self.longest, int(batch.lengths.max()))
        self.accumulated.append(len(batch.input_ids))
        keep = np.random.default_rng(key).random(self.weights.shape) >= self.dropout
        weights = self.weights * keep
        before, after = batch.input_ids[:, :-1].ravel(), batch.input_ids[:, 1:].ravel()
        share = batch.loss_weights[:, 1:].ravel().astype(np.float64)
        logs = self._log_probabilities(weights, before)
        slope = np.exp(logs)
        slope[np.arange(len(after)), after] -= 1
        gradient = np.zeros_like(self.weights)
        np.add.at(gradient, before, slope * (share / normalizer)[:, None])
        self.gradient += gradient * keep
        return float(-(logs[np.arange(len(after)), after] * share).sum())

    def apply_update(self, learning_rate: float, max_grad_norm: float) -> float:
        if self.frozen:
            self.gradient[:FROZEN] = 0
        norm = float(np.sqrt((self.gradient**2).sum()))
        gradient = self.gradient * min(1.0, max_grad_norm / (norm + 1e-6))
        self.steps += 1
        self.rates.append(learning_rate)
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.weights = self.weights - learning_rate * first / (np.sqrt(second) + 1e-8)
        self.drop_gradients()
        return float("nan") if self.steps == self.explode_at else norm

    def drop_gradients(self) -> None:
        self.gradient = np.zeros_like(self.weights)

    def score(self, batch: Batch) -> np.ndarray:
        self._run_out("score")
        self.scored += len(batch.input_ids)
        scores = np.zeros(batch.input_ids.shape, dtype=np.float32)
        for row, length in enumerate(batch.lengths):
            ids = batch.input_ids[row, :length]
            logs = self._log_probabilities(self.weights, ids[:-1])
            scores[row, 1:length] = -logs[np.arange(length - 1), ids[1:]] + self.offset(self.context)
        return scores

    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        return [int(self.weights[prompt[-1]].argmax())] * max_new_tokens

    @contextmanager
    def base_only(self) -> Iterator[None]:
        yield

    def save_adapter(self, folder: Path) -> None:
        save_file({"weights": self.weights}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        write_context(folder, self.context)

    def load_adapter(self, folder: Path) -> None:
        self.weights = load_file(folder / "adapter_model.safetensors")["weights"]

    def save_optimizer(self, file: Path) -> None:
        save_file({"first": self.first, "second": self.second, "steps": np.array([self.steps])}, file)

    def load_optimizer(self, file: Path) -> None:
        saved = load_file(file)
        self.first, self.second, self.steps = saved["first"], saved["second"], int(saved["steps"][0])

    def peak_memory(self) -> int:
        return 1 << 20

    def reset_peak_memory(self) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {"versions": {"fake": "1"}}
