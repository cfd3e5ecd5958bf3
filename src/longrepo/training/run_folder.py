"""A run's folder: settings, metrics, TensorBoard events, checkpoints, `best`, `last`, and the final `adapter/` or
`model/`."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from longrepo.config.files import WRITING, write_text
from longrepo.config.load import dump_yaml
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.training import disk
from longrepo.training.checkpoint import ADAPTER, MODEL

LOCK = ".lock"
SETTINGS = "settings.yaml"


class RunFolder:
    """An opened run folder, held by this process alone until it is closed."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_settings(self, settings: Settings) -> None:
        """Write `settings.yaml`, which `--config` reads back."""
        write_text(self.path / SETTINGS, dump_yaml(settings))

    def write_trained(self, best: Path, base: str, save_tokenizer: Callable[[Path], None] | None) -> Path:
        """Put what the best checkpoint trained (its `adapter` or `model`), the tokenizer and a README into a folder of
        that name, whole or not at all. It is there only when the run has finished."""
        final = self.path / best.name
        with disk.folder_beside(final) as beside:
            shutil.copytree(best, beside, dirs_exist_ok=True)
            if save_tokenizer:
                save_tokenizer(beside)
            text = _READMES[best.name].format(base=base, checkpoint=best.parent.name)
            (beside / "README.md").write_text(text, encoding="utf-8")
            if final.exists():  # of an earlier end of this run, before it was told to go on
                former = self.path / f"{WRITING}former-{best.name}"
                shutil.rmtree(former, ignore_errors=True)
                os.rename(final, former)
            disk.move_into_place(beside, final)
        disk.remove_unfinished(self.path)
        return final

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)


def open_run(path: Path, resuming: bool) -> RunFolder:
    """Create or open a run's folder and lock it; use it with `with`. What a dead process left unfinished is removed.

    Raises InputError where it can't be written, another process trains in it, or a new run would mix with an old one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror}); give a folder you may write") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise InputError(f"--output {path}: another process is training there; wait for it or give another") from None
    if not resuming and _holds_something(path):
        os.close(lock)
        raise InputError(
            f"--output {path} is not empty: continue that run with --resume auto, or give another --output"
        )
    try:
        disk.remove_unfinished(path)
        (path / "checkpoints").mkdir(exist_ok=True)
        disk.remove_unfinished(path / "checkpoints")
    except OSError as error:
        os.close(lock)
        raise InputError(f"--output {path}: can't be written ({error.strerror}); give a folder you may write") from None
    return RunFolder(path, lock)


def _holds_something(path: Path) -> bool:
    """Whether more is there than what a run leaves that ended before it began, say for a mistyped model."""
    return any(entry.name not in (LOCK, "checkpoints") for entry in path.iterdir()) or any(path.glob("checkpoints/*"))


_ADAPTER_README = """# LoRA adapter

Trained with longrepo on `{base}` (weights of checkpoint `{checkpoint}`, the lowest validation loss of its run).
In PEFT's format. The tokenizer in this folder has the structure tokens, for which the embedding needs room; their
trained rows travel in the adapter (`trainable_token_indices`), so resize before loading it:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH/adapter")
model = AutoModelForCausalLM.from_pretrained("{base}")
if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, "PATH/adapter")
```
"""

_MODEL_README = """# Model

All weights were trained with longrepo, from those of `{base}` on (checkpoint `{checkpoint}`, the lowest validation loss
of its run). In float32, with its tokenizer:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH/model")
model = AutoModelForCausalLM.from_pretrained("PATH/model")
```
"""

_READMES = {ADAPTER: _ADAPTER_README, MODEL: _MODEL_README}
