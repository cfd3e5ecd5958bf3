"""The repositories that a file of sequences was made of, and the finished measurements on disk.

Measurements are kept one a line, so that an evaluation that was stopped continues where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from longrepo.data.dataset import SequenceFile
from longrepo.data.questions.evidence import holds_commit
from longrepo.data.questions.write import match_folders, training_commit
from longrepo.errors import InputError, RunError
from longrepo.evaluation.scoring import Measurements
from longrepo.training.checkpoint import STATE

STAGE_FILE, REPOSITORIES_KEY = "stage.json", "repositories"  # the pipeline's record beside the sequences; name → folder


def find_repositories(file: SequenceFile, run: Path, given: Sequence[Path]) -> list[Path]:
    """Return the given folders, else for each repository the first folder that holds its training commit: the one the
    pipeline read, the current one, or one that encloses the sequences or the run.

    Raises InputError if there is none.
    """
    if given:
        return list(match_folders(file, given).values())
    recorded = _recorded_folders(file.path)
    found = []
    for facts in file.header.repositories:
        commit, known = training_commit(facts), recorded.get(facts.name)
        places = [Path(known)] if known else []
        folder = next(
            (
                one
                for one in (*places, Path(), *_enclosing_repositories(file.path), *_enclosing_repositories(run))
                if _has_commit(one, commit)
            ),
            None,
        )
        if folder is None:
            where = f"{known}, where it was read, no longer holds it" if known else "its folder isn't recorded"
            raise InputError(f"no repository with commit {commit[:10]} of {facts.name}: {where}; give it with --repo")
        found.append(folder)
    return found


def recorded_sequences(run: Path) -> Path:
    """Return the path of the sequences that a run records as its training data. Raises InputError if it doesn't."""
    try:
        return Path(json.loads((run / "last" / STATE).read_text(encoding="utf-8"))["sequences"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{run}: doesn't record what it was trained on; give --sequences FILE") from None


def _recorded_folders(sequences: Path) -> Mapping[str, str]:
    try:
        found = json.loads((sequences.parent / STAGE_FILE).read_text(encoding="utf-8"))[REPOSITORIES_KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _enclosing_repositories(path: Path) -> Iterator[Path]:
    return (folder for folder in path.resolve().parents if (folder / ".git").exists())


def _has_commit(folder: Path, commit: str) -> bool:
    try:
        return folder.is_dir() and holds_commit(folder, commit)
    except InputError:
        return False


MEASUREMENTS_FILE = "measurements.jsonl"


class MeasurementStore:
    """Measurements of one adapter on one file of sequences, both named by `about`, the first line of the file.

    A file about something else is started over. Use it in a `with`.
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self._file = file
        self._about = json.loads(json.dumps(about))
        self._known: dict[str, Measurements] = {}
        self._stream: TextIO | None = None

    def __enter__(self) -> MeasurementStore:
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

    def __getitem__(self, key: str) -> Measurements:
        return self._known[key]

    def add(self, key: str, measured: Measurements) -> None:
        """Store a measurement; it is on disk when this returns. Raises RunError on a full disk."""
        assert self._stream is not None
        try:
            self._stream.write(json.dumps({"key": key, **measured.as_dict()}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise RunError(f"{self._file}: can't be written ({error.strerror}); free some space, run again") from None
        self._known[key] = measured

    def _read(self) -> int:
        """Read the file; return how many bytes of it are whole lines about the same thing, 0 for none."""
        try:
            lines = self._file.read_bytes().splitlines(keepends=True)
        except OSError:
            return 0
        whole = 0
        for line in lines:
            try:
                tree: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
                if whole:
                    self._known[tree["key"]] = Measurements.from_dict(tree)
                elif tree != self._about:
                    return 0
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        return whole
