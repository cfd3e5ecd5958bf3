"""What a person is told of a model's positions."""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.config.schema import ContextSettings
from longrepo.context.change import changes, reach_of
from longrepo.context.rotary import Config, is_rotary, rotary_of, widest_window


def lines(config: Config, context: ContextSettings) -> Iterator[str]:
    """Of a configuration that `context` is going to change; nothing of one whose positions stay as they are."""
    if not is_rotary(config):
        return
    after = {**config, **changes(config, context)}
    kind, window = (after["rope_parameters"] or {}).get("rope_type"), widest_window(after)
    if context.target_length is not None:
        native = rotary_of(config).native
        yield f"positions: {native:,} to {reach_of(after):,} tokens, {_how(context, native, window)}"
    if context.window != "keep":
        yield f"attention window: {_window(config.get('sliding_window'))} to {_window(after.get('sliding_window'))}"
    if kind in ("dynamic", "longrope"):
        yield f"{kind}: every text at the frequencies of {reach_of(after):,} tokens, however short it is"


def _how(context: ContextSettings, native: int, window: int | None) -> str:
    if context.method != "none":
        return f"context.method={context.method}"
    if window is not None and window <= native:
        return f"not scaled: no token sees another that is {window:,} or more away"
    return "not scaled: what lies farther apart than it was trained to is extrapolated"


def _window(tokens: int | None) -> str:
    return "none" if tokens is None else f"{tokens:,} tokens"
