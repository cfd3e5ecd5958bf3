"""`longrepo export` and `longrepo import-adapter`: adapters for other tools, and of other tools."""

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


class Bits(StrEnum):
    none = "none"
    four = "4bit"


class Dtype(StrEnum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float32 = "float32"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, a checkpoint's, or an adapter's.")],
    output: OutputOption,
    format: Annotated[
        Format,
        typer.Option(help="mlx: what mlx_lm.generate and mlx_lm.server load; peft: the adapter and its tokenizer."),
    ],
    quantization: Annotated[Bits | None, typer.Option(help="Of mlx's base; default: the run's.")] = None,
    precision: Annotated[
        Dtype | None, typer.Option(help="Of what isn't quantised; default: the run's training.precision.")
    ] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Write mlx's base also where no structure rows were trained.")
    ] = False,
    model_file: Annotated[
        bool,
        typer.Option(help="Give mlx's base a model file where mlx-lm's own model computes something else."),
    ] = True,
) -> None:
    """Write an adapter as other tools load it."""
    from longrepo.export.formats import Choices, export
    from longrepo.export.source import find_source

    choices = Choices(
        cast("Quantization | None", quantization and quantization.value),
        cast("Precision | None", precision and precision.value),
        with_base,
        model_file,
    )
    for line in export(find_source(run), format.value, choices, output):
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
