"""`longrepo export` and `longrepo import-adapter`: what was trained for other tools, and adapters of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from longrepo.export.formats import Precision, Quantization

OutputOption = Annotated[Path, typer.Option(help="The folder to write; a new one.")]


class Format(StrEnum):
    mlx = "mlx"
    peft = "peft"
    merged = "merged"
    gguf = "gguf"


class Bits(StrEnum):
    none = "none"
    four = "4bit"
    eight = "8bit"


class Dtype(StrEnum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, a checkpoint's, or an adapter's.")],
    output: OutputOption,
    format: Annotated[
        Format,
        typer.Option(
            help="peft: the adapter and its tokenizer; mlx: what mlx_lm.generate and mlx_lm.server load; merged: a "
            "whole model for transformers; gguf: the same for llama.cpp."
        ),
    ],
    base: Annotated[
        str | None, typer.Option(help="Another name of the adapter's base: say the model a 4-bit one was made from.")
    ] = None,
    quantization: Annotated[
        Bits | None, typer.Option(help="mlx: none or 4bit, default the run's; gguf: none or 8bit.")
    ] = None,
    precision: Annotated[
        Dtype | None,
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
    from longrepo.export.formats import Choices, export
    from longrepo.export.source import find_source

    choices = Choices(
        cast("Quantization | None", quantization and quantization.value),
        cast("Precision | None", precision and precision.value),
        with_base,
        model_file,
        adapter_only,
        llama_cpp,
    )
    for line in export(find_source(run).on(base), format.value, choices, output):
        print(line)


def import_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="DIR", help="What mlx_lm.lora wrote: --adapter-path of it.")],
    output: OutputOption,
    model: Annotated[
        str | None, typer.Option("--model", help="The base it was trained on; default: the one it names.")
    ] = None,
) -> None:
    """Turn an adapter of mlx-lm into PEFT's format."""
    from longrepo.export.formats import import_mlx

    for line in import_mlx(adapter, model, output):
        print(line)
