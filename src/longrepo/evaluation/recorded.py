"""Where the repositories lie that a file of sequences was made of, when nobody says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from longrepo.errors import InputError
from longrepo.sequences.questions.rows import folders_of, training_commit
from longrepo.sequences.questions.tree import holds
from longrepo.sequences.store import SequenceFile

STAGE, REPOSITORIES = "stage.json", "repositories"  # the pipeline's record beside the sequences; name → folder


def repositories(file: SequenceFile, run: Path, given: Sequence[Path]) -> list[Path]:
    """The folders given; else for each repository the first that holds its training commit: where the pipeline read
    it, this folder, or one that the sequences or the run lie in.

    Raises InputError where there is none.
    """
    if given:
        return list(folders_of(file, given).values())
    recorded = _recorded(file.path)
    found = []
    for facts in file.header.repositories:
        commit, known = training_commit(facts), recorded.get(facts.name)
        places = [Path(known)] if known else []
        folder = next((one for one in (*places, Path(), *_around(file.path), *_around(run)) if _has(one, commit)), None)
        if folder is None:
            where = f"{known}, where it was read, doesn't hold it any more" if known else "where it lies isn't recorded"
            raise InputError(f"no repository with commit {commit[:10]} of {facts.name}: {where}; give it with --repo")
        found.append(folder)
    return found


def _recorded(sequences: Path) -> Mapping[str, str]:
    try:
        found = json.loads((sequences.parent / STAGE).read_text(encoding="utf-8"))[REPOSITORIES]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _around(path: Path) -> Iterator[Path]:
    return (folder for folder in path.resolve().parents if (folder / ".git").exists())


def _has(folder: Path, commit: str) -> bool:
    try:
        return folder.is_dir() and holds(folder, commit)
    except InputError:
        return False
