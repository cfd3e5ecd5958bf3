"""Dropout whose mask is a function of key, module, row and position."""

from __future__ import annotations

import peft
import pytest
import torch
from tiny import model_folder
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from longrepo.engines.chunked import DROPOUT_BLOCK, DropoutKey
from longrepo.engines.torch.lora import TorchDerivedDropout, install_dropout


def dropout(p: float = 0.25, number: int = 0, key: int = 11) -> TorchDerivedDropout:
    shared = DropoutKey()
    shared.key = key
    return TorchDerivedDropout(p, number, shared)


@pytest.mark.parametrize("chunk", [1, 48, 64, 100, 300])
def test_chunks_meet_the_mask_of_the_whole_sequence(chunk: int) -> None:
    layer, x = dropout(), torch.ones(2, 250, 24)
    parts = []
    for start in range(0, 250, chunk):
        with layer.key.at(start):
            parts.append(layer(x[:, start : start + chunk]))
    assert layer.key.start == 0
    assert torch.equal(torch.cat(parts, dim=1), layer(x))


def test_rows_modules_keys_and_blocks_have_masks_of_their_own() -> None:
    x = torch.ones(2, 2 * DROPOUT_BLOCK, 24)
    first = dropout()(x)
    masks = [
        first[:, :DROPOUT_BLOCK],
        first[:, DROPOUT_BLOCK:],
        dropout(number=1)(x)[:, :DROPOUT_BLOCK],
        dropout(key=12)(x)[:, :DROPOUT_BLOCK],
    ]
    rows = [row for mask in masks for row in mask]
    agreement = [(one == other).float().mean() for at, one in enumerate(rows) for other in rows[:at]]
    assert all(0.55 < part < 0.7 for part in agreement), "independent masks agree in 0.75**2 + 0.25**2 of the elements"


@pytest.mark.parametrize("p", [0.01, 0.05, 0.3, 0.9])
def test_each_element_is_kept_with_the_same_chance(p: float) -> None:
    kept = dropout(p).mask(torch.empty(1, 40 * DROPOUT_BLOCK, 100)).float()
    chance = (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * chance / kept.numel() ** 0.5
    in_block = kept.view(40, DROPOUT_BLOCK * 100)
    assert (in_block.mean(0) - (1 - p)).abs().max() < 6 * chance / 40**0.5 + 0.05
    neighbours = (in_block[:, 1:] * in_block[:, :-1]).mean()
    assert abs(neighbours - (1 - p) ** 2) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_the_mask_scaled(dtype: torch.dtype) -> None:
    layer = dropout()
    x = torch.randn(2, 90, 16).to(dtype).requires_grad_()
    out = layer(x)
    out.backward(torch.full_like(out, 3))
    scaled = layer.mask(x).to(dtype) / 0.75
    assert 0 < layer.mask(x).sum() < x.numel()
    assert torch.allclose(out, x * scaled, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert x.grad is not None and torch.allclose(x.grad, 3 * scaled)


def test_nothing_of_the_generators_state_is_used_or_changed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = dropout()(torch.ones(1, 70, 8))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(dropout()(torch.ones(1, 70, 8)), first)


def test_fake_tensors_pass() -> None:
    with FakeTensorMode():
        x = torch.ones(1, 70, 8, requires_grad=True)
        dropout()(x).sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape


def test_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs \[rows, tokens, features\], not \[70, 8\]"):
        dropout()(torch.ones(70, 8))


@pytest.fixture
def tuned(tmp_path_factory: pytest.TempPathFactory) -> peft.PeftModel:
    base = AutoModelForCausalLM.from_pretrained(model_folder(tmp_path_factory.mktemp("model")))
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "c_fc", "c_proj"], lora_dropout=0.1, init_lora_weights=False
    )
    return peft.get_peft_model(base, config)


def test_every_lora_layer_gets_one_and_evaluation_is_untouched(tuned: peft.PeftModel) -> None:
    ids = torch.arange(20)[None]
    expected = tuned.eval()(input_ids=ids).logits
    install_dropout(tuned, 0.1)
    assert torch.equal(tuned(input_ids=ids).logits, expected)
    found = [module for module in tuned.modules() if isinstance(module, TorchDerivedDropout)]
    assert [module.number for module in found] == list(range(6))
    assert not any(type(module) is torch.nn.Dropout for module in tuned.modules())


def test_a_step_computed_again_is_the_same_and_another_key_is_not(tuned: peft.PeftModel) -> None:
    key, ids = install_dropout(tuned.train(), 0.1), torch.arange(20)[None]
    first, again = (tuned(input_ids=ids).logits for _ in range(2))
    key.key = 1
    assert torch.equal(first, again)
    assert not torch.equal(tuned(input_ids=ids).logits, first)
    assert not torch.equal(tuned.eval()(input_ids=ids).logits, first)


def test_without_a_chance_nothing_is_replaced(tuned: peft.PeftModel) -> None:
    install_dropout(tuned, 0.0)
    assert not any(isinstance(module, TorchDerivedDropout) for module in tuned.modules())
