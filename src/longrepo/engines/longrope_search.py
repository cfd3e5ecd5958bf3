"""Search LongRoPE factors.

A small search for LongRoPE's factors: evolution from what the other methods divide by (Ding et al. 2024).

Kept from the paper: the starts, mutation and crossover of the best, factors that never fall from one frequency to the
next lower one, and the bound of 1.25 times the extension. Left out: the first tokens that stay unscaled, which neither
transformers nor mlx-lm computes. The same seed and losses find the same factors.

LongRoPE's factors for a model, searched on the losses of a few long texts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrepo.config.loader import load_settings
from longrepo.config.schema import ContextSettings
from longrepo.data.tokenizer import load_tokenizer
from longrepo.engines.base import Batch, Engine, StepMethod
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.errors import InputError
from longrepo.repository.repository import Repository
from longrepo.rope.apply import config_changes
from longrepo.rope.scaling import ModelConfig, base_factors, rope_config, yarn_factors

Factors = tuple[float, ...]
PARENTS, MUTATIONS, CROSSOVERS = 3, 3, 2
_BOUND_FACTOR = 1.25
_MUTATION_SPREAD = 0.25  # of a mutation, in the logarithm


@dataclass(frozen=True)
class FactorSearchResult:
    """`loss` of `factors`; `start` is the lowest loss of those it began with, `tried` how many were measured."""

    factors: Factors
    loss: float
    start: float
    tried: int


def evolve_factors(
    loss: Callable[[Factors], float], starts: Sequence[Sequence[float]], extension: float, rounds: int, seed: int = 0
) -> FactorSearchResult:
    """Factors with the lowest loss found in so many rounds, each of five measurements at most. `extension`: target /
    native length; `starts`: factors from the highest frequency to the lowest."""
    draw, most = random.Random(seed), extension * _BOUND_FACTOR
    measured: dict[Factors, float] = {}

    def measure(factors: Sequence[float]) -> None:
        allowed = _constrain(factors, most)
        if allowed not in measured:
            measured[allowed] = loss(allowed)

    for factors in starts:
        measure(factors)
    first = min(measured.values())
    for _ in range(rounds):
        best = sorted(measured, key=lambda one: measured[one])[:PARENTS]
        for _ in range(MUTATIONS):
            measure(_mutate(draw.choice(best), draw))
        for _ in range(CROSSOVERS):
            measure([draw.choice(pair) for pair in zip(draw.choice(best), draw.choice(best), strict=True)])
    found = min(measured, key=lambda one: measured[one])
    return FactorSearchResult(found, measured[found], first, len(measured))


def _mutate(factors: Factors, draw: random.Random) -> list[float]:
    """A run of neighbors stretched or squeezed together."""
    first, last = sorted(draw.randrange(len(factors)) for _ in range(2))
    by = math.exp(draw.gauss(0, _MUTATION_SPREAD))
    return [one * by if first <= index <= last else one for index, one in enumerate(factors)]


def _constrain(factors: Sequence[float], most: float) -> Factors:
    lowest, found = 1.0, []
    for one in factors:
        lowest = min(max(lowest, float(one)), most)
        found.append(round(lowest, 4))
    return tuple(found)


SCORED_TEXTS, SCORING_CHUNK, NATIVE_MULTIPLE = 2, 512, 4


def search_long_factors(
    model: str,
    revision: str | None,
    config: ModelConfig,
    context: ContextSettings,
    text: Path,
    length: int | None = None,
    rounds: int = 6,
) -> FactorSearchResult:
    """`text`: a file, or a git repository whose files at HEAD are read one after the other. The loss is that of the
    second half of `length` tokens (default: the target, at most four times the native length), unquantised.

    Raises InputError where the model can't be had or scaled so, or the text is shorter.
    """
    config_changes(config, context)  # what can't be is said before anything is loaded
    rotary = rope_config(config)
    assert context.target_length is not None
    tokens = min(length or NATIVE_MULTIPLE * rotary.native, context.target_length)
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
    batches = _scored_batches(tokenizer.encode(_read_text(text)), tokens, text)
    engine = create_engine(choose_engine("auto", "auto"), settings, tokenizer)
    if engine.chunked_unsupported_reason() is None:
        engine.use(StepMethod("chunked", SCORING_CHUNK))
    extension = context.target_length / rotary.native
    starts = (
        context.long_factors or yarn_factors(rotary, extension),
        base_factors(rotary, extension),
        [extension] * (rotary.size // 2),
    )
    return evolve_factors(lambda factors: _factors_loss(engine, context, factors, batches), starts, extension, rounds)


def _factors_loss(engine: Engine, context: ContextSettings, factors: Factors, batches: Sequence[Batch]) -> float:
    engine.position(context.model_copy(update={"long_factors": factors}))
    return float(np.mean([engine.score(batch).sum() / batch.weight for batch in batches]))


def _scored_batches(ids: Sequence[int], tokens: int, text: Path) -> list[Batch]:
    """Texts from evenly spaced places; a text's second half is scored."""
    if len(ids) < tokens:
        raise InputError(f"--search-on {text}: {len(ids):,} tokens, and {tokens:,} are needed; give a longer text")
    count = min(SCORED_TEXTS, len(ids) // tokens)
    weights = np.zeros(tokens, np.float32)
    weights[tokens // 2 :] = 1
    starts = [round(at * (len(ids) - tokens) / max(1, count - 1)) for at in range(count)]
    return [Batch.of([(ids[start : start + tokens], weights)], 0) for start in starts]


def _read_text(text: Path) -> str:
    if text.is_dir():
        with Repository.open(text) as repository:
            files = repository.snapshot(repository.resolve()).files
            return "\n".join(file.text for file in files)
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--search-on {text}: can't be read as text ({error}); give a file or a repository") from None
