"""The MLX engine: a 4-bit base from mlx-lm, LoRA, one weighted step."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from longrepo.config.schema import ContextSettings, Settings
from longrepo.engines.adapter_io import adapter_config, read_adapter, read_moments, write_adapter, write_moments
from longrepo.engines.base import Batch, Placement, StepMethod, TokenChooser, oom_as_error
from longrepo.engines.chunked import ActivationStore, DiskStore, MemoryStore, StepObserver
from longrepo.engines.lora_targets import automatic_targets, check_lora_targets, with_lora_targets
from longrepo.engines.mlx import kv_cache
from longrepo.engines.mlx.chunked import MlxChunkedStep, MlxCodec, plain_step, unsupported_reason
from longrepo.engines.mlx.device import mlx_dtype, select_mlx_device, to_float
from longrepo.engines.mlx.load import layer_linears, load_base
from longrepo.engines.mlx.lora import (
    Gradients,
    LoraLinear,
    MlxAdamW,
    MlxTokenEmbeddings,
    ParameterSlot,
    adapter_tensors,
    add_trained_tokens,
    attach_lora,
    lora_slots,
    moment_shapes,
    moments_from_numpy,
    moments_to_numpy,
    set_adapter,
)
from longrepo.engines.mlx.loss import MlxScoredPositions, token_nll
from longrepo.engines.mlx.models import set_positions
from longrepo.engines.prompt_cache import PROMPT_PART, CachedText, CacheState, PromptCache, PromptProgress
from longrepo.errors import InputError
from longrepo.rope.apply import engine_config_changes, write_context
from longrepo.utils import process

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer


OOM_MESSAGES = ("allocat",)  # on Metal for a single array that is too large
SCORING_CHUNK = 512  # tokens, if the method has no chunks


class MlxEngine:
    """See `longrepo.engines.base.Engine` for what each method promises."""

    name = "mlx"

    def __init__(self, model: Any, rows: MlxTokenEmbeddings | None, settings: Settings, placement: Placement) -> None:
        settings = with_lora_targets(settings, automatic_targets(layer_linears(model)))
        self.model, self.rows, self._settings, self._placement = model, rows, settings, placement
        self.device = placement.kind
        self._weights = 0  # how often they changed
        self._part_bytes: dict[CacheState, tuple[int, int]] = {}  # of the keys and values of `PLACES` tokens, of states
        self.choices: list[tuple[str, str]] = list(placement.choices)
        self.pad_id = 0  # any token works: padding is neither attended to nor scored
        self._dropout = attach_lora(model, settings)
        self._rows = ParameterSlot("rows", rows, "weight") if rows is not None else None
        self.slots = [*lora_slots(model), *([self._rows] if self._rows else [])]
        self._gradients = Gradients({slot.name for slot in self.slots})
        self._optimizer = MlxAdamW(settings.training.weight_decay)
        self._unsupported_reason = unsupported_reason(model, self._rows, self._dropout.at)
        self._chunks = MlxChunkedStep(model, self._rows, self._dropout.at)
        self._store: ActivationStore[mx.array] = MemoryStore()
        self.method = StepMethod()

    @classmethod
    def create(cls, settings: Settings, tokenizer: RepoTokenizer, device: str = "auto") -> MlxEngine:
        """Load the base, attach the adapter and the structure-token rows. Raises InputError if something is missing."""
        placement = select_mlx_device(device, settings.training.precision)
        model, notes = load_base(settings.model, tokenizer, mlx_dtype(placement), settings.context)
        check_lora_targets(settings, layer_linears(model))
        ids = list(tokenizer.initial_from)
        rows = add_trained_tokens(model, ids, tokenizer.vocabulary_size) if ids else None
        engine = cls(model, rows, settings, placement)
        engine.choices += [(f"base: {settings.model.name}", note) for note in notes]
        return engine

    def use(self, method: StepMethod, scratch: Path | None = None) -> None:
        if method.step == "chunked" and (reason := self.chunked_unsupported_reason()):
            raise InputError(f"memory.step: {self._settings.model.name} can't be trained in chunks: {reason}")
        self.method = method
        self._store = MemoryStore()
        if method.store == "disk":
            self._store = DiskStore(scratch or Path(tempfile.gettempdir()), MlxCodec())

    def observe(
        self, method: StepMethod, observer: StepObserver, store: ActivationStore[mx.array] | None = None
    ) -> None:
        """Compute by `method`, untried, and let `observer` follow each step; `store` replaces the method's own."""
        self.method, self._chunks.observer, self._store = method, observer, store or MemoryStore()

    def chunked_unsupported_reason(self) -> str | None:
        return self._unsupported_reason

    def position(self, context: ContextSettings) -> None:
        config = dict(self.model.unpositioned)
        config |= engine_config_changes(config, context)
        set_positions(self.model, config)
        self.model.published = MappingProxyType(config)
        self._settings = self._settings.model_copy(update={"context": context})
        self._chunks = MlxChunkedStep(self.model, self._rows, self._dropout.at)

    def accumulate(self, batch: Batch, normalizer: float, key: int) -> float:
        self._dropout.key = key
        self.model.train()
        plain = self.method.step == "plain"
        with oom_as_error(self.device, batch.input_ids.size, OOM_MESSAGES):
            if plain and not self._settings.training.use_gradient_checkpointing:
                parts = plain_step(self.model, self.slots, batch, normalizer, self._gradients)
            else:
                # One chunk of the whole sequence is the plain step with its layers checkpointed.
                method = StepMethod("chunked", batch.input_ids.shape[1]) if plain else self.method
                parts = self._chunks.accumulate(batch, normalizer, method, self._store, self._gradients)
        return math.fsum(to_float(part) for part in parts)

    def apply_update(self, learning_rate: float, max_grad_norm: float) -> float:
        norm = self._optimizer.update(self.slots, self._gradients, learning_rate, max_grad_norm)
        self.drop_gradients()
        self._weights += 1
        return norm

    def drop_gradients(self) -> None:
        self._gradients.clear()

    def freeze(self, modules: Sequence[str]) -> int:
        frozen = [slot for slot in self.slots if set(slot.name.split(".")) & set(modules)]
        for slot in frozen:
            self._gradients.trained.discard(slot.name)
            self._gradients.by_name.pop(slot.name, None)
            self._optimizer.moments.pop(slot.name, None)
        return sum(slot.value.size for slot in frozen)

    def score(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.model.eval()
        wanted = (batch.loss_weights != 0).astype(np.float32)
        wanted[:, 0] = 0
        scores = np.zeros(batch.input_ids.shape, dtype=np.float32)
        ids = mx.array(batch.input_ids.astype(np.int32))
        with oom_as_error(self.device, batch.input_ids.size, OOM_MESSAGES):
            for start, end, hidden in self._chunks.hidden(ids, self.method.chunk or SCORING_CHUNK):
                scored = MlxScoredPositions.of(batch.input_ids, wanted, start, end)
                flat = hidden.reshape(-1, hidden.shape[-1])
                for part in scored.parts():
                    nll = np.array(token_nll(self._chunks.logits, flat[part.at], part.targets))
                    row, place = np.divmod(np.array(part.at), end - start)
                    scores[row, start + 1 + place] = nll
        return scores

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
        from mlx_lm.generate import generation_stream

        if not max_new_tokens and kept is None:
            return
        self.model.eval()
        text = self._cached_text(prompt, max_new_tokens, bits, kept)
        steps, begun = self._steps(prompt, max_new_tokens, bits, choose, text, progress), list(prompt)
        try:
            for token in steps:
                begun.append(token)
                if tick:
                    tick()
                if token in self.model.eos_token_ids:
                    return
                yield token
        finally:
            steps.close()
            mx.synchronize(generation_stream)  # it computes a token ahead; a process must not exit during that
            if kept is not None:
                held = kv_cache.held_tokens(text.cache)
                text.whole = held is not None and held <= len(begun)
                text.ids = begun[:held]
                kept.put(text, min(len(text.ids), len(prompt) - 1), kv_cache)

    def _steps(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        bits: int,
        choose: TokenChooser | None,
        text: CachedText,
        progress: PromptProgress | None,
    ) -> Generator[int]:
        """Yield mlx-lm's tokens after a prompt whose beginning a cache holds."""
        from mlx_lm.generate import generate_step

        start = len(text.ids)
        steps = generate_step(
            mx.array(list(prompt[start:])),
            self.model,
            max_tokens=max_new_tokens,
            sampler=None if choose is None else _as_sampler(choose),
            prompt_cache=text.cache,
            prefill_step_size=PROMPT_PART,
            prompt_progress_callback=progress and (lambda read, _: progress(start + read, len(prompt))),
            **kv_cache.generation_options(self.model.published, bits),
        )
        with closing(steps):
            for token, _ in steps:
                yield int(token)

    def kept_bytes(self, tokens: int, bits: int = 16) -> int:
        state = CacheState(0, repr(self._settings.context), bits)
        if state not in self._part_bytes:
            self._part_bytes[state] = kv_cache.kept_bytes(self.model, self._placement.dtype_name, bits)
        growing, fixed = self._part_bytes[state]
        return -(-tokens // kv_cache.PLACES) * growing + fixed

    def _cached_text(
        self, prompt: Sequence[int], max_new_tokens: int, bits: int, kept: PromptCache | None
    ) -> CachedText:
        """Return the kept keys and values of the beginning of a prompt, or an empty cache."""
        state = CacheState(self._weights, repr(self._settings.context), bits)
        if kept is not None and (needed := self.kept_bytes(len(prompt) + max_new_tokens + 1, bits)) <= kept.budget:
            found = kept.take(prompt, state, needed, kv_cache)
            return found or CachedText(kv_cache.make_cache(self.model), state)
        return CachedText(self.model.make_cache(), state, keep=False)

    def generate(
        self, prompt: Sequence[int], max_new_tokens: int, *, bits: int = 16, tick: Callable[[], None] | None = None
    ) -> list[int]:
        return list(self.stream(prompt, max_new_tokens, bits=bits, tick=tick))

    @contextmanager
    def base_only(self) -> Iterator[None]:
        self._weights += 1
        switches: list[Any] = [module for module in self.model.modules() if isinstance(module, LoraLinear)]
        switches += [self.rows] if self.rows is not None else []
        for switch in switches:
            switch.active = False
        try:
            yield
        finally:
            for switch in switches:
                switch.active = True
            self._weights += 1

    def save_adapter(self, folder: Path) -> None:
        ids: Any = self.rows.ids.tolist() if self.rows is not None else None
        tensors = {name: np.array(tensor) for name, tensor in adapter_tensors(self.slots).items()}
        write_adapter(folder, tensors, adapter_config(self._settings, ids))
        write_context(folder, self._settings.context)

    def load_adapter(self, folder: Path) -> None:
        self._weights += 1
        shapes = {name: tensor.shape for name, tensor in adapter_tensors(self.slots).items()}
        set_adapter(self.slots, read_adapter(folder, shapes))

    def save_optimizer(self, file: Path) -> None:
        write_moments(file, moments_to_numpy(self._optimizer.moments), self._optimizer.step)

    def load_optimizer(self, file: Path) -> None:
        moments, self._optimizer.step = read_moments(file, moment_shapes(self.slots))
        self._optimizer.moments = moments_from_numpy(moments, [slot.name for slot in self.slots])

    def peak_memory(self) -> int:
        return mx.get_peak_memory() if self.device == "metal" else process.peak_resident()

    def reset_peak_memory(self) -> None:
        mx.reset_peak_memory()
        process.reset_peak_resident()

    def facts(self) -> dict[str, Any]:
        from mlx_lm.utils import get_total_parameters

        trained = sum(slot.value.size for slot in self.slots if slot.name in self._gradients.trained)
        return {
            "engine": self.name,
            "device": self.device,
            "dtype": self._placement.dtype_name,
            "parameters": get_total_parameters(self.model),
            "trainable_parameters": trained,
            "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
        }


def _as_sampler(choose: TokenChooser) -> Callable[[mx.array], mx.array]:
    """Wrap `choose` as mlx-lm's sampler, which gets log-probabilities `[1, vocabulary]`."""
    return lambda scores: mx.array([choose(np.array(scores[0].astype(mx.float32)))], dtype=mx.uint32)
