"""The settings file that `longrepo init` writes: every key explained, at its default and commented out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from longrepo.config.schema import LongContextSettings, ModelSettings

_HEAD = """\
# Settings for longrepo (--config). Every key is listed with its default, commented out: remove the `#` before a key to
# set it. What isn't set keeps its default, or is chosen by `longrepo pipeline`. Any command overrides: --set lora.r=16
"""
_KEY = re.compile(r"^  (\w+): ")
_PLAIN = re.compile(r"[\w./@-]+")
_RANGE = re.compile(r"the phase takes \d+–\d+")


def settings_template(values: Mapping[str, object]) -> str:
    """Return the text of a settings file in which only `values` (dotted key → value) are set."""
    every = Path(__file__).with_name("training_config.yaml").read_text(encoding="utf-8")
    lines, section, floor = [_HEAD], "", 0
    for line in every.split("\n\n", 1)[1].split("\n"):
        if line.endswith(":") and not line.startswith(" "):
            section = line[:-1]
        elif found := _KEY.match(line):
            name = f"{section}.{found[1]}"
            cap = values.get(name.replace("min_length", "max_length"))
            if isinstance(cap, int) and "_length" in name:
                line, floor = _RANGE.sub(f"the phase takes {floor + 1}–{cap}", line), cap
            line = _with_setting(line, f"  {found[1]}: {_yaml(values[name])}" if name in values else None)
        lines.append(line)
    return "\n".join(lines)


def _with_setting(line: str, setting: str | None) -> str:
    """Return a line with another setting, or with its own commented out; its comment keeps its column if it can."""
    own, hash_, comment = line.partition(" #")
    text = setting or f"  # {own.strip()}"
    return f"{text.ljust(len(own))} #{comment}" if hash_ else text


def _yaml(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def values_for_model(name: str, reach: int | None) -> dict[str, object]:
    """Return the settings for a model whose positions reach `reach` tokens (None: not known): its name, and shorter
    phases if it can't be trained at the default ones. They are a quarter of its positions, half of them, and all."""
    values: dict[str, object] = {"model.name": name}
    defaults = LongContextSettings()
    if reach is None or reach >= defaults.phase3_max_length or reach < 256:
        return values
    caps = (reach // 4, reach // 2, reach)
    values["model.max_position_embeddings"] = min(reach, ModelSettings().max_position_embeddings)
    values |= {f"long_context.phase{number}_max_length": cap for number, cap in enumerate(caps, 1)}
    values |= {
        f"long_context.phase{number}_min_length": cap * 3 // 4 for number, cap in enumerate(caps, 1) if number > 1
    }
    return values
