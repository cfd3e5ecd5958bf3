"""The torch engine: a 4-bit base from transformers with LoRA from PEFT, or all weights; one weighted step."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bitsandbytes
import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers

from longrepo.config.schema import ContextSettings, Settings
from longrepo.engines.adapter_io import read_adapter, read_optimizer, write_adapter, write_optimizer
from longrepo.engines.base import Batch, Placement, StepMethod, TokenChooser, oom_as_error
from longrepo.engines.chunked import ActivationStore, DiskStore, MemoryStore, StepObserver
from longrepo.engines.lora_targets import check_lora_targets
from longrepo.engines.prompt_cache import PROMPT_PART, CachedText, CacheState, PromptCache, PromptProgress
from longrepo.engines.torch import kv_cache, lora
from longrepo.engines.torch.chunked import TorchChunkedStep, TorchCodec, chunked_mode, unsupported_reason
from longrepo.engines.torch.device import PeakMemory, select_torch_device, torch_device, torch_dtype
from longrepo.engines.torch.full_finetune import (
    InitialWeights,
    read_model,
    train_all_weights,
    trained_placement,
    write_model,
)
from longrepo.engines.torch.load import load_base
from longrepo.engines.torch.lora import (
    TorchTokenEmbeddings,
    adapter_tensors,
    add_trained_tokens,
    attach_lora,
    peft_config,
    set_training,
)
from longrepo.engines.torch.loss import TorchScoredPositions, backward_weighted_nll, scaled_head, token_nll
from longrepo.engines.torch.positions import set_positions
from longrepo.errors import InputError
from longrepo.rope.apply import write_context

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer


# CUDA raises its own exception; Metal and the CPU's allocator raise a RuntimeError with one of these texts.
OOM_MESSAGES = ("out of memory", "can't allocate memory")


class TorchEngine:
    """See `longrepo.engines.base.Engine` for what each method promises."""

    name = "torch"

    def __init__(
        self,
        model: Any,
        rows: TorchTokenEmbeddings | None,
        settings: Settings,
        placement: Placement,
        start: InitialWeights | None = None,
    ) -> None:
        """`model`: PEFT's, to train its adapter, or transformers', to train all weights; then `start` holds the initial
        ones."""
        self._start = start
        self.model, self.rows, self._settings, self._placement = model, rows, settings, placement
        self._device, self._dtype = torch_device(placement), torch_dtype(placement)
        self.has_adapter = isinstance(model, peft.PeftModel)
        self.device = placement.kind
        self._weights = 0  # how often they changed
        self._part_bytes: dict[CacheState, int] = {}  # of the keys and values of a prompt's part
        self.choices: list[tuple[str, str]] = list(placement.choices)
        self.base: Any = model.get_base_model() if self.has_adapter else model
        self._decoder, self._head = self.base.get_decoder(), scaled_head(self.base)
        self.pad_id = 0  # any token works: padding is neither attended to nor scored
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.parameters.values(), settings.training.weight_decay), lr=0.0
        )
        self._peak = PeakMemory(self._device)
        self._dropout = lora.install_dropout(model, settings.lora.dropout)
        self.method = StepMethod()
        self._store: ActivationStore[torch.Tensor] = MemoryStore()
        self._chunks = TorchChunkedStep(self._decoder, self._head, self._device, self._dtype, self._dropout.at)

    @classmethod
    def create(cls, settings: Settings, tokenizer: RepoTokenizer, device: str = "auto") -> TorchEngine:
        """Load the base, attach the adapter and the structure-token rows. Raises InputError if something is missing."""
        placement = select_torch_device(device, settings.training.precision)
        whole = settings.training.weights == "all"
        base: Any
        base, notes = load_base(
            settings.model, tokenizer, trained_placement(placement) if whole else placement, settings.context
        )
        _check_head(base, settings.model.name)
        if not whole:
            check_lora_targets(settings, lora.linear_modules(base))
        ids = [] if whole else list(tokenizer.initial_from)
        rows = add_trained_tokens(base, ids, bool(base.config.tie_word_embeddings)) if ids else None
        model = train_all_weights(base, settings) if whole else attach_lora(base, settings)
        if rows is not None:
            rows.weight.requires_grad_(True)
        engine = cls(model, rows, settings, placement, InitialWeights(settings.model, tokenizer) if whole else None)
        if whole:
            engine.choices.append(("trained: all weights, in float32", "as set in training.weights"))
        quantised = "4-bit NF4" if settings.model.quantization == "nf4" else "not quantised"
        engine.choices.append((f"base: {settings.model.name}, {quantised}", "as set in model.quantization"))
        engine.choices += [("base", note) for note in notes]
        return engine

    def use(self, method: StepMethod, scratch: Path | None = None) -> None:
        if method.step == "chunked" and (reason := self.chunked_unsupported_reason()):
            raise InputError(f"memory.step: {self._settings.model.name} can't be trained in chunks: {reason}")
        self.method = method
        self._store = MemoryStore()
        if method.store == "disk":
            self._store = DiskStore(scratch or Path(tempfile.gettempdir()), TorchCodec(self._device))

    def observe(
        self, method: StepMethod, observer: StepObserver, store: ActivationStore[torch.Tensor] | None = None
    ) -> None:
        """Compute by `method`, untried, and let `observer` follow each step; `store` replaces the method's own."""
        self.method, self._chunks.observer, self._store = method, observer, store or MemoryStore()

    def chunked_unsupported_reason(self) -> str | None:
        self.model.eval()
        with self.autocast():
            return unsupported_reason(self._decoder, self._device, self._dtype, self._dropout.at)

    def position(self, context: ContextSettings) -> None:
        set_positions(self.base, context)
        self._settings = self._settings.model_copy(update={"context": context})

    def accumulate(self, batch: Batch, normalizer: float, key: int) -> float:
        with oom_as_error(self.device, batch.input_ids.size, OOM_MESSAGES):
            return math.fsum(part.item() for part in self.add_gradients(batch, normalizer, key))

    def add_gradients(self, batch: Batch, normalizer: float, key: int) -> list[torch.Tensor]:
        """As `accumulate`, but return the loss as scalars on the device: nothing here depends on a tensor's value."""
        self._dropout.key = key
        set_training(self.model)
        if self.method.step == "chunked":
            with self.autocast(), chunked_mode(self._decoder):
                return self._chunks.accumulate(batch, normalizer, self.method, self._store)
        observer = self._chunks.observer
        with self.autocast():
            observer.enter("forward")
            hidden = self._hidden(self._tensor(batch.input_ids))
            tokens = hidden.shape[1]
            scored = TorchScoredPositions.of(batch.input_ids, batch.loss_weights, 0, tokens, self._device)
            observer.enter("head")
            return backward_weighted_nll(self._head, hidden.flatten(0, 1), scored, normalizer, observer)

    def apply_update(self, learning_rate: float, max_grad_norm: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), max_grad_norm).item()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if np.isfinite(norm):  # otherwise the caller ends the run and the weights stay unchanged
            self.optimizer.step()
        self.drop_gradients()
        self._weights += 1
        return norm

    def drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def freeze(self, modules: Sequence[str]) -> int:
        frozen = [name for name in self.parameters if set(name.split(".")) & set(modules)]
        count = 0
        for name in frozen:
            parameter = self.parameters.pop(name).requires_grad_(False)
            parameter.grad = None
            self.optimizer.state.pop(parameter, None)
            count += parameter.numel()
        left = set(self.parameters.values())
        for group in self.optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter in left]
        return count

    @torch.no_grad()
    def score(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.model.eval()
        ids = self._tensor(batch.input_ids)
        wanted = batch.loss_weights != 0
        wanted[:, 0] = False
        scores = np.zeros(batch.input_ids.shape, dtype=np.float32)
        with self.autocast(), oom_as_error(self.device, ids.numel(), OOM_MESSAGES):
            for start, end, hidden in self._hidden_parts(ids):
                here = wanted[:, start + 1 : end + 1]  # hidden state p predicts token p + 1
                before = self._tensor(here)
                targets = ids[:, start + 1 : end + 1][before]
                nll = token_nll(self._head, hidden[:, : here.shape[1]][before], targets)
                scores[:, start + 1 : end + 1][here] = nll.float().cpu().numpy()
        return scores

    @torch.no_grad()
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
        if not max_new_tokens and kept is None:
            return
        self.model.eval()
        end = self.model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        text = self._cached_text(prompt, max_new_tokens, bits, kept)
        try:
            with self.autocast():  # open across tokens: it caches the weights that it has cast
                scores = self._read_prompt(prompt, text, progress)
                for number in range(max_new_tokens):
                    token = int(scores.argmax()) if choose is None else choose(scores.float().cpu().numpy())
                    if tick:
                        tick()
                    if token in ends:
                        return
                    yield token
                    if number + 1 < max_new_tokens:
                        scores = self._next_scores([token], text)
        finally:
            if kept is not None:
                kept.put(text, min(len(text.ids), len(prompt)), kv_cache)

    def kept_bytes(self, tokens: int, bits: int = 16) -> int:
        state = CacheState(0, repr(self._settings.context), bits)
        if state not in self._part_bytes:
            dtype = self._placement.dtype_name
            self._part_bytes[state] = kv_cache.kept_bytes(self.base.config, PROMPT_PART, dtype, bits)
        return -(-tokens * self._part_bytes[state] // PROMPT_PART)

    def _cached_text(
        self, prompt: Sequence[int], max_new_tokens: int, bits: int, kept: PromptCache | None
    ) -> CachedText:
        """Return the kept keys and values of the beginning of a prompt, or an empty cache."""
        config, state = self.base.config, CacheState(self._weights, repr(self._settings.context), bits)
        if kept is not None and kv_cache.can_shorten(kv_cache.make_cache(config, bits)):
            needed = self.kept_bytes(len(prompt) + max_new_tokens, bits)
            if needed <= kept.budget:
                found = kept.take(prompt, state, needed, kv_cache)
                return found or CachedText(kv_cache.make_cache(config, bits, keep=True), state)
        return CachedText(kv_cache.make_cache(config, bits), state, keep=False)

    def _read_prompt(self, prompt: Sequence[int], text: CachedText, progress: PromptProgress | None) -> torch.Tensor:
        """Read what a cache doesn't hold of a prompt; return the scores of the token after it, `[vocabulary]`."""
        size = PROMPT_PART if kv_cache.takes_parts(text.cache) else len(prompt)
        scores = torch.empty(0)
        while len(text.ids) < len(prompt):
            if progress:
                progress(len(text.ids), len(prompt))
            scores = self._next_scores(prompt[len(text.ids) :][:size], text)
        if progress:
            progress(len(prompt), len(prompt))
        return scores

    def generate(
        self, prompt: Sequence[int], max_new_tokens: int, *, bits: int = 16, tick: Callable[[], None] | None = None
    ) -> list[int]:
        return list(self.stream(prompt, max_new_tokens, bits=bits, tick=tick))

    @contextmanager
    def base_only(self) -> Iterator[None]:
        self._weights += 1
        try:
            with self._only_base():
                yield
        finally:
            self._weights += 1

    @contextmanager
    def _only_base(self) -> Iterator[None]:
        if self._start is not None:
            with self._start.swap_in(self.model):
                yield
            return
        with self.model.disable_adapter():
            if self.rows is not None:
                self.rows.active = False
            try:
                yield
            finally:
                if self.rows is not None:
                    self.rows.active = True

    def save_adapter(self, folder: Path) -> None:
        if self.has_adapter:
            tensors = adapter_tensors(self.model, self.rows)
            config = peft_config(self.model, self.rows, self._settings.model.name)
            write_adapter(folder, {name: _to_numpy(tensor) for name, tensor in tensors.items()}, config)
        else:
            write_model(folder, self.model)
        write_context(folder, self._settings.context)

    @torch.no_grad()
    def load_adapter(self, folder: Path) -> None:
        self._weights += 1
        if self.has_adapter:
            tensors = adapter_tensors(self.model, self.rows)
            saved = read_adapter(folder, {name: tensor.shape for name, tensor in tensors.items()})
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(saved[name]))
        else:
            read_model(folder, self.model)

    def save_optimizer(self, file: Path) -> None:
        state = {
            f"{name}/{part}": _to_numpy(value)
            for name, parameter in self.parameters.items()
            for part, value in self.optimizer.state.get(parameter, {}).items()
        }
        write_optimizer(file, state)

    def load_optimizer(self, file: Path) -> None:
        saved = read_optimizer(file, {name: parameter.shape for name, parameter in self.parameters.items()})
        self.optimizer.state.clear()
        for key, array in saved.items():
            name, _, part = key.rpartition("/")
            parameter, value = self.parameters[name], torch.from_numpy(array)
            # AdamW keeps its step counts on the CPU, the moments beside the parameter.
            self.optimizer.state[parameter][part] = value if part == "step" else value.to(parameter.device)

    def peak_memory(self) -> int:
        return self._peak.read()

    def reset_peak_memory(self) -> None:
        self._peak.reset()

    def facts(self) -> dict[str, Any]:
        trainable = total = sum(parameter.numel() for parameter in self.model.parameters())
        if self.has_adapter:  # a packed 4-bit weight holds two parameters a byte; PEFT counts the original ones
            trainable, total = self.model.get_nb_trainable_parameters()
        return {
            "engine": self.name,
            "device": self.device,
            "dtype": self._placement.dtype_name,
            "parameters": total,
            "trainable_parameters": trainable,
            "threads": torch.get_num_threads(),
            "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)},
        }

    def _next_scores(self, ids: Sequence[int], text: CachedText) -> torch.Tensor:
        """Return the scores of the token after what a cache holds and `ids`, `[vocabulary]`."""
        text.whole = False
        given = torch.tensor([list(ids)], device=self._device)
        states = self._decoder(input_ids=given, past_key_values=text.cache, use_cache=True).last_hidden_state
        scores: torch.Tensor = self._head(states[:, -1:]).flatten()
        text.ids += ids
        text.whole = True
        return scores

    def _hidden_parts(self, ids: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
        if self.method.step == "plain":
            yield 0, ids.shape[1], self._hidden(ids)
            return
        with chunked_mode(self._decoder):
            yield from self._chunks.hidden(ids, self.method.chunk)

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        # No attention mask is needed: rows are padded on the right, where causal attention never looks.
        return self._decoder(input_ids=ids, use_cache=False).last_hidden_state

    def autocast(self) -> Any:
        """The context in which the model computes."""
        if self._dtype == torch.float32:
            return nullcontext()
        # A chunked step casts LoRA's weights for each chunk; cached, all layers' weights would be in memory twice.
        return torch.autocast(self.device, self._dtype, cache_enabled=self.method.step == "plain")

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """Convert to float32; a tensor on the CPU shares its memory."""
    return tensor.detach().float().cpu().numpy()


def _parameter_groups(parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters for the optimizer: matrices decay; norms and biases, if trained, don't."""
    decay: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in parameters:
        decay[parameter.ndim > 1].append(parameter)
    return [{"params": some, "weight_decay": weight_decay * matrix} for matrix, some in decay.items() if some]


@torch.no_grad()
def _check_head(model: Any, name: str) -> None:
    """Raise InputError if logits aren't what `scaled_head` makes of the last hidden state, as the step computes them:
    some architectures cap them."""
    model.eval()
    ids = torch.tensor([[1, 2]], device=model.device)
    ours = scaled_head(model)(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(model(input_ids=ids, use_cache=False).logits, ours, rtol=1e-2, atol=1e-3):
        raise InputError(
            f"model {name}: its logits are not a plain product of its head; this architecture can't be tuned"
        )
