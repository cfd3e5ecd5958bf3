"""What no key says alone: values that are each fine and can't be meant together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from longrepo.config.phase_list import GivenPhase, phase_list
from longrepo.config.schema import ContextSettings, Settings


def impossible_combinations(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what was expected) for each impossible combination."""
    data, model, phases = settings.data, settings.model, phase_list(settings.long_context)
    if data.overlap >= model.max_position_embeddings:
        yield (
            "data.overlap",
            f"must be below model.max_position_embeddings ({model.max_position_embeddings}), got {data.overlap}",
        )
    if data.commit_share + data.question_share >= 1:
        yield (
            "data.question_share",
            "data.commit_share and data.question_share must leave room for files: expected a sum below 1, "
            f"got {data.commit_share + data.question_share:g}",
        )
    if settings.training.weights == "all" and model.quantization != "none":
        yield "training.weights", "all needs model.quantization=none: 4-bit weights can't be trained themselves"
    yield from _positions(settings.context, "context.")
    if settings.context.method != "none" and settings.context.target_length is None:
        how = f"context.method={settings.context.method} needs the tokens to be reached, such as 16384"
        yield "context.target_length", how
    yield from _lengths(phases)
    yield from _further(phases)
    on = [phase for phase in phases if phase.enabled is not False]
    if not any(phase.epochs for phase in on):
        yield phases[0].setting("epochs"), "every phase has 0 epochs or is disabled: nothing would be trained"
    for before, phase in pairwise(on):
        if phase.enabled == "auto" and before.epochs == 0:
            yield phase.setting("enabled"), f"auto judges phase {before.number}, which has 0 epochs: use true or false"


def _positions(context: ContextSettings, prefix: str) -> Iterator[tuple[str, str]]:
    if context.method == "none" and context.factor is not None:
        yield f"{prefix}factor", f"{prefix}method=none scales nothing: give a method, or leave the factor out"
    if context.method != "longrope" and context.long_factors is not None:
        yield f"{prefix}long_factors", f"only {prefix}method=longrope takes them, got {context.method}"


def _lengths(phases: Sequence[GivenPhase]) -> Iterator[tuple[str, str]]:
    for before, phase in pairwise(phases):
        below, cap, low = before.max_length, phase.max_length, phase.min_length
        name = before.setting("max_length").removeprefix("long_context.")
        if below >= cap:
            yield phase.setting("max_length"), f"must be above {name} ({below}), got {cap}"
        elif not below < low <= cap:
            own = phase.setting("max_length").removeprefix("long_context.")
            yield phase.setting("min_length"), f"must be above {name} ({below}) and at most {own} ({cap}), got {low}"


def _further(phases: Sequence[GivenPhase]) -> Iterator[tuple[str, str]]:
    """What is wrong with positions that a phase has for itself."""
    for phase in phases:
        if phase.context is None:
            continue
        yield from _positions(phase.context, phase.setting("context."))
        target = phase.context.target_length
        if target is not None and target < phase.max_length:
            yield (
                phase.setting("context.target_length"),
                f"must reach the phase's max_length ({phase.max_length}), got {target}",
            )
