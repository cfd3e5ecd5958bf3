"""Names of settings: `section.key`, and `section.key[0].name` inside a list of sections."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from longrepo.config.schema import Settings

Part = str | int
_NAME = re.compile(r"\w+(\.\w+|\[\d+\])*")


def dotted(path: Sequence[Part]) -> str:
    """`("long_context", "further_phases", 0, "epochs")` → `long_context.further_phases[0].epochs`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def path_in(key: str) -> tuple[Part, ...] | None:
    """The other way round; None for what is no name of a setting inside a section."""
    if not _NAME.fullmatch(key):
        return None
    parts = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"\w+", key))
    deep = len(parts) > 3 and isinstance(parts[2], int)
    return parts if len(parts) == 2 or deep else None


def path_of(location: Sequence[Part]) -> tuple[Part, ...]:
    """A validation error's location, without what pydantic adds for the members of a union or the items of a value."""
    path: list[Part] = []
    section: type[BaseModel] | None = Settings
    for part in location:
        if section is None:
            break
        path.append(part)
        if isinstance(part, str):
            field = section.model_fields.get(part)
            section = _section_in(field.annotation) if field else None
    return tuple(path)


def nearest(path: Sequence[Part]) -> str | None:
    """The known key that an unknown one was probably meant to be."""
    *above, wrong = path
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    if not above:
        known = [*sections, *(f"{s}.{k}" for s, model in sections.items() for k in model.model_fields)]  # type: ignore[union-attr]
        by_last = {name.rpartition(".")[2]: name for name in known}
        match = difflib.get_close_matches(str(wrong), list(by_last), n=1)
        return by_last[match[0]] if match else None
    section: type[BaseModel] | None = Settings
    for part in above:
        if isinstance(part, str) and section is not None:
            section = _section_in(section.model_fields[part].annotation)
    match = difflib.get_close_matches(str(wrong), list(section.model_fields) if section else [], n=1, cutoff=0.5)
    return dotted((*above, match[0])) if match else None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or a list of them, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _section_in(one))), None)
