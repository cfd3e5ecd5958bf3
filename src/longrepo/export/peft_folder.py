"""The adapter as PEFT loads it, with its tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

from longrepo.export.source import Source
from longrepo.sequences.tokenizer import load_tokenizer


def write_peft(source: Source, folder: Path, final: Path) -> list[str]:
    """Copy the adapter's folder into an existing empty one; return lines for the terminal."""
    shutil.copytree(source.adapter, folder, dirs_exist_ok=True)
    settings = source.settings
    if not (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(source.tokenizer, settings.model.revision, settings.data.structure_tokens)
        tokenizer.source.save_pretrained(str(folder))
    return [f"adapter: {final} (base: {settings.model.name})"]
