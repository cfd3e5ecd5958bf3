"""Held-out targets: lines that training never shows, added by a held-out commit or in a held-out file.

A line counts as shown if any text that training shows, as target or as context, holds it, white space ignored
(`longrepo.utils.hashing`). Everything but the target lines, marks included, has weight 0 in a held-out sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longrepo.data.commits import is_large_data
from longrepo.data.dedup import Shingles, TrainingTexts
from longrepo.data.features import Features
from longrepo.data.marks import FILE_END, FILE_START
from longrepo.data.packing import Band
from longrepo.data.sequence import NotBuilt
from longrepo.data.template import BuiltSequence, TemplateSizes, write_file
from longrepo.data.text import TokenizedText
from longrepo.data.used_context import Place, UsedContext
from longrepo.data.workers import AddedRequest, CachedReader, FileRequest, Request, SkippedText
from longrepo.repository.imports.graph import ImportGraph
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.types import CommitRecord
from longrepo.utils import hashing

TARGET_TOKENS = 400
MIN_SCORED_TOKENS = 12  # fewer tokens say nothing about a model
ENOUGH_TARGETS = 8  # a split with fewer usable targets gets held-out files as well
_MAX_SHARED_LINES = 0.5  # two targets that share this much of their scored lines are the same change


@dataclass(frozen=True)
class Candidate:
    """A text that may be a target: the lines that no training text holds are scored, with `before` those of them that
    the commit added."""

    split: str
    path: str
    blob: str
    before: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Target:
    """Tokens `start`..`end` of a text; those in `scored` (token ranges) have weight 1."""

    split: str
    of: TokenizedText
    start: int
    end: int
    scored: tuple[tuple[int, int], ...]
    lines: frozenset[int]  # hashes of the scored lines
    shingles: Shingles  # of the scored text
    commit: str | None


def commit_candidates(split: str, records: Iterable[CommitRecord]) -> list[Candidate]:
    """Return a candidate for each file that a held-out commit changed or added."""
    return [
        Candidate(split, change.path, change.after, change.before, record.id)
        for record in records
        for change in record.changes
        if change.after is not None and change.after != change.before
    ]


class TargetChooser:
    """Chooses targets among candidates, taking one of each in turn, code before prose."""

    def __init__(self, reader: CachedReader, shown: TrainingTexts, size: int, seed: int) -> None:
        """`size`: the most tokens that a target may span."""
        self._reader = reader
        self._shown = shown
        self._size = size
        self._seed = seed
        self._chosen: list[Target] = []

    def choose(
        self, candidates: Mapping[str, Sequence[Candidate]], wanted: Mapping[str, int]
    ) -> dict[str, list[Target]]:
        """Choose up to `wanted` targets of each split, none nearly the same as another or as a text of training."""
        passes = {split: self._possible(of_split, wanted[split]) for split, of_split in candidates.items()}
        chosen: dict[str, list[Target]] = {split: [] for split in candidates}
        while passes:
            possible = {split: next(targets, None) for split, targets in passes.items()}
            every = [target for targets in possible.values() for target in targets or ()]
            copied = {id(every[number]) for number in self._shown.copied_blocks([target.shingles for target in every])}
            for split, targets in possible.items():
                for target in targets or ():
                    if len(chosen[split]) == wanted[split]:
                        break
                    if id(target) not in copied and not any(_is_similar(target, other) for other in self._chosen):
                        chosen[split].append(target)
                        self._chosen.append(target)
                if targets is None or len(chosen[split]) == wanted[split]:
                    del passes[split]
        return chosen

    def _possible(self, candidates: Sequence[Candidate], wanted: int) -> Iterator[list[Target]]:
        """Yield targets, a quarter more than wanted at a time: some will turn out to be copies."""
        order = sorted(
            candidates,
            key=lambda one: (
                self._reader.rules.language_of(one.path) in PROSE_LANGUAGES,
                hashing.seeded_int(self._seed, one.commit, one.path),
            ),
        )
        rounds: list[list[Target]] = []
        for start in range(0, len(order), max(1, wanted)):  # in a long history reading all of them would be a waste
            if 4 * sum(map(len, rounds)) >= 5 * wanted:
                yield [target for targets in rounds for target in targets]
                rounds = []
            for one, of, added in self._texts(order[start : start + wanted]):
                for number, target in enumerate(self._blocks(one, of, added)):
                    while len(rounds) <= number:
                        rounds.append([])
                    rounds[number].append(target)
        yield [target for targets in rounds for target in targets]

    def _texts(self, some: Sequence[Candidate]) -> Iterator[tuple[Candidate, TokenizedText, list[tuple[int, int]]]]:
        requests: list[Request] = [
            AddedRequest(one.path, one.before, one.blob) if one.commit else FileRequest(one.path, one.blob)
            for one in some
        ]
        for one, answer in zip(some, self._reader.read(requests, lambda _: None), strict=True):
            if not isinstance(answer, SkippedText) and not self._is_large(one.path, answer):
                yield one, answer.text, answer.facts.get("added", [(0, len(answer.text.rows))])

    def _is_large(self, path: str, answer: Features) -> bool:
        size = answer.facts.get("size", len(answer.text.text))
        return is_large_data(answer.text.language, size, self._reader.rules.of(path))

    def _blocks(self, one: Candidate, of: TokenizedText, added: list[tuple[int, int]]) -> Iterator[Target]:
        """Yield the lines to be scored as blocks that span at most `size` tokens each."""
        rows = np.zeros(len(of.row_hashes), bool)
        for first, last in added:
            rows[first:last] = True
        fresh = rows & self._shown.fresh(of.row_hashes)
        scored: list[tuple[int, int, int]] = []
        for row in np.flatnonzero(fresh).tolist():
            first, last = of.row_token(row), of.row_token(row + 1)
            if last - first > self._size:
                continue  # a single line longer than a target may be
            if scored and last - scored[0][0] > self._size:
                yield from self._target(one, of, scored)
                scored = []
            scored.append((first, last, int(of.row_hashes[row])))
        yield from self._target(one, of, scored)

    def _target(self, one: Candidate, of: TokenizedText, scored: list[tuple[int, int, int]]) -> Iterator[Target]:
        if sum(last - first for first, last, _ in scored) < MIN_SCORED_TOKENS:
            return
        spans = tuple((first, last) for first, last, _ in scored)
        start, end = spans[0][0], spans[-1][1]
        counts = np.zeros(end - start, bool)
        for first, last in spans:
            counts[first - start : last - start] = True
        shingles = self._shown.shingler.of(of.ids[start:end], counts)
        yield Target(one.split, of, start, end, spans, frozenset(line for _, _, line in scored), shingles, one.commit)


def _is_similar(target: Target, other: Target) -> bool:
    return len(target.lines & other.lines) >= _MAX_SHARED_LINES * min(len(target.lines), len(other.lines))


class HeldOutBuilder:
    """Puts targets behind context from the training snapshot: `used` chooses among its files, without held-out ones."""

    def __init__(
        self,
        repository: str,
        sizes: TemplateSizes,
        used: UsedContext,
        graph: ImportGraph,
        related: Callable[[str], Sequence[str]],
        rank: Mapping[str, int],
    ) -> None:
        self._repository = repository
        self._used = used
        self._graph = graph
        self._related = related
        self._rank = rank
        self._sizes = sizes

    def build(self, target: Target, band: Band) -> BuiltSequence | NotBuilt:
        """Build a sequence with the target at its end, filled to the band's cap if the repository has enough text."""
        room = band.cap - self._sizes.ends - self._sizes.frame(target.of) - (target.end - target.start)
        if room < 0:
            return NotBuilt("target longer than the phase's cap", target.end - target.start)
        own = target.start - target.of.start_in(target.start, room // 2)
        path = target.of.path
        place, edges = Place(target.of, target.start), self._graph.edges(path)
        before = self._used.pieces([place], edges, self._others(path), (), room - own, self._sizes)
        left = room - own - sum(map(self._sizes.file, before))
        # Room that related files can't fill goes to the file's own beginning.
        start = target.of.start_in(target.start, own + left) if left else target.start - own
        builder = self._sizes.begin()
        for piece in reversed(before):  # the closest relation comes last, next to the target
            write_file(builder, piece, 0.0)
        builder.mark(FILE_START, 0.0)
        builder.plain(target.of.path_ids, 0.0)
        builder.text(target.of, start, target.start, 0.0, False)
        weights = np.zeros(target.end - target.start, np.float32)
        for first, last in target.scored:
            weights[first - target.start : last - target.start] = 1.0
        builder.text(target.of, target.start, target.end, weights, True)
        builder.stop(FILE_END, 0.0, target.end == len(target.of) and target.of.ends)
        builder.end(0.0)
        if len(builder) <= band.floor:
            return NotBuilt("too little text in the training snapshot to fill this length", len(builder))
        return BuiltSequence(
            builder, "hierarchical", target.split, self._repository, (target.commit,) if target.commit else ()
        )

    def _others(self, path: str) -> Iterator[str]:
        near = dict.fromkeys(one for one in self._related(path) if one in self._used.paths)
        yield from near
        folder = path.rpartition("/")[0]
        rest = (one for one in self._used.paths if one not in near)
        yield from sorted(rest, key=lambda one: (one.rpartition("/")[0] != folder, self._rank.get(one, 0), one))
