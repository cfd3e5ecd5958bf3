"""A repository at a commit, tokenized as sequences are: the context that an editor can show around a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from longrepo.config.schema import Settings
from longrepo.data.bm25 import BM25Index
from longrepo.data.commits import is_large_data
from longrepo.data.difficulty import NameIndex
from longrepo.data.template import FilePiece, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import Place, UsedContext
from longrepo.data.workers import CachedReader, ExtractionPool, FileRequest, SkippedText, selection_of
from longrepo.redaction.redactor import Redactor
from longrepo.repository.imports.graph import ImportGraph, build_import_graph
from longrepo.repository.imports.resolver import ImportResolver
from longrepo.repository.imports.statements import Import
from longrepo.repository.languages import language_of
from longrepo.repository.repository import Repository
from longrepo.repository.rules import context_paths
from longrepo.repository.snapshot import unread_reason
from longrepo.repository.types import TextFile
from longrepo.utils.cache import SqliteCache

MAX_RELATED_FILES = 40  # files looked at around a target
COMMON_FILES, COMMON_SHARE = 8, 0.1  # a name in at least 8 files and 10 % of all says nothing about a line
_MAX_CACHED_TREES = 3  # each has an index and a graph; the texts are shared


@dataclass(frozen=True)
class RepoTree:
    """The files of a commit. `texts`: path → usable file; `statements`: path → its imports."""

    commit: str
    texts: Mapping[str, TokenizedText]
    statements: Mapping[str, Sequence[Import]]

    @cached_property
    def ambiguous(self) -> frozenset[int]:
        """Names (hashes) defined in too many files to tell where one comes from."""
        return frozenset(NameIndex.of(list(self.texts.values())).ambiguous.tolist())

    @cached_property
    def common(self) -> frozenset[int]:
        """Names (hashes) common all over the project, keywords among them."""
        each = [np.unique(text.names) for text in self.texts.values()]
        names, files = np.unique(np.concatenate([np.zeros(0, np.uint32), *each]), return_counts=True)
        return frozenset(names[files >= max(COMMON_FILES, COMMON_SHARE * len(each))].tolist())

    @cached_property
    def defined_in(self) -> Mapping[int, frozenset[str]]:
        """Name (hash) → the paths that define it."""
        found: defaultdict[int, set[str]] = defaultdict(set)
        for path, text in self.texts.items():
            for name in text.defines.tolist():
                found[name].add(path)
        return {name: frozenset(paths) for name, paths in found.items()}

    @cached_property
    def index(self) -> BM25Index:
        """The search index of its files."""
        return BM25Index([text for path, text in self.texts.items() if path in self._fitting])

    @cached_property
    def _fitting(self) -> frozenset[str]:
        return context_paths(self.texts)

    @cached_property
    def graph(self) -> ImportGraph:
        """Which file imports which."""
        return build_import_graph(self._files, self.statements)

    @cached_property
    def used(self) -> UsedContext:
        """Chooses what to show of its files."""
        return UsedContext({path: self.texts[path] for path in self.texts if path in self._fitting}, lambda: self.index)

    def context(
        self, place: Place, seen: Iterable[Import], room: int, sizes: TemplateSizes, without: Collection[str] = ()
    ) -> list[FilePiece]:
        """Return pieces of other files to show before a place, the nearest to it first, in `room` tokens, none of a
        path in `without`. `seen`: imports that its file has beyond those it has in this tree."""
        path = place.of.path
        graph = self._graph_with(path, seen, place.of.slice_text(0, place.at))
        return self.used.pieces([place], graph.edges(path), self._near(graph, path), without, room, sizes)

    def related(self, path: str, seen: Iterable[Import] = ()) -> list[str]:
        """Return paths of related files, nearest first: by imports, then by name and folder. `seen`: imports that the
        file at `path` has beyond those it has in this tree."""
        text = self.texts[path].text if path in self.texts else ""
        return self._near(self._graph_with(path, seen, text), path)

    def _near(self, graph: ImportGraph, path: str) -> list[str]:
        return [one for one in graph.related(path, MAX_RELATED_FILES) if one in self.texts and one != path]

    def _graph_with(self, path: str, seen: Iterable[Import], text: str) -> ImportGraph:
        """Return the graph as it is with further imports of a file, and with `text` (what is above the place) of it
        alone: lines to come must not choose what is shown."""
        statements = dict.fromkeys((*self.statements.get(path, ()), *seen))
        own = TextFile(path, text, "", self.texts[path].language if path in self.texts else language_of(path))
        imports: Sequence[str] = self.graph.imports.get(path, ())
        if len(statements) > len(self.statements.get(path, ())):
            files = self._files if path in self.texts else [*self._files, own]
            imports = ImportResolver(files, {**self.statements, path: list(statements)}).of(own)
        return self.graph.seen_from(own, imports)

    @cached_property
    def _files(self) -> list[TextFile]:
        return [TextFile(path, text.text, "", text.language) for path, text in self.texts.items()]


class RepoTrees:
    """The trees of one repository; each text is read once. Close it after use, which closes the repository too."""

    def __init__(
        self,
        repository: Repository,
        head: str,
        tokenizer: RepoTokenizer,
        settings: Settings,
        cache: SqliteCache,
        name: str = "",
    ):
        """`head`: the commit that was prepared; the people known then are redacted. `name`: the repository's, if it
        isn't its folder's."""
        data = settings.data
        redactor = Redactor(repository.people(head)) if data.redact else None
        pool = ExtractionPool(tokenizer, redactor, data.context_weight, 1)
        self.repository = repository
        self.name = name or repository.name
        repository.choose_files(head, selection_of(data))
        self.reader = CachedReader(
            repository, tokenizer, redactor, pool, cache, data.max_file_bytes, data.context_weight
        )
        self._known: dict[tuple[str, str], tuple[TokenizedText, tuple[Import, ...]] | None] = {}
        self.at = lru_cache(maxsize=_MAX_CACHED_TREES)(self._read)

    def close(self) -> None:
        """End the reading processes. May be called twice."""
        self.reader.pool.close()
        self.repository.close()

    def files(self, found: Mapping[str, str]) -> dict[str, TokenizedText]:
        """Return path → text for a mapping of path → blob; unreadable ones are left out."""
        self._know(found.items())
        return {path: one[0] for path, blob in found.items() if (one := self._known[path, blob])}

    def _read(self, commit: str) -> RepoTree:
        tracked, rules = list(self.repository.tracked(commit)), self.reader.rules
        rules.load(entry.path for entry in tracked)
        entries = {
            entry.path: entry.blob
            for entry in tracked
            if not unread_reason(entry, self.reader.max_file_bytes, rules.of(entry.path))[0]
        }
        self._know(entries.items())
        known = {path: one for path, blob in sorted(entries.items()) if (one := self._known[path, blob])}
        return RepoTree(
            commit, {path: one[0] for path, one in known.items()}, {path: one[1] for path, one in known.items()}
        )

    def _know(self, wanted: Iterable[tuple[str, str]]) -> None:
        missing = [one for one in wanted if one not in self._known]
        answers = self.reader.read([FileRequest(*one) for one in missing], lambda _: None)
        for one, answer in zip(missing, answers, strict=True):
            if (
                isinstance(answer, SkippedText)
                or not len(answer.text)
                or is_large_data(answer.text.language, len(answer.text.text), self.reader.rules.of(one[0]))
            ):
                self._known[one] = None
                continue
            self._known[one] = answer.text, answer.text.outline.imports
            answer.text.forget_outline()
