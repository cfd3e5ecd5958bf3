"""Attention of a chunk: both kernels against a plain softmax in float64, and inside real models."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from longrepo.engines.torch import attention
from longrepo.engines.torch.attention import Kernel, attend, force_kernel, register_attention, window_of

Tensor = torch.Tensor
SCALING, TILE = 0.35, 16
KERNELS: tuple[Kernel, ...] = ("fused", "tiled")
LENGTHS = [(1, 1), (1, 9), (7, 7), (16, 16), (16, 50), (40, 40), (13, 37), (33, 64)]
HEADS = [(4, 4), (4, 2), (4, 1)]


def inputs(q: int, k: int, heads: int, kv_heads: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(q * 100 + k)
    shapes = ((heads, q), (kv_heads, k), (kv_heads, k))
    return [torch.randn(2, *shape, 8, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * SCALING
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    q, k = scores.shape[2:]
    at, key_at = torch.arange(k - q, k)[:, None], torch.arange(k)
    seen = key_at <= at if window is None else (key_at <= at) & (key_at > at - window)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.promote_types(key.dtype, torch.float32))
    return weights.to(value.dtype) @ value


def outcome(function: Any, tensors: list[Tensor], dtype: torch.dtype, *rest: Any) -> list[Tensor]:
    """The output and the gradients of all three inputs, computed in `dtype`."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    out = function(*leaves, *rest)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to `expected`, or to 1 where that is nothing but rounding (a window of 1 has no gradient of keys)."""
    return ((found.double() - expected.double()).norm() / max(expected.double().norm().item(), 1.0)).item()


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 5, 16, 30, 100])
@pytest.mark.parametrize("kernel", KERNELS)
def test_output_and_gradients_are_those_of_plain_attention(
    kernel: Kernel, window: int | None, softcap: float | None
) -> None:
    for (q, k), (heads, kv_heads) in itertools.product(LENGTHS, HEADS):
        tensors = inputs(q, k, heads, kv_heads)
        found = outcome(attend, tensors, torch.float32, SCALING, window, softcap, kernel, TILE)
        expected = outcome(plain, tensors, torch.float64, window, softcap)
        worst = max(error(one, other) for one, other in zip(found, expected, strict=True))
        assert worst <= 1e-5, (q, k, heads, kv_heads)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sequence_in_chunks_is_the_sequence(kernel: Kernel) -> None:
    query, key, value = inputs(50, 50, 4, 2)
    whole = plain(query, key, value, 12, None)
    spans = [(start, min(start + 13, 50)) for start in range(0, 50, 13)]
    parts = [
        attend(query[:, :, s:e], *(t[:, :, max(0, s - 11) : e] for t in (key, value)), SCALING, 12, None, kernel, 7)
        for s, e in spans
    ]
    assert error(torch.cat(parts, dim=2), whole) <= 1e-6


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("window", [None, 48])
def test_bfloat16_is_no_worse_than_the_plain_computation(kernel: Kernel, window: int | None) -> None:
    tensors = inputs(64, 160, 4, 2, torch.bfloat16)
    exact = outcome(plain, tensors, torch.float64, window, None)
    usual = outcome(plain, tensors, torch.bfloat16, window, None)
    found = outcome(attend, tensors, torch.bfloat16, SCALING, window, None, kernel, 48)
    for one, other, expected in zip(found, usual, exact, strict=True):
        assert error(one, expected) <= 1.5 * error(other, expected)


