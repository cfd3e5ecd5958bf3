"""4-bit weights in slices, against bitsandbytes on the whole."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch

from longrepo.engines.torch import quantization
from longrepo.engines.torch.quantization import dequantize_weight, quantize_nf4

SHAPES = ((192, 128), (100, 64), (77, 33), (130, 2), (1, 192))  # with and without a last block that is not full


def linear4(
    shape: tuple[int, int], dtype: torch.dtype, double: bool
) -> tuple[bitsandbytes.nn.Linear4bit, torch.Tensor]:
    torch.manual_seed(3)
    dense = torch.randn(shape, dtype=dtype)
    module = bitsandbytes.nn.Linear4bit(shape[1], shape[0], False, dtype, double, "nf4")
    module.weight = bitsandbytes.nn.Params4bit(dense, compress_statistics=double, quant_type="nf4").to("cpu")
    return module, dense


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] % 2 == 0])  # torch would compile for odd ones
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_slices_dequantise_to_the_bits_of_the_whole(
    shape: tuple[int, int], dtype: torch.dtype, double: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "SLICE_WEIGHTS", 64 * shape[1])
    monkeypatch.setattr(quantization, "_NATIVE_DEVICES", ("cpu",) if native else ())
    module, _ = linear4(shape, dtype, double)
    whole = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    assert torch.equal(dequantize_weight(module, dtype), whole)


def test_the_dense_weight_of_a_plain_linear_is_its_weight() -> None:
    module = torch.nn.Linear(5, 3)
    assert dequantize_weight(module, torch.float32) is module.weight
    assert dequantize_weight(module, torch.bfloat16).dtype == torch.bfloat16


def test_the_forward_pass_multiplies_with_the_dequantised_weight() -> None:
    module, _ = linear4((192, 96), torch.bfloat16, True)
    module.compute_dtype, module.compute_type_is_set = torch.float32, True  # other than what it was quantised from
    x = torch.randn(4, 96, requires_grad=True)
    assert torch.equal(module(x), x @ dequantize_weight(module, torch.float32).T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_quantise_to_the_bits_of_the_whole(
    shape: tuple[int, int], double: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "SLICE_WEIGHTS", 64 * shape[1])
    module, dense = linear4(shape, dtype, double)
    packed, state = quantize_nf4(dense.float(), dtype, torch.device("cpu"), double)
    theirs = module.weight.quant_state.as_dict(packed=True)
    ours = state.as_dict(packed=True)
    assert torch.equal(packed, module.weight.data)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
