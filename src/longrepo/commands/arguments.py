"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SequencesArgument = Annotated[
    Path, typer.Argument(metavar="SEQUENCES", help="A folder of sequences, or a .json, .jsonl or .parquet file.")
]
TokenizerOption = Annotated[
    str | None, typer.Option("--model", help="Where their tokenizer is. [default: the model they name]")
]
