"""Find trained weights: the adapter or model of a run or a checkpoint, or an adapter in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longrepo.config.loader import load_settings
from longrepo.config.schema import ContextSettings, Settings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer, recorded_marks, trained_with_begin
from longrepo.engines.adapter_io import ADAPTER_CONFIG, read_adapter_config, read_lora_modules, read_lora_scheme
from longrepo.errors import InputError
from longrepo.rope.apply import read_context
from longrepo.training.checkpoint import MANIFEST, SETTINGS_FILE, find_damage, read_snapshot, trained_folder
from longrepo.utils.hub import model_location

MODEL_CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class TrainedArtifact:
    """Trained weights and their settings. `adapter`: the folder of an adapter in PEFT's format or (`whole`) of a model,
    whose base is what training began with. `settings`: those it was trained with; `tokenizer`: what `load_tokenizer`
    takes; `run`: the folder of its run, if known."""

    adapter: Path
    settings: Settings
    tokenizer: str
    notes: tuple[str, ...] = ()
    run: Path | None = None

    @property
    def whole(self) -> bool:
        """Whether all weights were trained: then `adapter` is the folder of a model."""
        return self.settings.training.weights == "all"

    @property
    def files(self) -> list[Path]:
        """The files that decide what it computes on its base."""
        names = (MODEL_CONFIG_FILE, "generation_config.json", "model*.safetensors") if self.whole else ("adapter_*",)
        return sorted(file for name in names for file in self.adapter.glob(name))

    @property
    def has_own_positions(self) -> bool:
        """Whether it was trained at other positions than those the base was published with."""
        return self.settings.context != ContextSettings()

    def load_tokenizer(self) -> RepoTokenizer:
        """Load its tokenizer, which begins a text as it did in training. Raises InputError if it can't be read."""
        data, revision = self.settings.data, self.settings.model.revision
        tokenizer = load_tokenizer(self.tokenizer, revision, data.structure_tokens, data.fim)
        if not trained_with_begin(self.adapter):
            tokenizer.begin_id = None
        return tokenizer

    def on(self, base: str | None) -> TrainedArtifact:
        """The same on a base of another name (None: its own). Raises InputError if that is missing."""
        if base is None:
            self._check_base()
            return self
        model = self.settings.model.model_copy(update={"name": base, "revision": None})
        own = self.tokenizer == self.settings.model.name
        settings = self.settings.model_copy(update={"model": model})
        return replace(self, settings=settings, tokenizer=base if own else self.tokenizer)

    def _check_base(self) -> None:
        name = self.settings.model.name
        try:
            model_location(name)
        except InputError:
            raise InputError(
                f"{self.adapter}: its base model {name} no longer exists; restore it, or name another: "
                "export --base, generate and serve --model"
            ) from None


def find_artifact(path: Path) -> TrainedArtifact:
    """Find the adapter or model of a run's folder, a checkpoint's (also `RUN/best`), or a folder of its own.

    An unfinished run's is its best so far, or its last checkpoint if no epoch is finished. The positions in its
    settings are those it was trained at. Raises InputError if there is none, or it is damaged.
    """
    found = _find_folder(path)
    return replace(found, settings=found.settings.model_copy(update={"context": read_context(found.adapter)}))


def _find_folder(path: Path) -> TrainedArtifact:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a run's, a checkpoint's or an adapter's")
    if (path / MANIFEST).is_file():
        return _from_checkpoint(path)
    if (path / ADAPTER_CONFIG).is_file() or (path / MODEL_CONFIG_FILE).is_file():
        return _from_folder(path)
    if not (path / SETTINGS_FILE).is_file():
        raise InputError(f"{path}: neither a run nor a checkpoint nor an adapter in PEFT's format; give one of these")
    trained = trained_folder(load_settings(path / SETTINGS_FILE))
    if (path / trained).is_dir():
        return _from_folder(path / trained)
    if (path / "best").is_dir():
        found = _from_checkpoint(path / "best")
        note = f"the run isn't finished: its best checkpoint so far is taken, {(path / 'best').resolve().name}"
        return replace(found, notes=(note,))
    if (path / "last").is_dir() and (updates := read_snapshot(path / "last").state.update):
        found = _from_checkpoint(path / "last")
        note = f"no epoch of the run is finished: its last checkpoint is taken, after {updates:,} updates"
        return replace(found, notes=(note,))
    raise InputError(f"{path}: this run has no {trained} yet (nothing was trained); go on with --resume auto")


def _from_checkpoint(folder: Path) -> TrainedArtifact:
    settings = Settings.model_validate(read_snapshot(folder).identity.settings)
    trained = folder / trained_folder(settings)
    return TrainedArtifact(trained, settings, settings.model.name, run=_enclosing_run(folder.resolve().parent.parent))


def _from_folder(folder: Path) -> TrainedArtifact:
    """Read a folder with the settings of the run or checkpoint it lies in, or else its own."""
    parent = folder.absolute().parent
    bare = (folder / MODEL_CONFIG_FILE).is_file() and not (folder / ADAPTER_CONFIG).is_file()
    if (parent / MANIFEST).is_file() and find_damage(parent) is None:
        return _from_checkpoint(parent)
    if (parent / SETTINGS_FILE).is_file():
        settings = load_settings(parent / SETTINGS_FILE)
        found = TrainedArtifact(folder, settings, settings.model.name, run=parent)
        if found.whole or not bare:
            return found
    if bare:
        raise InputError(f"{folder}: a model on its own, not what a run trained; give a run's, or name it as --model")
    config = read_adapter_config(folder)
    own_tokenizer = (folder / "tokenizer.json").is_file()
    settings = _settings_from_config(config, folder)
    return TrainedArtifact(folder, settings, str(folder) if own_tokenizer else settings.model.name)


def _enclosing_run(folder: Path) -> Path | None:
    return folder if (folder / SETTINGS_FILE).is_file() else None


def _settings_from_config(config: Mapping[str, Any], folder: Path) -> Settings:
    base = config.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{folder / ADAPTER_CONFIG}: names no base model (base_model_name_or_path); add it")
    model = {"name": base, "revision": config.get("revision"), "quantization": "none"}
    rows = config.get("trainable_token_indices") is not None
    marks = recorded_marks(folder) or ("added" if rows else "native")
    scheme = read_lora_scheme(folder)
    lora = {
        "r": scheme.largest_rank,
        "alpha": scheme.alpha,
        "dropout": float(config.get("lora_dropout") or 0.0),
        "target_modules": read_lora_modules(folder),
    }
    return Settings.model_validate({"model": model, "data": {"structure_tokens": marks}, "lora": lora})
