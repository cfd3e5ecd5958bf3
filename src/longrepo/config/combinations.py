"""What no key says alone: values that are each fine and can't be meant together."""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.config.schema import ContextSettings, LongContextSettings, Settings


def impossible_combinations(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what was expected) for each impossible combination."""
    data, model, phases = settings.data, settings.model, settings.long_context
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
    yield from _positions(settings.context)
    yield from _lengths(phases)
    phase3_runs = phases.phase3_enabled is not False and phases.phase3_epochs > 0
    if phases.phase1_epochs + phases.phase2_epochs == 0 and not phase3_runs:
        yield (
            "long_context.phase1_epochs",
            "every phase has 0 epochs or is disabled: nothing would be trained",
        )
    if phases.phase3_enabled == "auto" and phases.phase2_epochs == 0:
        yield "long_context.phase3_enabled", "auto judges phase 2, which has 0 epochs: use true or false"


def _positions(context: ContextSettings) -> Iterator[tuple[str, str]]:
    if context.method != "none" and context.target_length is None:
        yield "context.target_length", f"context.method={context.method} needs the tokens to be reached, such as 16384"
    if context.method == "none" and context.factor is not None:
        yield "context.factor", "context.method=none scales nothing: give a method, or leave the factor out"
    if context.method != "longrope" and context.long_factors is not None:
        yield "context.long_factors", f"only context.method=longrope takes them, got {context.method}"


def _lengths(phases: LongContextSettings) -> Iterator[tuple[str, str]]:
    caps = (phases.phase1_max_length, phases.phase2_max_length, phases.phase3_max_length)
    for number, low in ((2, phases.phase2_min_length), (3, phases.phase3_min_length)):
        below, cap = caps[number - 2], caps[number - 1]
        if below >= cap:
            yield (
                f"long_context.phase{number}_max_length",
                f"must be above phase{number - 1}_max_length ({below}), got {cap}",
            )
        elif not below < low <= cap:
            yield (
                f"long_context.phase{number}_min_length",
                f"must be above phase{number - 1}_max_length ({below}) and at most "
                f"phase{number}_max_length ({cap}), got {low}",
            )
