"""Arguments that several commands take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class EngineChoice(StrEnum):
    auto = "auto"
    torch = "torch"
    mlx = "mlx"


EngineOption = Annotated[
    EngineChoice,
    typer.Option("--engine", help="What computes. auto: MLX on Apple Silicon where it is installed, else torch."),
]
SequencesArgument = Annotated[
    Path, typer.Argument(metavar="SEQUENCES", help="A folder of sequences, or a .json, .jsonl or .parquet file.")
]
TokenizerOption = Annotated[
    str | None, typer.Option("--model", help="Where their tokenizer is. [default: the model they name]")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="The settings file; defaults hold for what it leaves out.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Hub name, local folder, or `embedded`; over model.name.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: lora.r=16. Repeatable.")
]


def overrides_of(set_: list[str] | None, model: str | None) -> tuple[str, ...]:
    """What --set and --model override, --model last."""
    return (*(set_ or ()), *((f"model.name={model}",) if model else ()))
