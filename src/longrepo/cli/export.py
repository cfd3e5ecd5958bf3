"""`longrepo export` writes what was trained for other tools, `import-adapter` reads their adapters, and `extend` writes
a model whose positions reach farther.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from longrepo.cli.options import MODEL_HELP
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.config.schema import ContextSettings
    from longrepo.export.adapter import Precision, Quantization
    from longrepo.rope.extend import ExtendedFolder


ExportOutputOption = Annotated[Path, typer.Option(metavar="DIR", help="The folder to write. It must be new.")]


class ExportFormat(StrEnum):
    mlx = "mlx"
    peft = "peft"
    merged = "merged"
    gguf = "gguf"
    ollama = "ollama"


class ExportBits(StrEnum):
    none = "none"
    four = "4bit"
    eight = "8bit"


class ExportPrecision(StrEnum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, a checkpoint or an adapter.")],
    output: ExportOutputOption,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="peft: the adapter and its tokenizer; mlx: for mlx_lm.generate and mlx_lm.server; merged: a whole "
            "model for transformers; gguf: a whole model for llama.cpp; ollama: the same, with a Modelfile."
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Another name for the adapter's base: its new folder, or the unquantized model."
        ),
    ] = None,
    quantization: Annotated[
        ExportBits | None, typer.Option(help="mlx: none or 4bit (default: the run's); gguf: none or 8bit.")
    ] = None,
    precision: Annotated[
        ExportPrecision | None,
        typer.Option(help="Of what isn't quantized. Default: bfloat16 (mlx: the run's). auto: the base's own."),
    ] = None,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="gguf, ollama: write the adapter in its own file, not merged.")
    ] = False,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(
            "--llama-cpp",
            metavar="DIR",
            help="gguf, ollama: llama.cpp's sources. Default: where convert_hf_to_gguf.py on PATH is.",
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="CLIENT",
            help="gguf --adapter-only: llama.vscode, which applies adapters by half.",
        ),
    ] = None,
    with_base: Annotated[
        bool,
        typer.Option("--with-base", help="mlx, gguf --adapter-only: write a base even if none is needed."),
    ] = False,
    model_file: Annotated[
        bool,
        typer.Option(help="mlx: add a model file to the base if mlx-lm's own model computes something else."),
    ] = True,
) -> None:
    """Write an adapter, or a model whose weights were all trained, in the format of another tool."""
    from longrepo.export.adapter import ExportOptions
    from longrepo.export.formats import export_artifact
    from longrepo.training.artifact import find_artifact

    choices = ExportOptions(
        cast("Quantization | None", quantization and quantization.value),
        cast("Precision | None", precision and precision.value),
        with_base,
        model_file,
        adapter_only,
        llama_cpp,
        for_,
    )
    for line in export_artifact(find_artifact(run).on(base), format.value, choices, output):
        print(line)


def import_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="DIR", help="What mlx_lm.lora wrote (its --adapter-path).")],
    output: ExportOutputOption,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The base it was trained on. Default: the one it names."),
    ] = None,
) -> None:
    """Convert an adapter of mlx-lm to PEFT's format."""
    from longrepo.export.formats import import_mlx_adapter

    for line in import_mlx_adapter(adapter, model, output):
        print(line)


_SMALL_FILES = ["*.json", "*.md", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "NOTICE*"]


class ExtendMethod(StrEnum):
    none = "none"
    linear = "linear"
    base = "base"
    dynamic = "dynamic"
    yarn = "yarn"
    longrope = "longrope"
    llama3 = "llama3"


