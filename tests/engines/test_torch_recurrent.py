"""Recurrent layers in chunks against the plain step: gated DeltaNet, Mamba-2 and short convolutions, between layers of
attention. Random weights, but decays and convolutions as trained models have them: states that reach far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_torch_chunked import EXACT, SHAPE, assert_same, engine_of, gradients, random_batch
from tiny import ADDED
from transformers import (
    AutoModelForCausalLM,
    GraniteMoeHybridConfig,
    Lfm2Config,
    PretrainedConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.chunked import chunk_spans, first_of_each_kind
from longrepo.engines.model_shape import read_config
from longrepo.engines.prompt_cache import PromptCache
from longrepo.engines.torch import kv_cache
from longrepo.engines.torch.dry_run import TorchDryRun
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, tensors_of
from longrepo.errors import InputError

KINDS = ["linear_attention", "linear_attention", "full_attention"]
BETWEEN = ["linear_attention", "full_attention", "linear_attention"]
THREE: dict[str, Any] = SHAPE | {"num_hidden_layers": 3}
DELTA: dict[str, Any] = {
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 24,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "head_dim": 16,
    "layer_types": KINDS,
    "rms_norm_eps": 1e-2,  # a norm of what is nearly zero (a query that meets no key) would make rounding large
}
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 12, "mamba_n_groups": 1}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, PretrainedConfig] = {
    "qwen3_5": Qwen3_5TextConfig(**THREE, **DELTA),
    "qwen3_next": Qwen3NextConfig(**THREE, **DELTA, **EXPERTS, shared_expert_intermediate_size=32),
    "granitemoehybrid": GraniteMoeHybridConfig(
        **THREE, **MAMBA, layer_types=BETWEEN, mamba_chunk_size=16, num_local_experts=0, shared_intermediate_size=96
    ),
    "granitemoehybrid, experts": GraniteMoeHybridConfig(
        **THREE, **MAMBA, layer_types=BETWEEN, mamba_chunk_size=32, num_local_experts=4, shared_intermediate_size=64
    ),
    "lfm2": Lfm2Config(**THREE, layer_types=["conv", "full_attention", "conv"]),
}
STORES = (StepMethod("chunked", 24), StepMethod("chunked", 64, "recompute", 2), StepMethod("chunked", 17, "disk"))


def write_model(config: PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):  # steps of 0.001 to 0.1, as these layers are initialized before training
            step = 0.001 + 0.1 * torch.rand_like(parameter)
            parameter.data = step + torch.log(-torch.expm1(-step))
        elif name.endswith(("conv1d.weight", "conv.conv.weight")):
            parameter.data.uniform_(-0.5, 0.5)
    model.save_pretrained(folder)
    return folder


def engine_on(folder: Path, *overrides: str) -> TorchEngine:
    """With LoRA on every linear layer of a block but experts."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    names = {name.rpartition(".")[2] for name in linear if "expert" not in name} - {"lm_head", "gate"}
    return engine_of(folder, *EXACT, f"lora.target_modules=[{', '.join(sorted(names))}]", *overrides)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_model(config, tmp_path_factory.mktemp("model")) for kind, config in MODELS.items()}


@pytest.mark.parametrize("kind", MODELS)
def test_loss_and_every_gradient_are_the_plain_step_s(folders: dict[str, Path], kind: str) -> None:
    engine = engine_on(folders[kind], *(() if "experts" in kind or "next" in kind else ("lora.dropout=0.2",)))
    for lengths in ((2,), (73,), (90, 61)) if kind in ("qwen3_5", "granitemoehybrid") else ((70, 41),):
        batch = random_batch(*lengths, seed=sum(lengths))
        loss, plain = gradients(engine, StepMethod(), batch)
        for method in STORES if lengths == (90, 61) else STORES[:1]:
            ours, chunked = gradients(engine, method, batch)
            assert ours == pytest.approx(loss, rel=1e-5)
            assert_same(chunked, plain)


@pytest.mark.parametrize("kind", ["qwen3_5", "granitemoehybrid"])
def test_what_a_state_hands_on_counts(folders: dict[str, Path], kind: str) -> None:
    """Only the last token is scored, chunks away from the first: without the states' gradients theirs would vanish."""
    engine = engine_on(folders[kind])
    batch = random_batch(70)
    batch.loss_weights[:, :-1] = 0
    _, plain = gradients(engine, StepMethod(), batch)
    _, chunked = gradients(engine, StepMethod("chunked", 16), batch)
    assert_same(chunked, plain)
    batch.input_ids[:, :16] = batch.input_ids[:, 16:17]
    _, other = gradients(engine, StepMethod("chunked", 16), batch)
    assert any((other[name] - g).norm() > 0.01 * g.norm() for name, g in chunked.items())


