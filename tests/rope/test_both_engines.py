"""Both engines compute every method alike, past the native length, at once and in chunks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch

from longrepo import embedded
from longrepo.config.loader import load_settings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, read_context

NATIVE, TOKENS, CHUNK, TOLERANCE = 64, 130, 50, 1e-4  # the text is longer than the native length, or nothing is scaled
METHODS = ("none", "linear", "base", "dynamic", "yarn", "longrope", "llama3")
EXACT = (
    "model.quantization=none",
    "data.structure_tokens=false",
    "lora.r=2",
    "lora.dropout=0",
    "training.precision=float32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, said to be trained to fewer positions: its 2,048 would take MLX minutes on a CPU."""
    folder = tmp_path_factory.mktemp("model") / "embedded"
    shutil.copytree(embedded.path(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": NATIVE}))
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> RepoTokenizer:
    return load_tokenizer("embedded", None, "none")


@pytest.fixture(scope="module")
def ids(tokenizer: RepoTokenizer) -> npt.NDArray[np.int64]:
    return np.array([tokenizer.encode(Path(embedded.__file__).with_name("README.md").read_text())[:TOKENS]])


def engines(folder: Path, tokenizer: RepoTokenizer, *overrides: str) -> tuple[TorchEngine, MlxEngine]:
    settings = load_settings(None, [*EXACT, f"model.name={folder}", *overrides])
    return TorchEngine.create(settings, tokenizer, "cpu"), MlxEngine.create(settings, tokenizer, "cpu")


@pytest.fixture(scope="module")
def unscaled(folder: Path, tokenizer: RepoTokenizer, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    settings = load_settings(None, [*EXACT, f"model.name={folder}"])
    return TorchEngine.create(settings, tokenizer, "cpu").score(scored(ids))


def scored(ids: npt.NDArray[np.int64]) -> Batch:
    return Batch.of([(ids[0], np.ones(TOKENS))], 0)


@pytest.mark.parametrize("method", METHODS)
def test_logits_and_chunked_losses_agree(
    method: str,
    folder: Path,
    tokenizer: RepoTokenizer,
    ids: npt.NDArray[np.int64],
    unscaled: npt.NDArray[np.float32],
) -> None:
    positions = f"context.method={method}", "context.target_length=512", "context.window=full"
    one, other = engines(folder, tokenizer, *positions)
    with torch.no_grad():
        expected = one.model(input_ids=torch.tensor(ids), use_cache=False).logits.numpy()
    assert np.abs(np.array(other.model(mx.array(ids))) - expected).max() <= TOLERANCE
    whole = one.score(scored(ids))
    for engine in (one, other):
        engine.use(StepMethod("chunked", CHUNK))
        assert np.abs(engine.score(scored(ids)) - whole).max() <= TOLERANCE
    assert (np.abs(unscaled - whole).max() > 100 * TOLERANCE) == (method != "none")


@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_a_chunked_step_has_the_gradients_of_a_plain_one(
    method: str, folder: Path, tokenizer: RepoTokenizer, ids: npt.NDArray[np.int64]
) -> None:
    """Where frequencies depend on the length, the chunks' are the whole text's."""
    positions = f"context.method={method}", "context.target_length=512", "context.window=full"
    engine, _ = engines(folder, tokenizer, *positions)
    found = []
    for chunking in (StepMethod(), StepMethod("chunked", CHUNK)):
        engine.use(chunking)
        loss = engine.accumulate(scored(ids), float(TOKENS), 1)
        norm = torch.cat([p.grad.flatten() for p in engine.parameters.values() if p.grad is not None])
        found.append((loss, norm.clone()))
        engine.drop_gradients()
    (one, left), (other, right) = found
    assert other == pytest.approx(one, rel=1e-6)
    assert (left - right).norm() <= 1e-5 * left.norm()


def test_a_text_s_beginning_is_computed_alike_whatever_follows(
    folder: Path, tokenizer: RepoTokenizer, ids: npt.NDArray[np.int64]
) -> None:
    """Frequencies are the run's, not each call's: otherwise a longer text would change what a cache holds."""
    for engine in engines(folder, tokenizer, "context.method=dynamic", "context.target_length=512"):
        short = Batch.of([(ids[0, :NATIVE], np.ones(NATIVE))], 0)
        assert np.abs(engine.score(short) - engine.score(scored(ids))[:, :NATIVE]).max() <= TOLERANCE


def test_positions_change_on_a_loaded_model(
    folder: Path, tokenizer: RepoTokenizer, ids: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    """As if it had been loaded so, and back again; an adapter that is saved says where it stands."""
    narrow = tmp_path / "narrow"
    shutil.copytree(folder, narrow)
    config = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps(config | {"sliding_window": 32}))
    overrides = "context.method=yarn", "context.target_length=512", "context.window=full"
    context = load_settings(None, overrides).context
    for loaded, fresh in zip(engines(narrow, tokenizer), engines(narrow, tokenizer, *overrides), strict=True):
        before = loaded.score(scored(ids))
        loaded.position(context)
        assert np.array_equal(loaded.score(scored(ids)), fresh.score(scored(ids)))
        loaded.save_adapter(tmp_path)
        assert read_context(tmp_path) == context
        with pytest.raises(InputError, match="reaches no further"):
            loaded.position(context.model_copy(update={"window": "keep"}))
        assert np.array_equal(loaded.score(scored(ids)), fresh.score(scored(ids)))
        loaded.position(NATIVE_CONTEXT)
        assert np.array_equal(loaded.score(scored(ids)), before)
