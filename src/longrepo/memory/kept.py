"""What was found out once about a model or this machine, kept in the cache folder."""

from __future__ import annotations

import json
from typing import Any

from longrepo.config.files import write_text
from longrepo.sequences.cache import cache_folder

MOST = 5000  # entries


class Kept:
    """Values of JSON by key, in a file `name` of the cache folder. One that can't be read is as good as none."""

    def __init__(self, name: str) -> None:
        folder = cache_folder()
        self._file = folder / name if folder else None
        self._entries = self._read()

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._entries.get(key)

    def put(self, key: str, value: Any) -> None:
        """What other processes put meanwhile stays."""
        self._entries = self._read() | self._entries | {key: value}
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(self._file, json.dumps(dict(list(self._entries.items())[-MOST:])))

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file.read_text())) if self._file else {}
        except (OSError, ValueError):
            return {}
