"""What is exported: the adapter of a run, of a checkpoint, or one in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longrepo.config.load import load_settings
from longrepo.config.schema import ContextSettings, Settings
from longrepo.context.recorded import recorded
from longrepo.engines.peft_names import CONFIG
from longrepo.errors import InputError
from longrepo.training.checkpoint import ADAPTER, MANIFEST, MODEL, damage, read_snapshot
from longrepo.training.run_folder import SETTINGS


@dataclass(frozen=True)
class Source:
    """An adapter in PEFT's format and the settings it was trained with; `tokenizer` is what `load_tokenizer` takes,
    `run` the folder of the run that it is of, where that is known."""

    adapter: Path
    settings: Settings
    tokenizer: str
    notes: tuple[str, ...] = ()
    run: Path | None = None

    @property
    def repositioned(self) -> bool:
        """Whether it was trained on other positions than the base was published with."""
        return self.settings.context != ContextSettings()

    def on(self, base: str | None) -> Source:
        """The same adapter on a base of another name (None: its own)."""
        if base is None:
            return self
        model = self.settings.model.model_copy(update={"name": base, "revision": None})
        own = self.tokenizer == self.settings.model.name
        settings = self.settings.model_copy(update={"model": model})
        return replace(self, settings=settings, tokenizer=base if own else self.tokenizer)


def find_source(path: Path) -> Source:
    """The adapter that a run's folder, a checkpoint's (`RUN/best`, too) or an adapter's folder stands for.

    An unfinished run's is its best so far. Its settings' positions are those that this adapter was trained at. Raises
    InputError where there is none, or it is damaged.
    """
    found = _find(path)
    return replace(found, settings=found.settings.model_copy(update={"context": recorded(found.adapter)}))


def _find(path: Path) -> Source:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a run's, a checkpoint's or an adapter's")
    if (path / MANIFEST).is_file():
        return _of_checkpoint(path)
    if (path / CONFIG).is_file():
        return _of_adapter(path)
    if not (path / SETTINGS).is_file():
        raise InputError(f"{path}: neither a run nor a checkpoint nor an adapter in PEFT's format; give one of these")
    if (path / ADAPTER).is_dir():
        return _of_adapter(path / ADAPTER)
    if load_settings(path / SETTINGS).training.weights == "all":
        raise InputError(f"{path}: all weights were trained, there is no adapter; {path / MODEL} is the model itself")
    if (path / "best").is_dir():
        found = _of_checkpoint(path / "best")
        note = f"the run isn't finished: its best checkpoint so far is taken, {(path / 'best').resolve().name}"
        return replace(found, notes=(note,))
    raise InputError(f"{path}: this run has no adapter yet (no epoch was validated); give one of its checkpoints")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """A folder's `adapter_config.json`. Raises InputError where it can't be read."""
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: can't be read ({error}); give an adapter's folder") from None
    if not isinstance(tree, dict):
        raise InputError(f"{folder / CONFIG}: isn't an adapter's configuration; give an adapter's folder")
    return tree


def _of_checkpoint(folder: Path) -> Source:
    settings = Settings.model_validate(read_snapshot(folder).identity.settings)
    return Source(folder / ADAPTER, settings, settings.model.name, run=_run_of(folder.resolve().parent.parent))


def _of_adapter(folder: Path) -> Source:
    """With the settings of the run or the checkpoint it lies in, or what it says itself."""
    parent = folder.absolute().parent
    if (parent / MANIFEST).is_file() and damage(parent) is None:
        return _of_checkpoint(parent)
    if (parent / SETTINGS).is_file():
        settings = load_settings(parent / SETTINGS)
        return Source(folder, settings, settings.model.name, run=parent)
    config = read_adapter_config(folder)
    own_tokenizer = (folder / "tokenizer.json").is_file()
    settings = _said_by(config, folder)
    return Source(folder, settings, str(folder) if own_tokenizer else settings.model.name)


def _run_of(folder: Path) -> Path | None:
    return folder if (folder / SETTINGS).is_file() else None


def _said_by(config: Mapping[str, Any], folder: Path) -> Settings:
    base = config.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{folder / CONFIG}: names no base model (base_model_name_or_path); add it")
    model = {"name": base, "revision": config.get("revision"), "quantization": "none"}
    rows = config.get("trainable_token_indices") is not None
    return Settings.model_validate({"model": model, "data": {"structure_tokens": rows}})
