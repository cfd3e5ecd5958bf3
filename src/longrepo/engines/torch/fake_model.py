"""The real architecture with its adapter, without weights: fake tensors of the true shapes and dtypes, for dry runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]
from torch import nn

from longrepo.config.schema import Settings
from longrepo.engines.torch.lora import attach_lora
from longrepo.engines.torch.quantised import BLOCK, NESTED_BLOCK
from longrepo.engines.torch.rows import TokenRows, patch
from longrepo.engines.torch.whole import train_all

Tensor = torch.Tensor


def meta_model(config: Any, settings: Settings, dtype: torch.dtype, added: int) -> tuple[nn.Module, TokenRows | None]:
    """What `TorchEngine.create` would load for `config` (with `added` structure tokens beyond its vocabulary), on
    torch's `meta` device: the model with its adapter, and the trained rows; or the model alone, all of it trained."""
    import transformers

    whole = settings.training.weights == "all"
    with torch.device("meta"):
        base: Any = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if whole else dtype, attn_implementation="sdpa"
        )
        if whole:
            return train_all(base, settings), None
        base.requires_grad_(False)
        if settings.model.quantization == "nf4":
            _pack(base, dtype, settings.model.double_quantization)
        ids = list(range(config.vocab_size - added, config.vocab_size))
        rows = patch(base, ids, bool(config.tie_word_embeddings)) if ids else None
        model = attach_lora(base, settings)
    if rows is not None:
        rows.weight.requires_grad_(True)
    return model, rows


def materialise(model: nn.Module, device: str = "cpu") -> None:
    """Put new tensors on `device` in the place of all that a model has on `meta`; shared ones stay shared. Under a
    FakeTensorMode they are fake."""
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
                for state in _states(new):
                    state.absmax, state.code = real(state.absmax), real(state.code)
                    state.offset = None if state.offset is None else real(state.offset)
                parameters[id(parameter)] = new
            module._parameters[name] = parameters[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else real(buffer)


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor that a model holds: parameters, buffers, and what packed weights have beside them."""
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        for state in _states(parameter):
            yield from (tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None)


class PackedLinear(Linear4bit):
    """The Linear4bit that loading would make of a linear module, around a plain parameter: bitsandbytes' own parameter
    class can't hold fake tensors, and its forward and backward passes don't ask for it."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, double: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.compute_dtype, self.compute_type_is_set, self.support_avx512bf16_for_cpu = dtype, True, False
        values = linear.weight.numel()
        weight: Any = nn.Parameter(torch.empty(-(-values // 2), 1, dtype=torch.uint8), requires_grad=False)
        weight.quant_state = _quant_state(linear.weight.shape, -(-values // BLOCK), dtype, double)
        weight.compress_statistics, weight.quant_type = double, "nf4"
        self.weight = weight


def _pack(base: Any, dtype: torch.dtype, double: bool) -> None:
    head = base.get_output_embeddings()
    for path, module in list(base.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, name = path.rpartition(".")
            setattr(base.get_submodule(parent), name, PackedLinear(module, dtype, double))
    base.is_loaded_in_4bit = True  # PEFT asks for it before it looks at the modules


def _quant_state(shape: torch.Size, blocks: int, dtype: torch.dtype, double: bool) -> QuantState:
    code = torch.empty(16)
    if not double:
        return QuantState(torch.empty(blocks), shape, code, BLOCK, "nf4", dtype)
    outer = QuantState(
        torch.empty(-(-blocks // NESTED_BLOCK)), code=torch.empty(256), blocksize=NESTED_BLOCK, dtype=torch.float32
    )
    constants = torch.empty(blocks, dtype=torch.uint8)
    return QuantState(constants, shape, code, BLOCK, "nf4", dtype, offset=torch.empty(()), state2=outer)


def _states(parameter: Any) -> Iterator[QuantState]:
    state: QuantState | None = getattr(parameter, "quant_state", None)
    while state is not None:
        yield state
        state = state.state2