def test_no_kernel_takes_a_weight_past_its_lora(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """`mamba_ssm`'s kernel, if it is installed, is given the weight of `out_proj` alone while a layer is training."""
    from transformers.models.granitemoehybrid import modeling_granitemoehybrid as modeling

    engine, batch = engine_on(folders["granitemoehybrid"]), random_batch(40)
    loss, plain = gradients(engine, StepMethod(), batch)

    def kernel(projected: torch.Tensor, *_: Any, outproj_weight: torch.Tensor, **__: Any) -> torch.Tensor:
        return projected[..., : outproj_weight.shape[1]] @ outproj_weight.T

    monkeypatch.setattr(modeling, "mamba2_split_conv1d_scan_combined", kernel)
    again, gradient = gradients(engine, StepMethod(), batch)
    assert again == loss and all(torch.equal(gradient[name], one) for name, one in plain.items())


@pytest.mark.parametrize("kind", ["qwen3_5", "granitemoehybrid"])
def test_frozen_modules_leave_the_other_gradients_as_they_are(folders: dict[str, Path], kind: str) -> None:
    engine = engine_on(folders[kind])
    batch = random_batch(60)
    _, before = gradients(engine, StepMethod("chunked", 24), batch)
    assert engine.freeze(["in_proj_qkv", "in_proj"]) > 0
    _, after = gradients(engine, StepMethod("chunked", 24), batch)
    assert set(after) < set(before)
    assert all(torch.equal(before[name], gradient) for name, gradient in after.items())


@pytest.mark.parametrize("kind", ["qwen3_5", "granitemoehybrid"])
def test_the_store_never_changes_a_bit(folders: dict[str, Path], kind: str) -> None:
    engine = engine_on(folders[kind], "model.quantization=nf4", "training.precision=bfloat16", "lora.dropout=0.1")
    batch = random_batch(100, 60)
    loss, memory = gradients(engine, StepMethod("chunked", 24), batch)
    assert np.isfinite(loss)
    for store, every in (("disk", 1), ("recompute", 2)):
        again, other = gradients(engine, StepMethod("chunked", 24, store, every), batch)  # type: ignore[arg-type]
        assert again == loss
        assert all(torch.equal(other[name], gradient) for name, gradient in memory.items()), store


@pytest.mark.parametrize("kind", ["qwen3_5", "granitemoehybrid"])
def test_scores_and_greedy_text_are_the_plain_ones(folders: dict[str, Path], kind: str) -> None:
    engine = engine_on(folders[kind])
    batch = random_batch(97, 30)
    plain = engine.score(batch)
    prompt = batch.input_ids[0, :40].tolist()
    ids = torch.tensor([prompt])
    written = engine.model.eval().generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, use_cache=False
    )
    engine.use(StepMethod("chunked", 24))
    np.testing.assert_allclose(engine.score(batch), plain, rtol=1e-4, atol=1e-5)
    assert engine.generate(prompt, 12) == written[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ["qwen3_5", "granitemoehybrid", "lfm2"])
def test_transformers_holds_the_states_that_are_computed(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, config = engine_on(folders[kind]), read_config(str(folders[kind]))
    for tokens in (2, 100):
        cache = kv_cache.make_cache(engine.base.config)
        prompt = list(range(1, tokens + 1)) if tokens < 90 else [5] * tokens
        with monkeypatch.context() as patched:
            patched.setattr(kv_cache, "make_cache", lambda *_, cache=cache: cache)
            written = engine.generate(prompt, 1)
        assert kv_cache.cache_bytes(config, tokens, "float32") == kv_cache.held_bytes(cache)
        kept = PromptCache(2**30, 2)
        for _ in range(2):  # states can't be cut, so they aren't kept
            assert list(engine.stream(prompt, 1, kept=kept)) == written and len(kept) == 0
    assert "for recurrent layers" in str(kv_cache.unsupported_bits_reason(config, 8, "cpu"))


def test_layers_are_of_one_kind_if_only_their_place_differs(folders: dict[str, Path]) -> None:
    layers = engine_on(folders["granitemoehybrid"]).base.get_decoder().layers
    assert first_of_each_kind(layers) == [0, 1]
    assert first_of_each_kind(layers, ["full", "full", "windowed"]) == [0, 1, 2]
    layers[2].mamba.time_step_limit = 0.5
    assert first_of_each_kind(layers) == [0, 1, 2]


def test_a_kind_of_layer_that_comes_late_is_tried(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_on(folders["qwen3_5"])
    assert engine.chunked_unsupported_reason() is None
    attention = engine.base.get_decoder().layers[2].self_attn
    forward = attention.forward
    monkeypatch.setattr(attention, "forward", lambda *args, **kw: forward(*args, **kw | {"past_key_values": None}))
    with pytest.raises(InputError, match=r"can't be trained in chunks: .*a layer did not ask its cache"):
        engine.use(StepMethod("chunked", 24))
    assert len(engine.base.get_decoder().layers) == 3


def test_a_step_is_planned_as_it_is_measured(folders: dict[str, Path]) -> None:
    engine, method = engine_on(folders["granitemoehybrid"], "model.quantization=nf4"), StepMethod("chunked", 50)
    engine.use(method)
    batch = Batch.dummy(100)
    engine.accumulate(batch, 1.0, 0)
    engine.apply_update(1e-4, 1.0)
    engine.accumulate(batch, 1.0, 1)
    tracker = PeakTracker()
    moments = [moment for state in engine.optimizer.state.values() for moment in state.values()]
    gradients_held = [parameter.grad for parameter in engine.parameters.values() if parameter.grad is not None]
    tracker.adopt([*tensors_of(engine.model), *gradients_held, *moments], "held")
    with tracker:
        engine.accumulate(batch, 1.0, 2)
        engine.apply_update(1e-4, 1.0)
    run = TorchDryRun(
        read_config(str(folders["granitemoehybrid"])), engine._settings, method, "cpu", torch.float32, ADDED
    )
    planned = run.whole(100)
    assert max(size for name, size in planned.items() if name.startswith("peak ")) == pytest.approx(
        tracker.peak, rel=0.01
    )


def test_a_single_token_is_no_chunk_unless_it_is_all() -> None:
    assert chunk_spans(49, 24) == [(0, 24), (24, 49)]
    assert chunk_spans(50, 24) == [(0, 24), (24, 48), (48, 50)]
    assert chunk_spans(48, 24) == [(0, 24), (24, 48)]
    assert chunk_spans(1, 24) == [(0, 1)]
    assert chunk_spans(25, 24) == [(0, 25)]
