"""Extend a model's folder to other positions: change the files that state them, and keep all others as they are."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError
from longrepo.rope.apply import ConfigChanges, config_changes
from longrepo.rope.scaling import check_published_config

CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILE, CARD_FILE = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "README.md",
)
_MIN_LINK_BYTES = 1 << 20  # bytes from which a file is linked
_NEW_TOKENS = 4096  # of an answer without another limit
_CARD_MARKERS = "<!-- longrepo: context -->", "<!-- longrepo: context ends -->"


@dataclass(frozen=True)
class ExtendedFolder:
    """An extended copy of the folder `source`. `texts`: file name → its new text. `changed`: keys of config.json."""

    source: Path
    texts: Mapping[str, str]
    changed: ConfigChanges

    @staticmethod
    def of(
        source: Path,
        name: str,
        config: Mapping[str, Any],
        context: ContextSettings,
        tokenizer: Mapping[str, str] | None = None,
        note: str = "",
    ) -> ExtendedFolder:
        """Prepare the new files. `name`: for the card; `config`: config.json with transformers' defaults; `tokenizer`:
        texts to write in place of the tokenizer's; `note`: for the card.

        Raises InputError if the folder's files can't be read or contradict each other, or `context` doesn't apply.
        """
        published = _read_json(source / CONFIG_FILE)
        check_published_config(published)
        changed = _with_legacy_keys(config_changes(config, context))
        assert context.target_length is not None
        texts = {
            CONFIG_FILE: _to_json(published | changed),
            GENERATION_FILE: _to_json(_generation_config(source, published, context)),
        }
        texts |= tokenizer or {}
        if TOKENIZER_FILE in texts or (source / TOKENIZER_FILE).is_file():
            own = json.loads(texts[TOKENIZER_FILE]) if TOKENIZER_FILE in texts else _read_json(source / TOKENIZER_FILE)
            texts[TOKENIZER_FILE] = _to_json(own | {"model_max_length": context.target_length})
        texts[CARD_FILE] = _card(source / CARD_FILE, name, {**config, **changed}, context, note)
        return ExtendedFolder(source, texts, changed)

    def difference(self) -> str:
        """Return the changes in the format of `diff -u`."""
        parts: list[str] = []
        for name, text in self.texts.items():
            file = self.source / name
            before = file.read_text(encoding="utf-8") if file.is_file() else ""
            if name.endswith(".json") and before:
                before = _to_json(json.loads(before))
            lines = before.splitlines(True), text.splitlines(True)
            parts += difflib.unified_diff(*lines, f"{name}, as it is", f"{name}, extended")
        return "".join(parts)

    def write(self, folder: Path, copy: bool = False) -> str:
        """Fill an existing empty folder; return whether the large files were linked or copied. None is read whole."""
        linked, copied = 0, 0
        for file in self._others():
            target = folder / file.relative_to(self.source)
            target.parent.mkdir(parents=True, exist_ok=True)
            size = file.stat().st_size
            if size >= _MIN_LINK_BYTES and not copy and _link(file, target):
                linked += size
                continue
            shutil.copyfile(file, target)
            copied += size if size >= _MIN_LINK_BYTES else 0
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        if linked:
            return f"{linked / 1e9:.2f} GB of weights hard-linked to those in {self.source}"
        return f"{copied / 1e9:.2f} GB of weights copied" if copied else "the folder has no weights"

    def _others(self) -> Iterator[Path]:
        for file in sorted(self.source.rglob("*")):
            parts = file.relative_to(self.source).parts
            ours = len(parts) == 1 and parts[0] in self.texts
            if file.is_file() and not ours and not any(part.startswith((".", "__")) for part in parts):
                yield file


def _with_legacy_keys(changed: ConfigChanges) -> ConfigChanges:
    """Add the older keys: transformers 5 reads `rope_parameters`, mlx-lm and older versions the other two."""
    if not (parameters := changed.get("rope_parameters")):
        return changed
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    plain = parameters.get("rope_type", "default") == "default"
    old = None if plain else scaling | {"type": parameters["rope_type"]}
    return changed | {"rope_theta": parameters["rope_theta"], "rope_scaling": old}


def _generation_config(source: Path, published: Mapping[str, Any], context: ContextSettings) -> dict[str, Any]:
    if (source / GENERATION_FILE).is_file():
        tree = _read_json(source / GENERATION_FILE)
        tree.pop("_from_model_config", None)  # it no longer follows config.json
    else:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        tree = {name: published[name] for name in names if published.get(name) is not None}
    target = context.target_length or 0
    return {"max_new_tokens": min(_NEW_TOKENS, target // 2)} | tree | {"max_length": target}


def _card(file: Path, name: str, config: Mapping[str, Any], context: ContextSettings, note: str) -> str:
    text = file.read_text(encoding="utf-8") if file.is_file() else f"# {name}, extended\n"
    start, end = (re.escape(mark) for mark in _CARD_MARKERS)
    text = re.sub(f"\n*{start}.*?{end}\n*", "\n", text, flags=re.DOTALL).rstrip("\n")
    return f"{text}\n\n{_CARD_MARKERS[0]}\n{_card_section(name, config, context, note)}\n{_CARD_MARKERS[1]}\n"


def _card_section(name: str, config: Mapping[str, Any], context: ContextSettings, note: str) -> str:
    parameters = config["rope_parameters"]
    shown = {key: value for key, value in parameters.items() if not isinstance(value, list)}
    window = config.get("sliding_window")
    rows = [
        ("positions reach", f"{context.target_length:,} tokens"),
        ("trained to", f"{config['longrepo_context']['native_length']:,} tokens"),
        ("method", context.method),
        ("rotary parameters", ", ".join(f"{key} {value}" for key, value in shown.items())),
        ("attention window", f"{window:,} tokens" if window else "none: every token sees all before it"),
    ]
    made = f"Made from {name} by `longrepo extend`: only its configuration was changed."
    table = "\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)])
    section = f"## Context\n\n{made}\n\n{table}"
    notes = {
        "none": "Positions are not scaled.",
        "dynamic": "`max_position_embeddings` is the length it was trained to: scaling begins there.",
    }
    section += f"\n\n{notes[context.method]}" if context.method in notes else ""
    section += f"\n\n{note[:1].upper()}{note[1:]}." if note else ""
    return section + "\n\nIt wasn't trained at this length: tune it there before you rely on it."


def _read_json(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: can't be read as JSON ({error}); download the model again") from None
    if not isinstance(tree, dict):
        raise InputError(f"{file}: holds no settings; download the model again")
    return tree


def _to_json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _link(file: Path, target: Path) -> bool:
    """Hard-link a file. Returns False on another disk, or one without links."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        return False
    return True