class Seen(TorchDispatchMode):
    """Notes every operation and the sizes of what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        self.names.add(func.overloadpacket.__name__)
        for one in torch.utils._pytree.tree_leaves(out):
            if isinstance(one, Tensor):
                self.largest = max(self.largest, one.numel())
        return out


def test_tiles_never_hold_the_scores_whole() -> None:
    q, k, heads, tile = 64, 256, 4, 32
    query, key, value = (torch.randn(1, n, length, 4, requires_grad=True) for n, length in ((heads, q), (2, k), (2, k)))
    with Seen() as seen:
        attend(query, key, value, SCALING, kernel="tiled", tile=tile).sum().backward()
    assert heads * tile * tile <= seen.largest <= heads * q * tile
    with Seen() as seen:
        plain(query, key, value, None, None).sum().backward()
    assert seen.largest == heads * q * k


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("q", "k", "window"), [(32, 96, None), (32, 96, 40), (64, 64, None), (64, 64, 20), (1, 64, 9)])
def test_the_fused_kernel_really_runs(q: int, k: int, window: int | None, dtype: torch.dtype) -> None:
    with Seen() as seen:
        attend(*inputs(q, k, 4, 2, dtype), SCALING, window).sum().backward()
    assert {
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    } <= seen.names


@pytest.mark.parametrize("kernel", KERNELS)
def test_fake_tensors_pass_forward_and_backward(kernel: Kernel) -> None:
    with FakeTensorMode():
        query, key, value = inputs(32, 96, 4, 2)
        attend(query, key, value, SCALING, 40, None, kernel, TILE).sum().backward()
        assert query.grad is not None and query.grad.shape == query.shape


SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
MODELS: dict[str, dict[str, Any]] = {
    "Starcoder2": {"sliding_window": 12},
    "Llama": {},
    "Qwen2": {"sliding_window": 12, "use_sliding_window": True, "max_window_layers": 1},
    "Mistral": {"sliding_window": 12},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
}

WINDOWS = {
    "Starcoder2": [12, 12],
    "Llama": [None, None],
    "Qwen2": [None, 12],
    "Mistral": [12, 12],
    "Gemma": [None, None],
    "Gemma2": [12, None],
}


@pytest.fixture
def named() -> None:
    register_attention()


def small_model(name: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**SHAPE | MODELS[name] | changes)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_models_compute_the_same_logits(name: str, kernel: Kernel) -> None:
    model, ids = small_model(name), torch.arange(80).view(2, 40) % 64
    model.set_attn_implementation("eager" if name == "Gemma2" else "sdpa")
    expected = model(input_ids=ids).logits
    model.set_attn_implementation("longrepo")
    with force_kernel(kernel, TILE):
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert error(found, expected) <= 1e-5
    assert [window_of(layer.self_attn) for layer in model.model.layers] == WINDOWS[name]


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_no_mask_of_the_whole_length_is_made(name: str, kernel: Kernel) -> None:
    model, length = small_model(name), 400
    model.set_attn_implementation("longrepo")
    with Seen() as seen, torch.no_grad(), force_kernel(kernel, 64):
        model.model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    assert seen.largest < length * length


@pytest.mark.usefixtures("named")
def test_the_device_chooses_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    model, taken = small_model("Starcoder2"), []
    model.set_attn_implementation("longrepo")
    real = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *given: taken.append(given[-2:]) or real(*given))
    ids = torch.zeros(1, 4, dtype=torch.long)
    model(input_ids=ids)
    with force_kernel("tiled", 32):
        model(input_ids=ids)
    model(input_ids=ids)
    assert taken == [("fused", 1024)] * 2 + [("tiled", 32)] * 2 + [("fused", 1024)] * 2


@pytest.mark.usefixtures("named")
def test_what_would_change_the_result_is_refused() -> None:
    model, ids = small_model("Starcoder2", attention_dropout=0.1), torch.zeros(2, 8, dtype=torch.long)
    model.set_attn_implementation("longrepo")
    with pytest.raises(ValueError, match=r"Starcoder2Attention: longrepo's attention doesn't support dropout; use"):
        model.train()(input_ids=ids)
    query, key, value = inputs(4, 4, 4, 2)
    with pytest.raises(ValueError, match="doesn't support s_aux;"):
        attention._attention(model, query, key, value, None, s_aux=torch.zeros(4))
    padded = torch.ones_like(ids)
    padded[1, :3] = 0
    with pytest.raises(ValueError, match="padding on the left"):
        model.eval()(input_ids=ids, attention_mask=padded)
    model(input_ids=ids, attention_mask=padded.flip(1))
    with pytest.raises(ValueError, match="packed rows"):
        model(input_ids=ids, position_ids=torch.arange(8)[None] % 4, use_cache=False)
