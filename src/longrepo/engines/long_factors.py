"""LongRoPE's factors for a model, searched on the losses of a few long texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from longrepo.config.load import load_settings
from longrepo.config.schema import ContextSettings
from longrepo.context.change import changes
from longrepo.context.methods import base_factors, yarn_factors
from longrepo.context.rotary import Config, rotary_of
from longrepo.context.search import Factors, Found, search
from longrepo.engines.base import Batch, Engine
from longrepo.engines.choose import choose, create
from longrepo.engines.method import Method
from longrepo.errors import InputError
from longrepo.memory.shape import read_config, read_shape
from longrepo.repository.repository import Repository
from longrepo.sequences.tokenizer import load_tokenizer

TEXTS, CHUNK, NATIVE_TIMES = 2, 512, 4


def find_factors(
    model: str,
    revision: str | None,
    config: Config,
    context: ContextSettings,
    text: Path,
    length: int | None = None,
    rounds: int = 6,
) -> Found:
    """`text`: a file, or a git repository whose files at HEAD are read one after the other. The loss is that of the
    second half of `length` tokens (default: the target, at most four times the native length), unquantised.

    Raises InputError where the model can't be had or scaled so, or the text is shorter.
    """
    changes(config, context)  # what can't be is said before anything is loaded
    rotary = rotary_of(config)
    assert context.target_length is not None
    tokens = min(length or NATIVE_TIMES * rotary.native, context.target_length)
    if tokens <= rotary.native:
        raise InputError(f"--search-length: {tokens} tokens are within the native {rotary.native}: give more")
    modules = read_shape(read_config(model, revision)).lora
    adapted = (
        "q_proj" if "q_proj" in modules else min(modules)
    )  # an engine has an adapter; this one stays without effect
    overrides = [f"model.name={model}", "model.quantization=none", "data.structure_tokens=false", "lora.r=1"]
    settings = load_settings(None, [*overrides, f"lora.target_modules=[{adapted}]"])
    named = settings.model.model_copy(update={"revision": revision})
    settings = settings.model_copy(update={"model": named, "context": context})
    tokenizer = load_tokenizer(model, revision, False)
    batches = _batches(tokenizer.encode(_read(text)), tokens, text)
    engine = create(choose("auto", "auto"), settings, tokenizer)
    if engine.why_not_chunked() is None:
        engine.use(Method("chunked", CHUNK))
    extension = context.target_length / rotary.native
    starts = (
        context.long_factors or yarn_factors(rotary, extension),
        base_factors(rotary, extension),
        [extension] * (rotary.size // 2),
    )
    return search(lambda factors: _loss(engine, context, factors, batches), starts, extension, rounds)


def _loss(engine: Engine, context: ContextSettings, factors: Factors, batches: Sequence[Batch]) -> float:
    engine.position(context.model_copy(update={"long_factors": factors}))
    return float(np.mean([engine.score(batch).sum() / batch.weight for batch in batches]))


def _batches(ids: Sequence[int], tokens: int, text: Path) -> list[Batch]:
    """Texts from evenly spaced places; a text's second half is scored."""
    if len(ids) < tokens:
        raise InputError(f"--search-on {text}: {len(ids):,} tokens, and {tokens:,} are needed; give a longer text")
    count = min(TEXTS, len(ids) // tokens)
    weights = np.zeros(tokens, np.float32)
    weights[tokens // 2 :] = 1
    starts = [round(at * (len(ids) - tokens) / max(1, count - 1)) for at in range(count)]
    return [Batch.of([(ids[start : start + tokens], weights)], 0) for start in starts]


def _read(text: Path) -> str:
    if text.is_dir():
        with Repository.open(text) as repository:
            files = repository.snapshot(repository.resolve()).files
            return "\n".join(file.text for file in files)
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--search-on {text}: can't be read as text ({error}); give a file or a repository") from None