def extend(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    to: Annotated[int, typer.Option("--to", metavar="TOKENS", min=64, help="How far its positions should reach.")],
    method: Annotated[
        ExtendMethod, typer.Option(help="How to scale rotary positions; none: not at all.")
    ] = ExtendMethod.yarn,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write. It must be new.")] = None,
    window: Annotated[str, typer.Option(metavar="keep|full|TOKENS", help="How far back windowed layers see.")] = "keep",
    factor: Annotated[
        float | None, typer.Option(metavar="S", help="Scaling factor. Default: --to / native length.")
    ] = None,
    search_on: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="longrope: search for its factors on a text file or a git repository."),
    ] = None,
    search_length: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", min=128, help="Length of the search's texts. Default: --to, at most 4 x native."
        ),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of hard-linking them.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit of a hub model.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
) -> None:
    """Write a copy of a model's folder whose positions reach farther: configuration, tokenizer and card change, the
    weights don't."""
    from longrepo.config.loader import load_settings
    from longrepo.engines.base import load_errors
    from longrepo.export.card import base_label
    from longrepo.rope.apply import context_messages
    from longrepo.rope.extend import ExtendedFolder

    if output is None and not dry_run:
        raise InputError("give --output DIR, or --dry-run to see what would change")
    if search_on is not None and method is not ExtendMethod.longrope:
        raise InputError(f"--search-on: only --method longrope has factors to search, got {method.value}")
    given = {"method": method.value, "target_length": to, "window": window, "factor": factor}
    overrides = [f"context.{key}={value}" for key, value in given.items() if value is not None]
    context = load_settings(None, overrides).context
    source = _model_folder(model, revision, whole=not dry_run)
    with load_errors(model):
        config = _read_config(source)
        if search_on is not None:
            context = _search_factors(model, revision, config, context, search_on, search_length)
        texts, note = _tokenizer_changes(source)
        extended = ExtendedFolder.of(source, base_label(model), config, context, texts, note)
    for line in context_messages(config, context):
        print(line)
    if texts:
        print(note or "tokenizer: AutoTokenizer would not keep the rules of its tokenizer.json; the class is changed")
    if dry_run or output is None:
        print(extended.difference(), end="")
        return
    for line in _write_extended(extended, output, to, copy):
        print(line)


def _write_extended(extended: ExtendedFolder, output: Path, reach: int, copy: bool) -> list[str]:
    from longrepo.engines.base import load_errors
    from longrepo.engines.torch.positions import verify_folder
    from longrepo.export.formats import write_new_folder

    def fill(beside: Path) -> list[str]:
        how = extended.write(beside, copy)
        with load_errors(str(output)):
            return [f"model: {output} ({how})", verify_folder(beside, reach, extended.changed)]

    return write_new_folder(output, fill)


def _model_folder(model: str, revision: str | None, whole: bool) -> Path:
    """Return the model's folder, downloaded if it is on the hub: all of it, or only its small files."""
    from longrepo.engines.base import load_errors
    from longrepo.utils.hub import model_location

    where = model_location(model)
    if Path(where).is_dir():
        return Path(where)
    with load_errors(model):
        from huggingface_hub import snapshot_download

        patterns = [*_SMALL_FILES, *(["*.safetensors"] if whole else [])]
        return Path(snapshot_download(where, revision=revision, allow_patterns=patterns))


def _tokenizer_changes(folder: Path) -> tuple[dict[str, str], str]:
    """Return new texts for a model's tokenizer, and a note, if AutoTokenizer doesn't read tokenizer.json unchanged."""
    from longrepo.data.tokenizer_files import TOKENIZER_FILE, is_read_unchanged, make_tokenizer_files

    file, config = folder / TOKENIZER_FILE, folder / "tokenizer_config.json"
    if not file.is_file():
        return {}, ""
    try:
        state = file.read_text(encoding="utf-8")
        published = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise InputError(f"{folder}: its tokenizer can't be read ({error}); download the model again") from None
    if is_read_unchanged(state, published, folder):
        return {}, ""
    made = make_tokenizer_files(state, published, folder)
    return {name: text for name, text in made.texts.items() if name != TOKENIZER_FILE}, made.note


def _read_config(folder: Path) -> dict[str, Any]:
    """Read config.json, with transformers' defaults."""
    from transformers import AutoConfig

    tree: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    return tree


def _search_factors(
    model: str, revision: str | None, config: dict[str, Any], context: ContextSettings, text: Path, length: int | None
) -> ContextSettings:
    from longrepo.engines.longrope_search import search_long_factors

    found = search_long_factors(model, revision, config, context, text, length)
    print(
        f"longrope: loss {found.loss:.4f} with the factors found, {found.start:.4f} with the best of those it began "
        f"with ({found.tried} measured on {text})"
    )
    return context.model_copy(update={"long_factors": found.factors})
