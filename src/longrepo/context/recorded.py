"""At which positions an adapter was trained: a file beside it, where they aren't the base's own."""

from __future__ import annotations

import json
from pathlib import Path

from longrepo.config.schema import ContextSettings
from longrepo.context.change import OWN
from longrepo.errors import InputError

POSITIONS = "positions.json"


def record(folder: Path, context: ContextSettings) -> None:
    """Write the setting into an existing adapter's folder; nothing for a base's own positions."""
    if context != OWN:
        text = json.dumps(context.model_dump(mode="json"), indent=2)
        (folder / POSITIONS).write_text(text + "\n", encoding="utf-8")


def recorded(folder: Path) -> ContextSettings:
    """The setting an adapter was trained at. Raises InputError where its record can't be read."""
    file = folder / POSITIONS
    try:
        return ContextSettings.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return OWN
    except (OSError, ValueError):
        raise InputError(f"{file}: can't be read as a position setting; copy the adapter's folder again") from None


def check_recorded(folder: Path, asked: ContextSettings) -> None:
    """Raises InputError where an adapter was trained at other positions than those asked for.

    With `dynamic` the length may be another: it is the text's.
    """
    trained = recorded(folder)
    if _what_matters(trained) != _what_matters(asked):
        raise InputError(
            f"{folder}: this adapter was trained at other positions ({said(trained)}) than those asked for "
            f"({said(asked)}): ask for the same ({options(trained)}), or train it on there: a further phase, or "
            "--checkpoint with the new setting"
        )


def said(context: ContextSettings) -> str:
    """In a few words."""
    if context == OWN:
        return "the base's own"
    reach = f" to {context.target_length:,} tokens" if context.target_length else ""
    window = "" if context.window == "keep" else f", window {context.window}"
    return f"{context.method}{reach}{window}"


def options(context: ContextSettings) -> str:
    """As they are given to a command."""
    own = OWN.model_dump()
    given = {name: value for name, value in context.model_dump().items() if value != own[name]}
    if "long_factors" in given:
        given["long_factors"] = "[…]"
    return " ".join(f"--set context.{name}={value}" for name, value in given.items()) or "no context settings"


def _what_matters(context: ContextSettings) -> ContextSettings:
    return context.model_copy(update={"target_length": None}) if context.method == "dynamic" else context
