"""What stands around a file in its repository, at HEAD: what an editor has to show beside the place it asks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrepo.config.schema import Settings
from longrepo.evaluation.trees import Tree, Trees
from longrepo.repository.imports.statements import Import
from longrepo.repository.repository import Repository
from longrepo.sequences.cache import Cache, cache_folder
from longrepo.sequences.compose import FilePiece
from longrepo.sequences.lines import line_hash
from longrepo.sequences.tokenizer import RepoTokenizer

_SURE = 0.5  # of the lines asked at, which a file must hold to be the one they are from


@dataclass(frozen=True)
class Around:
    """A repository's files as they stand at HEAD, read once."""

    folder: Path
    tree: Tree

    @staticmethod
    def read(repo: Path, tokenizer: RepoTokenizer, settings: Settings) -> Around:
        """Raises InputError where it is no repository, or one without a commit."""
        cache = Cache(cache_folder())
        try:
            repository = Repository.open(repo)
            head = repository.resolve()
            trees = Trees(repository, head, tokenizer, settings, cache)
            try:
                return Around(repository.path, trees.at(head))
            finally:
                trees.close()
        finally:
            cache.close()

    def others(self, path: str, seen: Iterable[Import]) -> Iterator[FilePiece]:
        """The files related to the one at `path`, nearest first. `seen`: what that imports now."""
        return (FilePiece.whole(self.tree.texts[one], False) for one in self.tree.related(path, seen))

    def path_of(self, text: str) -> str | None:
        """The file that holds most of a text's lines, if it holds half of them: the one it is from."""
        asked = {line_hash(line) for line in text.split("\n")} - {0}
        wanted = np.array(sorted(asked), np.uint64)
        shared = {path: int(np.isin(wanted, of.row_hashes).sum()) for path, of in self.tree.texts.items()}
        best = max(sorted(shared), key=shared.__getitem__, default=None)
        return best if best and asked and shared[best] >= _SURE * len(asked) else None


def enclosing(file: Path) -> Path | None:
    """The folder of the repository that a file lies in."""
    return next((folder for folder in file.resolve().parents if (folder / ".git").exists()), None)
