"""What an adapter can be exported as: a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from longrepo.errors import InputError
from longrepo.export.source import Source
from longrepo.training import disk

Quantization = Literal["none", "4bit", "8bit"]
Precision = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Choices:
    """What the command was told. None: as the run's settings."""

    quantization: Quantization | None = None
    precision: Precision | None = None
    with_base: bool = False  # also where the base as published would do
    model_file: bool = True  # also a model file, where mlx-lm's own model computes something else
    adapter_only: bool = False  # of gguf: the adapter in a file of its own
    llama_cpp: Path | None = None  # where its converters are; None: on PATH


Writer = Callable[[Source, Choices, Path, Path], list[str]]


def export(source: Source, format: str, choices: Choices, output: Path) -> list[str]:
    """Write a new folder, whole or not at all; return lines for the terminal. Raises InputError."""
    _check(format, choices)
    if source.whole:
        _check_whole(source, format, choices)
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
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--output {output}: can't be written ({reason}); give another folder") from None
    return lines


def _check(format: str, choices: Choices) -> None:
    """Raises InputError for an option that the format has no use for, or not with that value."""
    for field in fields(choices):
        value, option = getattr(choices, field.name), f"--{field.name.replace('_', '-')}"
        taken = _TAKEN[field.name].get(format)
        if value == field.default or taken == ():
            continue
        if taken is None:
            raise InputError(f"{option}: --format {format} has no use for it; leave it out")
        if value not in taken:
            raise InputError(f"{option} {value}: --format {format} takes {', '.join(taken)}")


def _check_whole(source: Source, format: str, choices: Choices) -> None:
    """Raises InputError for what there is of an adapter alone."""
    asked = {
        "--format peft": (format == "peft", "use --format merged"),
        "--adapter-only": (choices.adapter_only, "leave it out"),
        "--with-base": (choices.with_base, "leave it out"),
    }
    for option, (wanted, instead) in asked.items():
        if wanted:
            raise InputError(f"{option}: {source.adapter} is a model, all weights of it were trained; {instead}")


def _mlx(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    _require_mlx()
    from longrepo.export.mlx_folder import write_mlx

    return write_mlx(source, choices, folder, final)


def _peft(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    from longrepo.export.peft_folder import write_peft

    return write_peft(source, folder, final)


def _merged(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    from longrepo.export.merged_folder import write_merged

    return write_merged(source, choices, folder, final)


def _gguf(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    from longrepo.export.gguf_folder import write_gguf

    return write_gguf(source, choices, folder, final)


def _require_mlx() -> None:
    from longrepo.engines.mlx.require import require_mlx

    require_mlx()


_TAKEN: dict[str, dict[str, tuple[str, ...]]] = {  # option -> the formats that take it -> which values; (): any
    "quantization": {"mlx": ("none", "4bit"), "gguf": ("none", "8bit")},
    "precision": {
        "mlx": ("auto", "bfloat16", "float32"),
        "merged": ("auto", "bfloat16", "float16", "float32"),
        "gguf": ("bfloat16", "float16", "float32"),
    },
    "with_base": {"mlx": (), "gguf": ()},
    "model_file": {"mlx": ()},
    "adapter_only": {"gguf": ()},
    "llama_cpp": {"gguf": ()},
}
FORMATS: dict[str, Writer] = {"mlx": _mlx, "peft": _peft, "merged": _merged, "gguf": _gguf}
