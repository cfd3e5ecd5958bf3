"""A run's folder and its checkpoints.

The folder holds settings, metrics, TensorBoard events, checkpoints, the pointers `best` and `last`, and at the end the
`adapter/` or `model/`. Checkpoints are atomic: written beside, synced, renamed to a new name; the pointers move last.
`state.json` is readable, weights and moments are safetensors, `manifest.json` holds each file's SHA-256. No pickles.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from longrepo.config.loader import dump_yaml, load_settings
from longrepo.config.schema import Settings
from longrepo.engines.adapter_io import scale_adapter
from longrepo.engines.base import Engine
from longrepo.errors import InputError, RunError
from longrepo.rope.apply import NATIVE_CONTEXT, describe_context, read_context
from longrepo.training.state import CheckpointSnapshot
from longrepo.training.usage import adapter_code, has_new_rows, model_code
from longrepo.utils import files
from longrepo.utils.files import TEMPORARY_PREFIX, write_text_file

ADAPTER, MODEL = "adapter", "model"  # the folder of what is trained: an adapter, or a model's weights themselves
OPTIMIZER, STATE, MANIFEST = "optimizer.safetensors", "state.json", "manifest.json"
STEP_CHECKPOINT = re.compile(r"step-\d{8}(-\d+)?$")


def trained_folder(settings: Settings) -> str:
    """The name of the folder of trained weights, in each checkpoint and at the end in the run."""
    return MODEL if settings.training.weights == "all" else ADAPTER


class CheckpointFolder:
    """The checkpoints of one run: `RUN/checkpoints/NAME`, with the pointers `RUN/last` and `RUN/best`. `trained`: the
    name of the folder of trained weights in each."""

    def __init__(self, run: Path, keep_last: int, trained: str = ADAPTER) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.keep_last = keep_last
        self.trained = trained

    def unused_name(self, wanted: str) -> str:
        """Return the name, or with -2, -3, … if it is taken: a checkpoint is never overwritten."""
        name, count = wanted, 1
        while (self.folder / name).exists():
            count += 1
            name = f"{wanted}-{count}"
        return name

    def save(self, name: str, engine: Engine, snapshot: CheckpointSnapshot) -> Path:
        """Write a checkpoint under a new name, then move the pointers and remove old step checkpoints.

        Raises RunError if the disk is full or can't be written; earlier checkpoints are then untouched.
        """
        final = self.folder / name
        try:
            with files.temporary_folder_beside(final) as beside:
                (beside / self.trained).mkdir()
                engine.save_adapter(beside / self.trained)
                engine.save_optimizer(beside / OPTIMIZER)
                (beside / STATE).write_text(json.dumps(snapshot.as_json(), indent=1) + "\n", encoding="utf-8")
                (beside / MANIFEST).write_text(json.dumps(_make_manifest(beside), indent=1) + "\n", encoding="utf-8")
                files.move_into_place(beside, final)
            files.swap_pointer(self.run / "last", final)
            self.point_best(snapshot)
        except (OSError, SafetensorError) as error:
            raise RunError(_cannot_save(error, final, self.newest_intact())) from None
        self._prune(snapshot)
        return final

    def point_best(self, snapshot: CheckpointSnapshot) -> None:
        """Point `best` to the snapshot's best checkpoint, if that exists."""
        if snapshot.state.best and (target := self.folder / snapshot.state.best.checkpoint).is_dir():
            files.swap_pointer(self.run / "best", target)

    def newest_first(self) -> list[Path]:
        """All checkpoints, the most recent first."""
        found = [
            path for path in self.folder.glob("*/" + MANIFEST) if not path.parent.name.startswith(TEMPORARY_PREFIX)
        ]
        return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]

    def newest_intact(self, besides: Iterable[Path] = ()) -> Path | None:
        """The newest checkpoint whose checksums match."""
        skip = {path.resolve() for path in besides}
        return next(
            (path for path in self.newest_first() if path.resolve() not in skip and not find_damage(path)), None
        )

    def _prune(self, snapshot: CheckpointSnapshot) -> None:
        """Remove step checkpoints beyond `keep_last`, except those that a pointer or a best of the state names."""
        kept = {pointer.resolve() for pointer in (self.run / "last", self.run / "best")}
        bests = [*snapshot.state.former_bests, *([snapshot.state.best] if snapshot.state.best else [])]
        kept |= {(self.folder / best.checkpoint).resolve() for best in bests}
        steps = [path for path in self.newest_first() if STEP_CHECKPOINT.match(path.name)]
        for path in steps[self.keep_last :]:
            if path.resolve() not in kept:
                shutil.rmtree(path, ignore_errors=True)


def find_damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, in a few words; None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        checksums = dict(manifest["files"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} can't be read"
    for name, sha256 in checksums.items():
        try:
            if files.sha256_of(folder / name) != sha256:
                return f"{name} is damaged (its checksum differs)"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} can't be read ({error.strerror})"
    missing = [name for name in (STATE, OPTIMIZER) if name not in checksums]
    return f"{missing[0]} is not in {MANIFEST}" if missing else None


def read_snapshot(folder: Path) -> CheckpointSnapshot:
    """Read a checkpoint's state. Raises InputError for a damaged one, naming the file and what to use instead."""
    if wrong := find_damage(folder):
        raise InputError(f"checkpoint {folder}: {wrong}; {_suggest_other_checkpoint(folder)}")
    try:
        return CheckpointSnapshot.from_json(json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"checkpoint {folder}: {STATE} isn't of this version of longrepo ({error}); "
            f"{_suggest_other_checkpoint(folder)}"
        ) from None


