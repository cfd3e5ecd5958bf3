"""A small evolutionary search for a model's LongRoPE factors, on the losses of a few long texts (Ding et al. 2024).

As in the paper, it starts from the factors of the other methods, mutates and crosses the best, never lets a factor fall
from one frequency to the next lower one, and bounds factors by 1.25 times the extension. Unlike the paper, it leaves no
first tokens unscaled, because neither transformers nor mlx-lm supports that. The same seed and losses give the same
factors.
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
from longrepo.data.tokenizer_loading import load_tokenizer
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
_MUTATION_SPREAD = 0.25  # standard deviation of a mutation's logarithm


@dataclass(frozen=True)
class FactorSearchResult:
    """The best `factors` and their `loss`; `start`: the lowest loss among the initial ones; `tried`: how many were
    measured."""

    factors: Factors
    loss: float
    start: float
    tried: int


def evolve_factors(
    loss: Callable[[Factors], float], starts: Sequence[Sequence[float]], extension: float, rounds: int, seed: int = 0
) -> FactorSearchResult:
    """Return the factors with the lowest loss after `rounds` rounds of at most five measurements each. `extension`:
    target length / native length; `starts`: initial factors, from the highest frequency to the lowest."""
    generator, bound = random.Random(seed), extension * _BOUND_FACTOR
    measured: dict[Factors, float] = {}

    def measure(factors: Sequence[float]) -> None:
        allowed = _constrain(factors, bound)
        if allowed not in measured:
            measured[allowed] = loss(allowed)

    for factors in starts:
        measure(factors)
    first = min(measured.values())
    for _ in range(rounds):
        best = sorted(measured, key=lambda one: measured[one])[:PARENTS]
        for _ in range(MUTATIONS):
            measure(_mutate(generator.choice(best), generator))
        for _ in range(CROSSOVERS):
            parents = zip(generator.choice(best), generator.choice(best), strict=True)
            measure([generator.choice(pair) for pair in parents])
    result = min(measured, key=lambda one: measured[one])
    return FactorSearchResult(result, measured[result], first, len(measured))


def _mutate(factors: Factors, generator: random.Random) -> list[float]:
    """Multiply a run of neighboring factors by the same random number."""
    first, last = sorted(generator.randrange(len(factors)) for _ in range(2))
    by = math.exp(generator.gauss(0, _MUTATION_SPREAD))
    return [one * by if first <= index <= last else one for index, one in enumerate(factors)]


def _constrain(factors: Sequence[float], bound: float) -> Factors:
    lowest, allowed = 1.0, []
    for one in factors:
        lowest = min(max(lowest, float(one)), bound)
        allowed.append(round(lowest, 4))
    return tuple(allowed)


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
    """Search factors for a model on `text`, a file or a git repository whose files at HEAD are joined.

    The loss is that of the second half of `length` tokens (default: the target length, at most four times the native
    one), with unquantized weights. Raises InputError if the model isn't available, can't be scaled this way, or the
    text is too short.
    """
    config_changes(config, context)  # fails before anything is loaded
    rotary = rope_config(config)
    assert context.target_length is not None
    tokens = min(length or NATIVE_MULTIPLE * rotary.native, context.target_length)
    if tokens <= rotary.native:
        raise InputError(f"--search-length: {tokens} tokens lie within the native {rotary.native}; give a larger one")
    modules = read_shape(read_config(model, revision)).lora
    adapted = "q_proj" if "q_proj" in modules else min(modules)  # an engine needs an adapter; this one has no effect
    overrides = [f"model.name={model}", "model.quantization=none", "data.structure_tokens=none", "lora.r=1"]
    settings = load_settings(None, [*overrides, f"lora.target_modules=[{adapted}]"])
    named = settings.model.model_copy(update={"revision": revision})
    settings = settings.model_copy(update={"model": named, "context": context})
    tokenizer = load_tokenizer(model, revision, "none")
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
    """Take texts from evenly spaced places; the second half of each is scored."""
    if len(ids) < tokens:
        raise InputError(f"--search-on {text}: {len(ids):,} tokens, but {tokens:,} are needed; give a longer text")
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
