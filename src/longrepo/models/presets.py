"""The presets: StarCoder2's architecture at 150 to 500 million parameters, and the embedded model's shape.

A preset's name is a size and a context, `150M_1024`; a size alone takes the context in its file. Rotary positions have
no parameters, so one file a size serves every context.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo import embedded
from longrepo.errors import InputError

CONTEXTS = (256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens
SIZES = Path(__file__).parent / "sizes"
STARCODER2 = "bigcode/starcoder2-3b"  # whose tokenizer has the sized presets' 49,152 tokens


@dataclass(frozen=True)
class Preset:
    """`config`: what a `config.json` of transformers holds. `tokenizer`: a name as `--model` takes it."""

    name: str
    config: dict[str, Any]
    tokenizer: str

    @property
    def context(self) -> int:
        """Tokens."""
        return int(self.config["max_position_embeddings"])

    def write_config(self, folder: Path) -> None:
        """As `config.json`, into an existing folder."""
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def sizes() -> dict[str, Path]:
    """Size → its file, from the smallest on."""
    files = sorted(SIZES.glob("*.json"), key=lambda file: int(file.stem.removesuffix("M")))
    return {"embedded": embedded.path() / "config.json"} | {file.stem: file for file in files}


def names() -> list[str]:
    """Every preset with its context: `embedded_256`, …, `500M_16384`."""
    return [f"{size}_{context}" for size in sizes() for context in CONTEXTS]


def preset(name: str) -> Preset:
    """Raises InputError for an unknown name, with the nearest there is."""
    size, _, context = name.partition("_")
    known = sizes()
    if size not in known or (context and context not in map(str, CONTEXTS)):
        raise InputError(f"preset {name}: no such preset; {_nearest(name)}; see longrepo models list")
    config = json.loads(known[size].read_text(encoding="utf-8"))
    if context:
        config["max_position_embeddings"] = int(context)
    full = f"{size}_{config['max_position_embeddings']}"
    return Preset(full, config, "embedded" if size == "embedded" else STARCODER2)


def _nearest(name: str) -> str:
    size, _, context = name.partition("_")
    if size in sizes() and context.isdecimal():
        closest = min(CONTEXTS, key=lambda tokens: abs(tokens - int(context)))
        return f"the nearest context of {size} is {size}_{closest}"
    found = difflib.get_close_matches(name, [*sizes(), *names()], n=1, cutoff=0)
    return f"did you mean {found[0]}?"
