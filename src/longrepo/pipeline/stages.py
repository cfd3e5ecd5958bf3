"""Stages that remember: each result lies in a folder named after everything it depends on.

A stage whose folder is whole is skipped; one whose inputs changed gets a new folder, so nothing is ever overwritten.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from longrepo.config.files import write_text

DONE = "stage.json"


class Stage:
    """`folder` is `<output>/<name>-<fingerprint>`; `inputs` is everything the result depends on (JSON values)."""

    def __init__(self, output: Path, name: str, inputs: dict[str, Any]) -> None:
        self.name = name
        self._inputs = inputs
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
        self.folder = output / f"{name}-{digest}"

    @property
    def done(self) -> bool:
        """Whether the stage ended well before, with these very inputs."""
        try:
            return bool(json.loads((self.folder / DONE).read_text(encoding="utf-8"))["inputs"] == self._inputs)
        except (OSError, ValueError, KeyError):
            return False

    def finish(self, **results: Any) -> None:
        """Mark the folder as whole."""
        content = {"stage": self.name, "inputs": self._inputs, **results}
        write_text(self.folder / DONE, json.dumps(content, indent=2, sort_keys=True) + "\n")
