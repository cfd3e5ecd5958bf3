"""The figures of a comparison on disk: `evaluation.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longrepo.config.files import write_text
from longrepo.evaluation.compare import Comparison


def write_result(file: Path, comparisons: Sequence[Comparison], about: Mapping[str, Any]) -> None:
    """Write the comparisons beside what they were measured on; an older file stays until the new one is whole."""
    content = {"format": 1, **about, "comparisons": [row.as_dict() for row in comparisons]}
    write_text(file, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_result(file: Path) -> list[Comparison]:
    """The comparisons of a file that `write_result` wrote."""
    return [Comparison(**row) for row in json.loads(file.read_text(encoding="utf-8"))["comparisons"]]
