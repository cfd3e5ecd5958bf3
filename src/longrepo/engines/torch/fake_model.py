"""For dry runs: the real architecture with its adapter on fake tensors of the true shapes and dtypes, and a tracker
that counts the bytes of tensors as they come and go, real or fake.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from longrepo.config.schema import Settings
from longrepo.engines.torch.full_finetune import train_all_weights
from longrepo.engines.torch.lora import TorchTokenEmbeddings, add_trained_tokens, attach_lora
from longrepo.engines.torch.quantization import BLOCK, NESTED_BLOCK

Tensor = torch.Tensor


def meta_model(
    config: Any, settings: Settings, dtype: torch.dtype, added: int
) -> tuple[nn.Module, TorchTokenEmbeddings | None]:
    """Make what `TorchEngine.create` would load for `config`, whose vocabulary includes `added` structure tokens, on
    torch's `meta` device: the model with its adapter and the trained rows, or the model alone if all of it is trained.
    """
    import transformers

    whole = settings.training.weights == "all"
    with torch.device("meta"):
        base: Any = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if whole else dtype, attn_implementation="sdpa"
        )
        if whole:
            return train_all_weights(base, settings), None
        base.requires_grad_(False)
        if settings.model.quantization == "nf4":
            _pack_linears(base, dtype, settings.model.double_quantization)
        ids = list(range(config.vocab_size - added, config.vocab_size))
        rows = add_trained_tokens(base, ids, bool(config.tie_word_embeddings)) if ids else None
        model = attach_lora(base, settings)
    if rows is not None:
        rows.weight.requires_grad_(True)
    return model, rows


def materialize(model: nn.Module, device: str = "cpu") -> None:
    """Replace all of a model's `meta` tensors by new ones on `device`; shared ones stay shared. Under a FakeTensorMode
    they are fake."""
    made: dict[int, Tensor] = {}

    def real(tensor: Any) -> Any:
        if id(tensor) not in made:
            made[id(tensor)] = torch.empty_like(tensor, device=device)
        return made[id(tensor)]

    parameters: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in parameters:
                new: Any = nn.Parameter(real(parameter), requires_grad=parameter.requires_grad)
                for key, value in vars(parameter).items():
                    setattr(new, key, value)
                for state in _packed_tensors(new):
                    state.absmax, state.code = real(state.absmax), real(state.code)
                    state.offset = None if state.offset is None else real(state.offset)
                parameters[id(parameter)] = new
            module._parameters[name] = parameters[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else real(buffer)


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor of a model: parameters, buffers, and the quantization constants of packed weights."""
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        for state in _packed_tensors(parameter):
            yield from (tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None)


class PackedLinear(Linear4bit):
    """The Linear4bit that loading would make of a linear module, around a plain parameter: bitsandbytes' parameter
    class can't hold fake tensors, and its forward and backward passes don't need it."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, double: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.compute_dtype, self.compute_type_is_set, self.support_avx512bf16_for_cpu = dtype, True, False
        values = linear.weight.numel()
        weight: Any = nn.Parameter(torch.empty(-(-values // 2), 1, dtype=torch.uint8), requires_grad=False)
        weight.quant_state = _quant_state(linear.weight.shape, -(-values // BLOCK), dtype, double)
        weight.compress_statistics, weight.quant_type = double, "nf4"
        self.weight = weight


def _pack_linears(base: Any, dtype: torch.dtype, double: bool) -> None:
    head = base.get_output_embeddings()
    for path, module in list(base.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, name = path.rpartition(".")
            setattr(base.get_submodule(parent), name, PackedLinear(module, dtype, double))
    base.is_loaded_in_4bit = True  # PEFT checks it before it looks at the modules


def _quant_state(shape: torch.Size, blocks: int, dtype: torch.dtype, double: bool) -> QuantState:
    code = torch.empty(16)
    if not double:
        return QuantState(torch.empty(blocks), shape, code, BLOCK, "nf4", dtype)
    outer = QuantState(
        torch.empty(-(-blocks // NESTED_BLOCK)), code=torch.empty(256), blocksize=NESTED_BLOCK, dtype=torch.float32
    )
    constants = torch.empty(blocks, dtype=torch.uint8)
    return QuantState(constants, shape, code, BLOCK, "nf4", dtype, offset=torch.empty(()), state2=outer)


def _packed_tensors(parameter: Any) -> Iterator[QuantState]:
    state: QuantState | None = getattr(parameter, "quant_state", None)
    while state is not None:
        yield state
        state = state.state2


# Operations whose kernels make further tensors that a dispatch mode doesn't see: run as their parts. bitsandbytes'
# packed product dequantizes the whole weight: on a device with a fused kernel this counts too much, never too little.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit_default_impl}


class PeakTracker(TorchDispatchMode):
    """While entered, counts each new tensor's storage once, until it is freed. `live` and `peak` are bytes; `peaks`
    holds the peak of each named phase, `at_peak` the bytes at the highest of all, by tag. Earlier tensors count only if
    adopted."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.peaks: dict[str, int] = {}
        self.bytes_by_tag: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self._storages: dict[int, tuple[Any, int, str]] = {}
        self._phase = "other"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in DECOMPOSITIONS:
            with self:
                return DECOMPOSITIONS[func](*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:
            return func(*args, **(kwargs or {}))
        before = {tensor.untyped_storage()._cdata for tensor in _tree_tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tree_tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in before or storage._cdata in self._storages:
                self._add(storage, self._phase)
        return out

    def adopt(self, tensors: Iterable[torch.Tensor], tag: str) -> None:
        """Count these, too, as `tag`."""
        for tensor in tensors:
            self._add(tensor.untyped_storage(), tag)

    def enter(self, phase: str) -> None:
        """Begin a phase: it gets the peaks from now on, and tags new tensors."""
        self._phase = phase
        self._note()

    def _add(self, storage: Any, tag: str) -> None:
        key, size = storage._cdata, storage.nbytes()
        held = self._storages.get(key)
        if held is not None:
            if held[1] == size:
                return
            self._drop(key)
        self._storages[key] = (weakref.ref(storage, partial(self._dropped, key)), size, tag)
        self.live += size
        self.bytes_by_tag[tag] += size
        self._note()

    def _dropped(self, key: int, _: Any) -> None:
        self._drop(key)

    def _drop(self, key: int) -> None:
        _, size, tag = self._storages.pop(key, (None, 0, "other"))
        self.live -= size
        self.bytes_by_tag[tag] -= size

    def _note(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), self.live)
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, self.bytes_by_tag.copy()


def _tree_tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))
