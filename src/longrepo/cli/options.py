"""The options that several commands take."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class EngineChoice(StrEnum):
    auto = "auto"
    torch = "torch"
    mlx = "mlx"


EngineOption = Annotated[
    EngineChoice,
    typer.Option(
        "--engine", help="Compute with torch or MLX. auto: MLX on Apple Silicon if it is installed, else torch."
    ),
]
SequencesArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SEQUENCES", help="What prepare or tokenize wrote: a folder, or a .json, .jsonl or .parquet file."
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Where to find their tokenizer. Default: the model they name."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file (YAML). Keys it leaves out keep their defaults."),
]
MODEL_HELP = "Hub name, folder, GGUF file, `embedded` or `smollm2-135m`."
ModelOption = Annotated[str | None, typer.Option("--model", metavar="MODEL", help=f"{MODEL_HELP} Default: model.name.")]
PathOption = Annotated[
    str | None, typer.Option("--path", metavar="SUBFOLDER", help="Read only this folder of the repository.")
]


def announce_clone(repo: Any) -> Any:
    """Print which URLs among --repo are cloned or updated, which can take minutes; return --repo unchanged."""
    from longrepo.repository.clone import url_of

    for one in repo if isinstance(repo, list | tuple) else [repo]:
        if one is not None and (url := url_of(one)):
            print(f"fetching {url}", file=sys.stderr)
    return repo


def _complete_setting(incomplete: str) -> list[str]:
    """Return the settings that begin with what was typed, for a shell's completion of --set."""
    from longrepo.config.loader import all_keys

    return [f"{key}=" for key in all_keys() if key.startswith(incomplete)]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting: lora.r=16. Repeatable.",
        autocompletion=_complete_setting,
    ),
]


def overrides_of(set_: list[str] | None, model: str | None) -> tuple[str, ...]:
    """Return what --set and --model override, --model last."""
    return (*(set_ or ()), *((f"model.name={model}",) if model else ()))
