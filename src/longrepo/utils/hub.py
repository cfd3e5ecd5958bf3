"""Resolves a model's name to a folder or a hub id."""

from __future__ import annotations

import difflib
from pathlib import Path

from longrepo import embedded
from longrepo.errors import InputError


def check_not_misspelled(name: str) -> None:
    """Raise InputError for a name that is nearly `embedded`, before the hub is asked for it."""
    near = difflib.SequenceMatcher(None, name.lower(), "embedded").ratio() >= 0.85
    if near and name != "embedded" and not Path(name).exists():
        raise InputError(f"--model {name}: no such folder; did you mean embedded?")


def model_location(name: str) -> str:
    """Return a folder or hub id for transformers: `embedded` means the model in this package, a folder with a
    `config.json` stays as it is, `owner/name` is a hub id. Raises InputError for anything else."""
    if name == "embedded":
        return str(embedded.path())
    folder = Path(name).expanduser()
    check_not_misspelled(name)
    if (folder / "config.json").is_file():
        return str(folder)
    if folder.is_dir():
        raise InputError(f"model {name}: the folder holds no config.json; give a Hugging Face model folder")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"model {name}: no such folder; give `embedded`, a folder, or a hub id such as owner/name")
    return name
