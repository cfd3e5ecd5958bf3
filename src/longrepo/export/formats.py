"""Export a trained adapter or model: the formats, the options each accepts, and the PEFT format itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError

from longrepo.engines.adapter_io import ADAPTER_CONFIG, read_adapter_config
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions
from longrepo.export.card import CardUse, peft_usage, write_card
from longrepo.export.run_converter import find_converter
from longrepo.rope.apply import describe_context
from longrepo.training.artifact import TrainedArtifact
from longrepo.training.usage import base_reference
from longrepo.utils import files
from longrepo.utils.files import write_text_file

FormatWriter = Callable[[TrainedArtifact, ExportOptions, Path, Path], list[str]]


def export_artifact(source: TrainedArtifact, format: str, options: ExportOptions, output: Path) -> list[str]:
    """Write a new folder, completely or not at all; return lines for the terminal. Raises InputError."""
    _check_options(format, options)
    if source.whole:
        _check_full_finetune(source, format, options)
    if format in ("gguf", "ollama"):
        find_converter(options.llama_cpp)  # before anything is loaded
    return [
        *source.notes,
        *write_new_folder(output, lambda beside: FORMAT_WRITERS[format](source, options, beside, output)),
    ]


def import_mlx_adapter(adapter: Path, base: str | None, output: Path) -> list[str]:
    """Convert an adapter of mlx-lm to a new folder in PEFT's format; `base` None: the model that it names."""
    _require_mlx()
    from longrepo.export.mlx import write_imported_adapter

    return write_new_folder(output, lambda beside: write_imported_adapter(adapter, base, beside, output))


def write_new_folder(output: Path, fill: Callable[[Path], list[str]]) -> list[str]:
    """Fill a temporary folder, then move it to `output`. Raises InputError if that exists or can't be written."""
    files.check_folder_name(output)
    if output.exists():
        raise InputError(f"--output {output}: already exists; give a new folder, or remove it")
    try:
        with files.temporary_folder_beside(output) as beside:
            lines = fill(beside)
            files.move_into_place(beside, output)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--output {output}: can't be written ({reason}); give another folder") from None
    return lines


def _check_options(format: str, options: ExportOptions) -> None:
    """Raises InputError for an option that the format doesn't take, or not with that value."""
    for field in fields(options):
        value, option = getattr(options, field.name), f"--{field.name.strip('_').replace('_', '-')}"
        taken = _ACCEPTED_VALUES[field.name].get(format)
        if value == field.default or taken == ():
            continue
        if taken is None:
            raise InputError(f"{option}: --format {format} doesn't take it; leave it out")
        if value not in taken:
            raise InputError(f"{option} {value}: --format {format} takes {', '.join(taken)}")
    if options.for_ and not options.adapter_only:
        raise InputError(f"--for {options.for_}: only an adapter in its own file has a scale; add --adapter-only")


def _check_full_finetune(source: TrainedArtifact, format: str, options: ExportOptions) -> None:
    """Raises InputError for formats and options that need an adapter."""
    asked = {
        "--format peft": (format == "peft", "use --format merged"),
        "--adapter-only": (options.adapter_only, "leave it out"),
        "--with-base": (options.with_base, "leave it out"),
    }
    for option, (wanted, instead) in asked.items():
        if wanted:
            raise InputError(f"{option}: {source.adapter} is a fully trained model, not an adapter; {instead}")


def _write_mlx(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    _require_mlx()
    from longrepo.export.mlx import write_mlx

    return write_mlx(source, options, folder, final)


def _write_peft(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    return copy_peft_adapter(source, folder, final)


def _write_merged(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    from longrepo.export.merged import write_merged

    return write_merged(source, options, folder, final)


def _write_gguf(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    from longrepo.export.gguf import write_gguf

    return write_gguf(source, options, folder, final)


def _write_ollama(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    from longrepo.export.ollama import write_ollama

    return write_ollama(source, options, folder, final)


def _require_mlx() -> None:
    from longrepo.engines.registry import require_mlx

    require_mlx()


_ACCEPTED_VALUES: dict[
    str, dict[str, tuple[str, ...]]
] = {  # option -> the formats that take it -> their values; (): any
    "quantization": {"mlx": ("none", "4bit"), "gguf": ("none", "8bit"), "ollama": ("none", "8bit")},
    "precision": {
        "mlx": ("auto", "bfloat16", "float32"),
        "merged": ("auto", "bfloat16", "float16", "float32"),
        "gguf": ("bfloat16", "float16", "float32"),
        "ollama": ("bfloat16", "float16", "float32"),
    },
    "with_base": {"mlx": (), "gguf": ()},
    "model_file": {"mlx": ()},
    "adapter_only": {"gguf": (), "ollama": ()},
    "llama_cpp": {"gguf": (), "ollama": ()},
    "for_": {"gguf": ("llama.vscode",)},
}
FORMAT_WRITERS: dict[str, FormatWriter] = {
    "mlx": _write_mlx,
    "peft": _write_peft,
    "merged": _write_merged,
    "gguf": _write_gguf,
    "ollama": _write_ollama,
}


_POSITIONS_NOTE = (
    "it was trained with other positions than its base has ({context}): this format can't hold them, the others do"
)


def copy_peft_adapter(source: TrainedArtifact, folder: Path, final: Path) -> list[str]:
    """Copy the adapter's folder into an existing empty one; return lines for the terminal."""
    shutil.copytree(source.adapter, folder, dirs_exist_ok=True)
    settings, config = source.settings, read_adapter_config(folder)
    tokenizer = source.load_tokenizer()
    notes = tokenizer.write(folder)
    name = settings.model.name
    base = {"base_model_name_or_path": base_reference(name)}
    base |= {"revision": settings.model.revision} if settings.model.revision else {}
    if any(config.get(key) != value for key, value in base.items()):
        text = json.dumps(config | base, indent=2, sort_keys=True)
        write_text_file(folder / ADAPTER_CONFIG, text + "\n")
    if source.has_own_positions:
        notes += (_POSITIONS_NOTE.format(context=describe_context(settings.context)),)
    how = peft_usage(final.name, settings)
    write_card(folder, source, CardUse("peft", "A LoRA adapter in PEFT's format.", how, notes))
    return [f"adapter: {final} (base: {name})", *notes]
