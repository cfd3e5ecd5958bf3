"""The torch engine against plain autograd through PEFT's own model, and its files against plain PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from tiny import ADDED, VOCABULARY, TinyTokenizer, model_folder, settings
from transformers import AutoModelForCausalLM

from longrepo.engines.adapter_io import scale_adapter
from longrepo.engines.base import Batch
from longrepo.engines.torch import loss as loss_module
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import InputError, RunError

LENGTHS = (2, 17, 64, 100)  # 16 is the sliding window, so most lie past it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def engine_of(folder: Path, *overrides: str) -> TorchEngine:
    return TorchEngine.create(settings(folder, *overrides), TinyTokenizer(), "cpu")


def batch_of(*lengths: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        weights = rng.random(length) * (rng.random(length) > 0.3)  # a third is not scored
        weights[-1] = 1.0
        rows.append((rng.integers(0, VOCABULARY + ADDED, length).tolist(), weights.tolist()))
    return Batch.of(rows, 0)


def make_lora_count(engine: TorchEngine) -> None:
    """LoRA's B starts at zero, which would hide A's gradient and the adapter's effect."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in engine.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)


def plain_peft(folder: Path, adapter: Path) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(VOCABULARY + ADDED, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter, is_trainable=True)


def plain_weighted_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The definition, spelled out: every logit at once, an attention mask, one cross-entropy."""
    ids, weights = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.loss_weights)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
    logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (nll * weights[:, 1:].flatten()).sum() / batch.weight


@pytest.mark.parametrize("lengths", [(length,) for length in LENGTHS] + [(33, 100, 7)])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_loss_and_gradients_are_those_of_the_plain_computation(
    folder: Path, tmp_path: Path, lengths: tuple[int, ...], checkpointing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "LOSS_CHUNK", 24)  # several chunks, a ragged one last
    engine = engine_of(folder, "model.quantization=none", f"training.use_gradient_checkpointing={checkpointing}")
    make_lora_count(engine)
    engine.save_adapter(tmp_path)
    batch = batch_of(*lengths)

    ours = engine.accumulate(batch, batch.weight, key=3) / batch.weight
    reference = plain_peft(folder, tmp_path)
    plain = plain_weighted_loss(reference, batch)
    plain.backward()

    assert ours == pytest.approx(plain.item(), rel=1e-5)
    gradients = {n: p.grad for n, p in reference.named_parameters() if p.requires_grad}
    rows = gradients.pop("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta.default")
    assert engine.rows is not None
    torch.testing.assert_close(engine.rows.weight.grad, rows, rtol=1e-4, atol=1e-7)
    assert gradients.keys() == {n for n in engine.parameters if "lora" in n}
    for name, gradient in gradients.items():
        difference = (engine.parameters[name].grad - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert difference < 1e-5, name


def test_a_sequence_without_a_scored_token_adds_nothing(folder: Path) -> None:
    engine = engine_of(folder)
    batch = Batch.of([([5, 6, 7, 8], [0.0] * 4)], 0)
    assert engine.accumulate(batch, 1.0, key=0) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in engine.parameters.values())


def test_micro_batches_accumulate_to_one_big_batch(folder: Path) -> None:
    engine = engine_of(folder, "model.quantization=none")
    make_lora_count(engine)
    together = batch_of(40, 23, 9, seed=4)
    engine.accumulate(together, together.weight, key=0)
    big = {n: p.grad.clone() for n, p in engine.parameters.items()}
    engine.drop_gradients()
    for row in range(3):
        length = int(together.lengths[row])
        one = Batch.of([(together.input_ids[row, :length].tolist(), together.loss_weights[row, :length].tolist())], 0)
        engine.accumulate(one, together.weight, key=0)
    for name, parameter in engine.parameters.items():
        torch.testing.assert_close(parameter.grad, big[name], rtol=1e-4, atol=1e-6)


def test_score_is_the_loss_of_each_weighted_token_and_zero_elsewhere(folder: Path, tmp_path: Path) -> None:
    engine = engine_of(folder, "model.quantization=none")
    make_lora_count(engine)
    engine.save_adapter(tmp_path)
    batch = batch_of(30, 50)
    scores = engine.score(batch)
    assert scores.shape == batch.input_ids.shape
    assert not scores[:, 0].any() and not scores[0, 30:].any()
    assert ((scores > 0) == (batch.loss_weights > 0)).all()
    with torch.no_grad():
        plain = plain_weighted_loss(plain_peft(folder, tmp_path).eval(), batch).item()
    assert (scores * batch.loss_weights).sum() / batch.weight == pytest.approx(plain, rel=1e-5)


def test_base_only_is_the_base_with_rows_of_the_nearest_tokens(folder: Path) -> None:
    engine = engine_of(folder, "model.quantization=none")
    batch = batch_of(40)
    fresh = engine.score(batch)
    for step in range(3):
        engine.accumulate(batch, batch.weight, step)
        engine.apply_update(1e-2, 1.0)
    assert np.abs(engine.score(batch) - fresh).max() > 1e-2
    with engine.base_only():
        np.testing.assert_array_equal(engine.score(batch), fresh)
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(VOCABULARY + ADDED, mean_resizing=False)
    with torch.no_grad():
        for new, source in TinyTokenizer().initial_from.items():
            base.get_input_embeddings().weight[new] = base.get_input_embeddings().weight[source]
        plain = plain_weighted_loss(base.eval(), batch).item()
    assert (fresh * batch.loss_weights).sum() / batch.weight == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_scoring_does_not_change_what_training_computes(folder: Path, quantization: str) -> None:
    """bitsandbytes repacks weights in eval mode on some CPUs; after that no gradient passes the layer."""
    batch = batch_of(48)
    gradients = []
    for score_first in (False, True):
        engine = engine_of(folder, f"model.quantization={quantization}")
        make_lora_count(engine)
        if score_first:
            engine.score(batch)
            engine.generate([1, 2, 3], 4)
        engine.accumulate(batch, batch.weight, key=0)
        gradients.append({n: p.grad for n, p in engine.parameters.items()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        assert torch.equal(gradient, gradients[1][name]), name


def test_the_key_alone_decides_the_dropout_masks(folder: Path) -> None:
    engine = engine_of(folder, "lora.dropout=0.5")
    make_lora_count(engine)
    batch = batch_of(64)
    losses = [engine.accumulate(batch, batch.weight, key) for key in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]
    np.testing.assert_array_equal(engine.score(batch), engine.score(batch))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_saved_and_loaded_it_goes_on_bit_for_bit(folder: Path, tmp_path: Path, quantization: str) -> None:
    batch = batch_of(32)
    overrides = (f"model.quantization={quantization}", "lora.dropout=0.1")
    engine = engine_of(folder, *overrides)
    for step in range(3):
        engine.accumulate(batch, batch.weight, step)
        engine.apply_update(1e-3, 1.0)
    engine.save_adapter(tmp_path)
    engine.save_optimizer(tmp_path / "optimizer.safetensors")
    again = engine_of(folder, *overrides)
    again.load_adapter(tmp_path)
    again.load_optimizer(tmp_path / "optimizer.safetensors")
    for one in (engine, again):
        one.accumulate(batch, batch.weight, 9)
        one.apply_update(1e-3, 1.0)
    for name, parameter in engine.parameters.items():
        assert torch.equal(parameter, again.parameters[name]), name


def test_plain_peft_loads_the_adapter_and_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    engine = engine_of(folder, "model.quantization=none")
    batch = batch_of(60)
    for step in range(3):
        engine.accumulate(batch, batch.weight, step)
        engine.apply_update(1e-2, 1.0)
    engine.save_adapter(tmp_path)
    ids = torch.from_numpy(batch.input_ids)
    engine.model.eval()
    with torch.no_grad():
        ours = engine.model(input_ids=ids).logits
        theirs = plain_peft(folder, tmp_path).eval()(input_ids=ids).logits
    assert ours.shape[-1] == VOCABULARY + ADDED
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_scaled_adapter_adds_that_share_of_the_update(folder: Path, tmp_path: Path) -> None:
    engine = engine_of(folder, "model.quantization=none")
    make_lora_count(engine)
    engine.save_adapter(tmp_path)
    before = load_file(tmp_path / "adapter_model.safetensors")
    scale_adapter(tmp_path, 0.3)
    scaled = load_file(tmp_path / "adapter_model.safetensors")
    for name, tensor in before.items():
        share = 0.3 if "lora_B" in name else 1.0
        np.testing.assert_allclose(scaled[name], share * tensor, rtol=1e-6, err_msg=name)
    again = engine_of(folder, "model.quantization=none")
    again.load_adapter(tmp_path)
    ids = torch.from_numpy(batch_of(60).input_ids)
    with torch.no_grad():
        for one in (engine, again):
            one.model.eval()
        theirs = plain_peft(folder, tmp_path).eval()(input_ids=ids).logits
        torch.testing.assert_close(again.model(input_ids=ids).logits, theirs, rtol=0, atol=1e-5)
        assert not torch.allclose(engine.model(input_ids=ids).logits, theirs, atol=1e-3)


def test_an_adapter_of_peft_itself_can_be_loaded(folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(VOCABULARY + ADDED, mean_resizing=False)
    theirs = get_peft_model(
        base,
        LoraConfig(
            r=4,
            lora_alpha=64,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"],
            task_type="CAUSAL_LM",
            init_lora_weights=False,
            trainable_token_indices=list(range(VOCABULARY, VOCABULARY + ADDED)),
        ),
    ).eval()
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    engine = engine_of(folder, "model.quantization=none")
    engine.load_adapter(tmp_path)
    batch = batch_of(40)
    with torch.no_grad():
        plain = plain_weighted_loss(theirs, batch).item()
    assert (engine.score(batch) * batch.loss_weights).sum() / batch.weight == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}])
def test_untied_heads_train_too(tmp_path: Path, changes: dict[str, bool]) -> None:
    engine = engine_of(model_folder(tmp_path, **changes), "model.quantization=none")
    batch = batch_of(50)
    losses = []
    for step in range(8):
        losses.append(engine.accumulate(batch, batch.weight, step) / batch.weight)
        engine.apply_update(1e-2, 1.0)
    assert losses[-1] < 0.7 * losses[0]


def test_bfloat16_keeps_the_adapter_in_float32(folder: Path) -> None:
    engine = engine_of(folder, "training.precision=bfloat16")
    batch = batch_of(40)
    loss = engine.accumulate(batch, batch.weight, 0) / batch.weight
    assert all(p.dtype == torch.float32 for p in engine.parameters.values())
    exact = engine_of(folder)
    assert loss == pytest.approx(exact.accumulate(batch, batch.weight, 0) / batch.weight, rel=0.02)


def test_released_dropouts_are_set_to_zero_and_said(tmp_path: Path) -> None:
    engine = engine_of(model_folder(tmp_path, attention_dropout=0.1, residual_dropout=0.1, embedding_dropout=0.1))
    assert any("residual_dropout" in note for _, note in engine.choices)
    batch = batch_of(40)
    assert engine.accumulate(batch, 1.0, key=1) == engine.accumulate(batch, 1.0, key=2)


def test_what_cannot_be_had_is_said_in_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="no such folder"):
        engine_of(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no gate_proj; it has"):
        engine_of(folder, "lora.target_modules=[q_proj, gate_proj]")
    with pytest.raises(InputError, match="--device mps"):
        TorchEngine.create(settings(folder), TinyTokenizer(), "mps")
    with pytest.raises(InputError, match=r"nobody/nothing: can't be loaded") as caught:
        engine_of(Path("nobody/nothing"))
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="can't be loaded"):
        engine_of(tmp_path)


@pytest.mark.parametrize(
    "said", ["MPS backend out of memory (MPS allocated: 5 GB)", "DefaultCPUAllocator: can't allocate memory: 9 bytes"]
)
def test_running_out_of_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    engine = engine_of(folder)

    def full(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(said)

    monkeypatch.setattr(engine, "_hidden", full)
    with pytest.raises(RunError, match="out of memory in a step of 40 tokens"):
        engine.accumulate(batch_of(40), 1.0, key=0)
    said = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        engine.accumulate(batch_of(40), 1.0, key=0)


def test_an_adapter_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    engine_of(folder, "lora.r=2").save_adapter(tmp_path)
    with pytest.raises(InputError, match="other LoRA settings"):
        engine_of(folder).load_adapter(tmp_path)
    with pytest.raises(InputError, match="can't be read as an adapter"):
        engine_of(folder).load_adapter(tmp_path / "nowhere")