def _suggest_other_checkpoint(folder: Path) -> str:
    folder = folder.resolve()
    other = CheckpointFolder(folder.parent.parent, 1).newest_intact(besides=[folder])
    return (
        f"use {other}, the newest intact one" if other else "no other checkpoint of this run is intact: begin a new run"
    )


def _make_manifest(folder: Path) -> dict[str, dict[str, str]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {"files": {path.relative_to(folder).as_posix(): files.sha256_of(path) for path in paths}}


def _cannot_save(error: Exception, final: Path, last: Path | None) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error).lower()
    what = "the disk is full" if full else str(getattr(error, "strerror", None) or error)
    do = "free some space" if full else "make the folder writable"
    saved = f"{last} is intact" if last else "nothing was saved before"
    return f"checkpoint {final.name} couldn't be saved: {what}; {saved}; {do} and go on with --resume auto"


LOCK_FILE = ".lock"
SETTINGS_FILE = "settings.yaml"


class RunFolder:
    """An open run folder, locked by this process until it is closed."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_settings(self, settings: Settings) -> None:
        """Write `settings.yaml`, which `--config` reads back."""
        write_text_file(self.path / SETTINGS_FILE, dump_yaml(settings))

    @property
    def final_scale(self) -> float:
        """How much of its update the finished adapter holds, by the settings it was written with."""
        return load_settings(self.path / SETTINGS_FILE).lora.final_scale

    def write_trained(
        self, best: Path, settings: Settings, save_tokenizer: Callable[[Path], Sequence[str]] | None
    ) -> Path:
        """Write the best checkpoint's `adapter` or `model`, the tokenizer and a README into the folder of that name,
        completely or not at all. It exists only once the run has finished."""
        final = self.path / best.name
        with files.temporary_folder_beside(final) as beside:
            shutil.copytree(best, beside, dirs_exist_ok=True)
            notes = [*save_tokenizer(beside)] if save_tokenizer else []
            if (scale := settings.lora.final_scale) != 1:
                scale_adapter(beside, scale)
                notes.append(f"it holds {scale:g} of the update that was trained (`lora.final_scale`)")
            text = _readme(beside, best, settings, notes)
            (beside / "README.md").write_text(text, encoding="utf-8")
            if final.exists():  # from an earlier end of this run, before it was resumed
                former = self.path / f"{TEMPORARY_PREFIX}former-{best.name}"
                shutil.rmtree(former, ignore_errors=True)
                os.rename(final, former)
            files.move_into_place(beside, final)
        files.remove_unfinished(self.path)
        return final

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)


def open_run_folder(path: Path, resuming: bool) -> RunFolder:
    """Create or open a run's folder and lock it; use it with `with`. Unfinished files of a crashed process are removed.

    Raises InputError if it can't be written, another process trains in it, or a new run would mix with an old one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror}); give a folder you may write") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise InputError(f"--output {path}: another process is training there; wait for it or give another") from None
    if not resuming and _has_other_files(path):
        os.close(lock)
        raise InputError(
            f"--output {path} is not empty: continue that run with --resume auto, or give another --output"
        )
    try:
        files.remove_unfinished(path)
        (path / "checkpoints").mkdir(exist_ok=True)
        files.remove_unfinished(path / "checkpoints")
    except OSError as error:
        os.close(lock)
        raise InputError(f"--output {path}: can't be written ({error.strerror}); give a folder you may write") from None
    return RunFolder(path, lock)


def _has_other_files(path: Path) -> bool:
    """Whether the folder holds more than what a run leaves that failed before it began, say for a mistyped model."""
    return any(entry.name not in (LOCK_FILE, "checkpoints") for entry in path.iterdir()) or any(
        path.glob("checkpoints/*")
    )


_ADAPTER_README = """# LoRA adapter

Trained with longrepo on `{base}` (weights of checkpoint `{checkpoint}`, the lowest validation loss of its run).
In PEFT's format. {holds} From the folder that holds
this one:

```python
{code}
```
"""

_NEW_ROWS = """The tokenizer in this folder has the structure tokens, for which the embedding needs room; their
trained rows travel in the adapter (`trainable_token_indices`), so resize before loading it."""
_NO_NEW_ROWS = """It is LoRA alone, on the base's own vocabulary, so tools that know no other tokens take it too."""

_MODEL_README = """# Model

All weights were trained with longrepo, from those of `{base}` on (checkpoint `{checkpoint}`, the lowest validation loss
of its run). In float32, with its tokenizer. From the folder that holds this one:

```python
{code}
```
"""


def _readme(folder: Path, best: Path, settings: Settings, notes: Sequence[str]) -> str:
    """Return the README of a run's `adapter` or `model`, whose files are in `folder`, from a checkpoint's."""
    name, base, checkpoint = best.name, settings.model.name, best.parent.name
    if name == MODEL:
        text = _MODEL_README.format(base=base, checkpoint=checkpoint, code=model_code(name))
    else:
        code = adapter_code(name, settings)
        holds = _NEW_ROWS if has_new_rows(settings) else _NO_NEW_ROWS
        text = _ADAPTER_README.format(base=base, checkpoint=checkpoint, code=code, holds=holds)
        if (context := read_context(folder)) != NATIVE_CONTEXT:
            notes = (
                *notes,
                f"it was trained with other positions than its base has ({describe_context(context)}), which "
                "this code doesn't set: `longrepo export --format merged` writes a model that has them",
            )
    return text + "".join(f"\n{note[:1].upper()}{note[1:]}.\n" for note in notes)
