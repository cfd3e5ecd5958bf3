"""Export, import-adapter, extend.

`longrepo export` and `longrepo import-adapter`: what was trained for other tools, and adapters of other tools.

`longrepo extend`: a model's folder whose positions reach farther.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.config.schema import ContextSettings
    from longrepo.export.adapter import Precision, Quantization
    from longrepo.rope.extend import ExtendedFolder


ExportOutputOption = Annotated[Path, typer.Option(help="The folder to write; a new one.")]


class ExportFormat(StrEnum):
    mlx = "mlx"
    peft = "peft"
    merged = "merged"
    gguf = "gguf"


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
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, a checkpoint's, or an adapter's.")],
    output: ExportOutputOption,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="peft: the adapter and its tokenizer; mlx: what mlx_lm.generate and mlx_lm.server load; merged: a "
            "whole model for transformers; gguf: the same for llama.cpp."
        ),
    ],
    base: Annotated[
        str | None, typer.Option(help="Another name of the adapter's base: say the model a 4-bit one was made from.")
    ] = None,
    quantization: Annotated[
        ExportBits | None, typer.Option(help="mlx: none or 4bit, default the run's; gguf: none or 8bit.")
    ] = None,
    precision: Annotated[
        ExportPrecision | None,
        typer.Option(
            help="Of what isn't quantised. merged, gguf: bfloat16 unless given (auto: the base's own); mlx: the run's."
        ),
    ] = None,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="gguf: the adapter in a file of its own, not merged.")
    ] = False,
    llama_cpp: Annotated[
        Path | None,
        typer.Option("--llama-cpp", help="gguf: a checkout of llama.cpp. Default: convert_hf_to_gguf.py on PATH."),
    ] = None,
    with_base: Annotated[
        bool,
        typer.Option("--with-base", help="mlx, gguf --adapter-only: write a base also where no rows were trained."),
    ] = False,
    model_file: Annotated[
        bool,
        typer.Option(help="Give mlx's base a model file where mlx-lm's own model computes something else."),
    ] = True,
) -> None:
    """Write an adapter, or a model whose weights were all trained, as other tools load it."""
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
    )
    for line in export_artifact(find_artifact(run).on(base), format.value, choices, output):
        print(line)


def import_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="DIR", help="What mlx_lm.lora wrote: --adapter-path of it.")],
    output: ExportOutputOption,
    model: Annotated[
        str | None, typer.Option("--model", help="The base it was trained on; default: the one it names.")
    ] = None,
) -> None:
    """Turn an adapter of mlx-lm into PEFT's format."""
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
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub name, local folder, or `embedded`.")],
    to: Annotated[int, typer.Option("--to", min=64, help="Tokens that its positions are to reach.")],
    method: Annotated[
        ExtendMethod, typer.Option(help="How rotary positions are scaled; none: they aren't.")
    ] = ExtendMethod.yarn,
    output: Annotated[Path | None, typer.Option(help="The folder to write; a new one.")] = None,
    window: Annotated[str, typer.Option(help="Tokens that windowed layers see: keep, a number, or full.")] = "keep",
    factor: Annotated[float | None, typer.Option(help="Of the scaling; default: --to / native length.")] = None,
    search_on: Annotated[
        Path | None, typer.Option(help="longrope: search its factors on a text file or a git repository.")
    ] = None,
    search_length: Annotated[
        int | None, typer.Option(min=128, help="Tokens of the search's texts; default: --to, at most 4 x native.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights where they would be hard-linked.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of a hub name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
) -> None:
    """Write a model's folder whose positions reach farther: config.json, tokenizer, generation and card changed alike,
    the weights as they are."""
    from longrepo.config.loader import load_settings
    from longrepo.engines.messages import load_errors
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
        extended = ExtendedFolder.of(source, _base_name(model), config, context)
    for line in context_messages(config, context):
        print(line)
    if dry_run or output is None:
        print(extended.difference(), end="")
        return
    for line in _write_extended(extended, output, to, copy):
        print(line)


def _write_extended(extended: ExtendedFolder, output: Path, reach: int, copy: bool) -> list[str]:
    from longrepo.engines.messages import load_errors
    from longrepo.engines.torch.positions import verify_folder
    from longrepo.export.formats import write_new_folder

    def fill(beside: Path) -> list[str]:
        how = extended.write(beside, copy)
        with load_errors(str(output)):
            return [f"model: {output} ({how})", verify_folder(beside, reach, extended.changed)]

    return write_new_folder(output, fill)


def _model_folder(model: str, revision: str | None, whole: bool) -> Path:
    """The model's folder, downloaded where it is the hub's; all of it, or its small files alone."""
    from longrepo.engines.messages import load_errors
    from longrepo.utils.hub import model_location

    where = model_location(model)
    if Path(where).is_dir():
        return Path(where)
    with load_errors(model):
        from huggingface_hub import snapshot_download

        patterns = [*_SMALL_FILES, *(["*.safetensors"] if whole else [])]
        return Path(snapshot_download(where, revision=revision, allow_patterns=patterns))


def _base_name(model: str) -> str:
    if model == "embedded":
        return "longrepo's embedded model"
    return Path(model).name if Path(model).expanduser().is_dir() else model


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json with transformers' defaults."""
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
