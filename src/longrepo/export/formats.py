"""What an adapter can be exported as: a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longrepo.errors import InputError
from longrepo.export.source import Source
from longrepo.training import disk

Quantization = Literal["none", "4bit"]
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True)
class Choices:
    """What the command was told. None: as the run's settings."""

    quantization: Quantization | None = None
    precision: Precision | None = None
    with_base: bool = False  # also where the base as published would do
    model_file: bool = True  # also a model file, where mlx-lm's own model computes something else


Writer = Callable[[Source, Choices, Path, Path], list[str]]


def export(source: Source, format: str, choices: Choices, output: Path) -> list[str]:
    """Write a new folder, whole or not at all; return lines for the terminal. Raises InputError."""
    return [*source.notes, *new_folder(output, lambda beside: FORMATS[format](source, choices, beside, output))]


def import_mlx(adapter: Path, base: str | None, output: Path) -> list[str]:
    """Write a new folder in PEFT's format with an adapter of mlx-lm, trained on `base` (None: what it names)."""
    _require_mlx()
    from longrepo.export.mlx_import import write_imported

    return new_folder(output, lambda beside: write_imported(adapter, base, beside, output))


def new_folder(output: Path, fill: Callable[[Path], list[str]]) -> list[str]:
    """Fill a folder beside and move it into place. Raises InputError where one is there, or it can't be written."""
    if output.exists():
        raise InputError(f"--output {output}: is there already; give a new folder, or remove it")
    try:
        with disk.folder_beside(output) as beside:
            lines = fill(beside)
            disk.move_into_place(beside, output)
    except OSError as error:
        raise InputError(
            f"--output {output}: can't be written ({error.strerror or error}); give another folder"
        ) from None
    return lines


def _mlx(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    _require_mlx()
    from longrepo.export.mlx_folder import write_mlx

    return write_mlx(source, choices, folder, final)


def _peft(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    from longrepo.export.peft_folder import write_peft

    return write_peft(source, folder, final)


def _require_mlx() -> None:
    from longrepo.engines.mlx.require import require_mlx

    require_mlx()


FORMATS: dict[str, Writer] = {"mlx": _mlx, "peft": _peft}
