"""What one repository's sequences are made of: its training texts and changes, tokenized, and what is held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from longrepo.config.schema import Settings
from longrepo.repository.imports.graph import ImportGraph
from longrepo.repository.snapshot import Entry
from longrepo.sequences.chains import Link
from longrepo.sequences.compose import Sizes
from longrepo.sequences.difficulty import judge
from longrepo.sequences.draft import Built
from longrepo.sequences.header import RepositoryFacts
from longrepo.sequences.names import Names
from longrepo.sequences.reading import Reader
from longrepo.sequences.splits import Splits
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer

_RELATED = 40  # files looked at around a target or a question


@dataclass
class Corpus:
    """`texts` are the files trained on: those of the training snapshot without held-out files and duplicates; `held`
    are the files held out, by split. `entries` are all files of the snapshot that can be read as text."""

    reader: Reader
    settings: Settings
    facts: RepositoryFacts
    splits: Splits
    entries: dict[str, Entry]
    texts: dict[str, TokenizedText]
    held: dict[str, list[TokenizedText]]
    graph: ImportGraph
    names: Names
    links: list[Link]
    left_out: Counter[str] = field(default_factory=Counter)  # files, by reason
    left_out_bytes: Counter[str] = field(default_factory=Counter)
    commits_left_out: Counter[str] = field(default_factory=Counter)
    changes_left_out: Counter[str] = field(default_factory=Counter)
    duplicate_tokens: int = 0
    targets_dropped: Counter[str] = field(default_factory=Counter)  # held-out sequences not built, by reason

    @property
    def tokenizer(self) -> RepoTokenizer:
        """That of all its texts."""
        return self.reader.tokenizer

    @cached_property
    def sizes(self) -> Sizes:
        """What each part of a format takes."""
        return Sizes(self.tokenizer)

    @cached_property
    def rank(self) -> dict[str, int]:
        """Path → its place where definitions come first."""
        return {path: place for place, path in enumerate(self.graph.definitions_first(self.graph.imports))}

    def __post_init__(self) -> None:
        self.related = lru_cache(maxsize=None)(lambda path: self.graph.related(path, _RELATED))

    def neighbours(self, path: str) -> Sequence[str]:
        """Files one import away, what is imported first."""
        return (*self.graph.imports.get(path, ()), *self.graph.imported_by.get(path, ()))

    def judge(self, built: Sequence[Built]) -> None:
        """Write their difficulty into sequences, by what the training snapshot knows."""
        judge(built, self.names)
