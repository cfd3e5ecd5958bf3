"""Finished measurements on disk, a line each, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from longrepo.errors import InputError, RunError
from longrepo.evaluation.measured import Measured

MEASUREMENTS = "measurements.jsonl"


class Store:
    """What was measured of one adapter on one file of sequences (`about`, the first line); of another it begins anew.

    Use it in a `with`.
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self._file = file
        self._about = json.loads(json.dumps(about))
        self._known: dict[str, Measured] = {}
        self._stream: TextIO | None = None

    def __enter__(self) -> Store:
        whole = self._read()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not whole:
                self._file.write_text(json.dumps(self._about) + "\n", encoding="utf-8")
            else:
                os.truncate(self._file, whole)  # a line that was cut short
            self._stream = self._file.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self._file}: can't be written ({error.strerror}); choose another folder") from None
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Measured:
        return self._known[key]

    def add(self, key: str, measured: Measured) -> None:
        """Keep a measurement, on disk before this returns. Raises RunError on a full disk."""
        assert self._stream is not None
        try:
            self._stream.write(json.dumps({"key": key, **measured.as_dict()}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise RunError(f"{self._file}: can't be written ({error.strerror}); free some space, run again") from None
        self._known[key] = measured

    def _read(self) -> int:
        """Read what is there; return how many bytes of it are whole lines about the same thing, 0 for none."""
        try:
            lines = self._file.read_bytes().splitlines(keepends=True)
        except OSError:
            return 0
        whole = 0
        for line in lines:
            try:
                tree: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
                if whole:
                    self._known[tree["key"]] = Measured.from_dict(tree)
                elif tree != self._about:
                    return 0
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        return whole
