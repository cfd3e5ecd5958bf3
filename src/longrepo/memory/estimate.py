"""Estimate the memory of one training step, by part, from cached dry runs of the real step (torch) or measurements on
the device (MLX); and the methods that can compute a step, ordered by what they need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from longrepo.config.schema import Settings
from longrepo.engines.base import FIXED_PARTS, StepBytes, StepMethod, extrapolate
from longrepo.utils.cache import JsonCache

if TYPE_CHECKING:
    from longrepo.engines.registry import EngineName


SETTLING_CHUNKS = 24
MLX_PLAIN_TOKENS = (512, 1024)  # lengths measured of a plain step
MLX_CHUNKED_TOKENS = 2048  # and twice as many: lengths measured of a chunked step without a window, or a longer window
LIBRARIES = {"torch": ("torch", "transformers", "peft", "bitsandbytes"), "mlx": ("mlx", "mlx-lm", "transformers")}


class DryRun(Protocol):
    """`longrepo.engines.torch.dry_run.TorchDryRun`, or `longrepo.engines.mlx.measure.MlxMeasurement`."""

    def whole(self, tokens: int) -> StepBytes: ...

    def chunked_unsupported_reason(self) -> str | None: ...


@dataclass(frozen=True)
class StepMemory:
    """Bytes of tensors at the peak of a step: what a run always holds, what the step keeps of each layer for its
    backward pass, and its working memory. `head` is the most that logits and loss take (at another moment);
    `disk_held` is the size of the disk store, `disk_written` what a step writes to it."""

    weights: int
    adapter: int
    gradients: int
    moments: int
    kept: int
    working: int
    head: int
    disk_written: int = 0
    disk_held: int = 0

    @property
    def peak(self) -> int:
        return self.weights + self.adapter + self.gradients + self.moments + self.kept + self.working

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"peak": self.peak}

    @staticmethod
    def of(measured: Mapping[str, int]) -> StepMemory:
        fixed = {name: measured[name] for name in FIXED_PARTS}
        base = sum(fixed.values())
        peak = max(value for name, value in measured.items() if name.startswith("peak "))
        kept = min(measured["kept"], peak - base)
        return StepMemory(
            **fixed,
            kept=kept,
            working=peak - base - kept,
            head=max(0, measured["peak head"] - base - measured["kept"]),
            disk_written=measured["disk_written"],
            disk_held=measured["disk_held"],
        )


class Estimator:
    """Estimates steps of one model and one set of settings on one kind of device, in `dtype` (`bfloat16` or `float32`),
    by one engine."""

    def __init__(
        self, config: Any, settings: Settings, device: str, dtype: str, added: int, engine: EngineName = "torch"
    ) -> None:
        self.config, self.settings, self.device, self.dtype, self.added = config, settings, device, dtype, added
        self.engine: EngineName = engine
        self._kept = JsonCache("dry_runs.json")

    @cached_property
    def window(self) -> int | None:
        """Tokens that the model's windowed layers see, or None if it has no such layers."""
        kinds = getattr(self.config, "layer_types", None) or ["sliding_attention"]
        return getattr(self.config, "sliding_window", None) if "sliding_attention" in kinds else None

    @cached_property
    def chunked_unsupported_reason(self) -> str | None:
        """Why the architecture can't be trained in chunks, or None if it can."""
        key = self._key(StepMethod("chunked", 0), 0)
        if (found := self._kept.get(key)) is None:
            found = {"why_not": self.dry_run(StepMethod()).chunked_unsupported_reason()}
            self._kept.put(key, found)
        reason: str | None = found["why_not"]
        return reason

    @cached_property
    def model_bytes(self) -> tuple[int, int]:
        """Bytes of the base's weights, and of the adapter with the trained rows."""
        if self.engine == "mlx":
            import mlx.core as mx

            from longrepo.engines.mlx.measure import model_bytes

            return model_bytes(self.config, self.settings, getattr(mx, self.dtype), self.added)
        step = self.step(StepMethod(), 2)
        return step.weights, step.adapter

    def step(self, method: StepMethod, tokens: int) -> StepMemory:
        """Estimate a step of `batch_size_reference` sequences of `tokens` tokens, over a whole accumulation window."""
        lengths = self._mlx_lengths(method, tokens) if self.engine == "mlx" else self._lengths(method, tokens)
        measured = [self._measured(method, length) for length in lengths]
        if lengths == (tokens,):
            return StepMemory.of(measured[0])
        if len(lengths) == 1:
            return StepMemory.of(extrapolate_kept(lengths[0], measured[0], tokens))
        line = extrapolate_square if method.step == "plain" else extrapolate
        return StepMemory.of(line(lengths[0], measured[0], lengths[1], measured[1], tokens))

    def _lengths(self, method: StepMethod, tokens: int) -> tuple[int, ...]:
        """The lengths to dry-run: this one, or two shorter ones that end in a chunk like its last. From there on every
        peak grows by the same for each chunk: beyond the window once a whole chunk sees all of it; without a window
        once the keys outweigh what doesn't grow with them."""
        if method.step == "plain":
            return (tokens,)
        chunk, rest = method.chunk, (tokens - 1) % method.chunk + 1
        settled, apart = (-(-self.window // chunk) + 1, 1) if self.window else (SETTLING_CHUNKS, SETTLING_CHUNKS)
        first = rest + settled * chunk
        second = first + apart * chunk
        return (tokens,) if tokens <= second else (first, second)

    def _mlx_lengths(self, method: StepMethod, tokens: int) -> tuple[int, ...]:
        """The lengths to measure: bounded, since they are really computed. A plain step grows with the square of the
        length; a chunked one as a line without a window (or one longer than is measured: then a line is too high); and
        once a window is full, only by what is kept, so that one length tells."""
        if method.step == "plain":
            return (tokens,) if tokens <= MLX_PLAIN_TOKENS[1] else MLX_PLAIN_TOKENS
        chunk, rest = method.chunk, (tokens - 1) % method.chunk + 1
        if self.window and self.window <= 2 * MLX_CHUNKED_TOKENS:
            return (min(tokens, rest + (-(-self.window // chunk) + 1) * chunk),)
        first = rest + max(2, MLX_CHUNKED_TOKENS // chunk) * chunk
        return (tokens,) if tokens <= 2 * first - rest else (first, 2 * first - rest)

    def _measured(self, method: StepMethod, tokens: int) -> StepBytes:
        key = self._key(method, tokens)
        measured: StepBytes | None = self._kept.get(key)
        if measured is None:
            measured = self.dry_run(method).whole(tokens)
            self._kept.put(key, measured)
        return measured

    def dry_run(self, method: StepMethod) -> DryRun:
        if self.engine == "mlx":
            import mlx.core as mx

            from longrepo.engines.mlx import measure as on_mlx

            return on_mlx.MlxMeasurement(
                self.config, self.settings, method, self.device, getattr(mx, self.dtype), self.added
            )
        import torch

        from longrepo.engines.torch import dry_run as on_torch

        return on_torch.TorchDryRun(
            self.config, self.settings, method, self.device, getattr(torch, self.dtype), self.added
        )

    def _key(self, method: StepMethod, tokens: int) -> str:
        training, lora = self.settings.training, self.settings.lora
        matters = {
            "config": self.config.to_dict(),
            "method": method.as_dict(),
            "tokens": tokens,
            "device": self.device,
            "dtype": self.dtype,
            "added": self.added,
            "base": [self.settings.model.quantization, self.settings.model.double_quantization],
            "lora": [lora.r, lora.dropout > 0, lora.target_modules],
            "training": [training.weights, training.batch_size_reference, training.use_gradient_checkpointing],
            "code": code_identity(self.engine),
        }
        return hashlib.sha256(json.dumps(matters, sort_keys=True, default=str).encode()).hexdigest()[:32]


def extrapolate_kept(x1: int, measured: StepBytes, x: int) -> StepBytes:
    """Bytes at `x` tokens, where from `x1` tokens on only what is kept grows, in proportion to the predicted tokens."""
    share = (x - 1) / (x1 - 1)
    grown = round(measured["kept"] * (share - 1))
    scaled = {name: round(measured[name] * share) for name in ("kept", "disk_written", "disk_held")}
    parts = (name for name in measured if name.startswith("peak ") and name != "peak update" and measured[name])
    return measured | scaled | {name: measured[name] + grown for name in parts}


def extrapolate_square(x1: int, first: StepBytes, x2: int, second: StepBytes, x: int) -> StepBytes:
    """Bytes at `x` tokens, where what a step needs above its fixed parts is `a x + b x²`, with `b` not negative."""
    fixed = sum(first[name] for name in FIXED_PARTS)

    def at(name: str) -> int:
        if name in FIXED_PARTS:
            return first[name]
        base = fixed if name.startswith("peak ") and first[name] else 0
        one, other = ((measured[name] - base) / n for n, measured in ((x1, first), (x2, second)))
        return base + round(x * (other + max(0.0, other - one) / (x2 - x1) * (x - x2)))

    return {name: at(name) for name in first}


@cache
def code_identity(engine: EngineName = "torch") -> str:
    """A text that changes with the engine's code and with the libraries that it computes with."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    engines = Path(__file__).parents[1] / "engines"
    for file in sorted((*engines.glob("*.py"), *(engines / engine).rglob("*.py"))):
        digest.update(file.read_bytes())
    return "/".join((engine, digest.hexdigest()[:16], *map(version, LIBRARIES[engine])))


class MethodEstimate(Protocol):
    """A method as planned for sequences of `length` tokens: it needs `peak` bytes, and `disk_held` on disk, where a
    micro-batch writes `disk_written`. Asking for them may take seconds the first time."""

    @property
    def method(self) -> StepMethod: ...

    @property
    def length(self) -> int: ...

    @property
    def peak(self) -> int: ...

    @property
    def disk_held(self) -> int: ...

    @property
    def disk_written(self) -> int: ...


@dataclass(frozen=True)
class Methods:
    """The methods for one length in the planner's order of preference, the chosen one, and the bytes that a store may
    hold on disk (None: any number).

    Down means less memory: first another store with the same chunks, which changes no bit; then smaller chunks, the
    largest of them first; then whatever else needs less.
    """

    estimates: tuple[MethodEstimate, ...]
    chosen: MethodEstimate
    disk: int | None = None

    def of(self, method: StepMethod) -> MethodEstimate | None:
        return next((estimate for estimate in self.estimates if estimate.method == method), None)

    def start(self, method: StepMethod | None = None, ceiling: int | None = None) -> MethodEstimate:
        """The estimate of `method` (the chosen one if there is no method, or it isn't listed) if it is planned below
        `ceiling` bytes; else the next that is; else the one that needs least."""
        first = (self.of(method) if method else None) or self.chosen
        if ceiling is None or first.peak < ceiling:
            return first
        below = next((estimate for estimate in self._lower_estimates(first) if estimate.peak < ceiling), None)
        return below or min((first, *self._lower_estimates(first)), key=lambda estimate: estimate.peak)

    def lower(self, current: MethodEstimate, room: int | None = None) -> MethodEstimate | None:
        """The next estimate below `current`: within `room` bytes if any is, else the one that needs least; None if
        `current` is the lowest. Without `room` simply the next."""
        following = next(
            (estimate for estimate in self._lower_estimates(current) if room is None or estimate.peak <= room), None
        )
        return following or min(self._lower_estimates(current), key=lambda estimate: estimate.peak, default=None)

    def _lower_estimates(self, current: MethodEstimate) -> Iterator[MethodEstimate]:
        """Those that need less, in order; each is planned only when its turn comes."""

        def order(estimate: MethodEstimate) -> tuple[int, int]:
            if differ_in_store_only(estimate.method, current.method):
                return 0, 0
            smaller = estimate.method.step == "chunked" and (
                current.method.step == "plain" or estimate.method.chunk < current.method.chunk
            )
            return (1, -estimate.method.chunk) if smaller else (2, estimate.method.chunk)

        for estimate in sorted(self.estimates, key=order):
            if estimate.method != current.method and self._has_disk(estimate) and estimate.peak < current.peak:
                yield estimate

    def _has_disk(self, estimate: MethodEstimate) -> bool:
        return estimate.method.store != "disk" or self.disk is None or estimate.disk_held <= self.disk


def differ_in_store_only(one: StepMethod, other: StepMethod) -> bool:
    """Whether two methods give the same bits: they differ in the store alone."""
    return (one.step, one.chunk) == (other.step, other.chunk)
