"""Held-out sequences: the same targets at every length, preceded by as much context as the length holds.

What is scored are lines that training never saw: added by a held-out commit (or standing in a held-out file) and found,
stripped, neither in the training snapshot nor in any change trained on. Everything else, marks included, has weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from longrepo.repository.languages import language_of
from longrepo.repository.model import Commit
from longrepo.sequences import chance
from longrepo.sequences.compose import FilePiece, Sizes, write_file
from longrepo.sequences.draft import Draft
from longrepo.sequences.hunks import added_rows
from longrepo.sequences.lengths import Band
from longrepo.sequences.sequence import LongContextSequence, NotBuilt
from longrepo.sequences.text import PROSE, TokenizedText, path_tokens
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import FILE_END, FILE_START

TARGET_TOKENS = 400
LEAST_SCORED = 12  # tokens: less says nothing about a model
ENOUGH = 8  # usable targets a split should have before files are held out as well
_LEAST_CONTEXT = 32  # tokens of a file that are worth its frame


@dataclass(frozen=True)
class Candidate:
    """A text with rows that may be scored (0-based, ascending), from a held-out commit or (None) a held-out file."""

    split: str
    path: str
    text: str
    rows: tuple[int, ...]
    commit: str | None


@dataclass(frozen=True)
class Target:
    """Tokens `start`..`end` of a text, of which those in `scored` (token ranges) have weight 1."""

    split: str
    of: TokenizedText
    start: int
    end: int
    scored: tuple[tuple[int, int], ...]
    commit: str | None


def stripped_lines(texts: Iterable[str]) -> set[str]:
    """Every line that isn't blank, stripped."""
    return {line.strip() for text in set(texts) for line in text.split("\n")} - {""}


def commit_candidates(split: str, commits: Iterable[Commit], known: set[str]) -> Iterator[Candidate]:
    """One candidate for each file a held-out commit changed in a way that training never saw."""
    for commit in commits:
        for change in commit.changes:
            if change.after is None:
                continue
            lines = change.after.split("\n")
            runs = added_rows(change.before or "", change.after)
            rows = tuple(row for first, last in runs for row in range(first, last) if _new(lines[row], known))
            if rows:
                yield Candidate(split, change.path, change.after, rows, commit.id)


def file_candidate(split: str, path: str, text: str, known: set[str]) -> Candidate:
    """A held-out file with the lines that no training file holds."""
    rows = tuple(row for row, line in enumerate(text.split("\n")) if _new(line, known))
    return Candidate(split, path, text, rows, None)


def _new(line: str, known: set[str]) -> bool:
    return bool(line.strip()) and line.strip() not in known


def choose(
    tokenizer: RepoTokenizer, candidates: Sequence[Candidate], wanted: int, size: int, seed: int
) -> list[Target]:
    """Up to `wanted` targets of at most `size` tokens: one of each candidate in turn, code before prose."""
    if wanted == 0:
        return []
    order = sorted(
        candidates,
        key=lambda one: (language_of(one.path) in PROSE, chance.number(seed, one.commit, one.path)),
    )
    rounds: list[list[Target]] = []
    for start in range(0, len(order), 4 * wanted):  # tokenizing them all would be waste in a long history
        some = order[start : start + 4 * wanted]
        encoded = tokenizer.encode_many(one.text for one in some)
        for one, (ids, starts) in zip(some, encoded, strict=True):
            paths = path_tokens(tokenizer, one.path)
            of = TokenizedText(one.path, one.text, language_of(one.path, one.text), ids, starts, paths)
            for number, target in enumerate(_blocks(one, of, size)):
                while len(rounds) <= number:
                    rounds.append([])
                rounds[number].append(target)
        if sum(map(len, rounds)) >= wanted:
            break
    return [target for targets in rounds for target in targets][:wanted]


def _blocks(one: Candidate, of: TokenizedText, size: int) -> Iterator[Target]:
    """The scored rows in blocks that span at most `size` tokens each."""
    scored: list[tuple[int, int]] = []
    for row in one.rows:
        first, last = of.row_token(row), of.row_token(row + 1)
        if last - first > size:
            continue  # a single line longer than a target
        if scored and last - scored[0][0] > size:
            yield from _target(one, of, scored)
            scored = []
        scored.append((first, last))
    yield from _target(one, of, scored)


def _target(one: Candidate, of: TokenizedText, scored: list[tuple[int, int]]) -> Iterator[Target]:
    if sum(last - first for first, last in scored) >= LEAST_SCORED:
        yield Target(one.split, of, scored[0][0], scored[-1][1], tuple(scored), one.commit)


class HeldOutBuilder:
    """Puts targets behind context from the training snapshot. `texts` are its files, without held-out ones."""

    def __init__(
        self,
        tokenizer: RepoTokenizer,
        texts: Mapping[str, TokenizedText],
        related: Callable[[str], Sequence[str]],
        rank: Mapping[str, int],
        judge: Callable[[Draft, LongContextSequence], LongContextSequence],
    ) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self._related = related
        self._rank = rank
        self._judge = judge
        self._sizes = Sizes(tokenizer)

    def build(self, target: Target, band: Band) -> LongContextSequence | NotBuilt:
        """The target at the end of a sequence that fills the band's cap as far as the repository's text goes."""
        room = band.cap - 1 - self._sizes.frame(target.of) - (target.end - target.start)
        if room < 0:
            return NotBuilt("target longer than the phase's cap", target.end - target.start)
        own = target.start - target.of.start_in(target.start, room // 2)
        before, left = self._context(target.of.path, room - own)
        # What related files could not fill is given to the file's own beginning.
        start = target.of.start_in(target.start, own + left) if left else target.start - own
        draft = Draft(self._tokenizer)
        for piece in reversed(before):  # the nearest relation stands nearest to the target
            write_file(draft, piece, 0.0)
        draft.mark(FILE_START, 0.0)
        draft.plain(target.of.path_ids, 0.0)
        draft.text(target.of, start, target.start, 0.0, False)
        weights = [0.0] * (target.end - target.start)
        for first, last in target.scored:
            weights[first - target.start : last - target.start] = [1.0] * (last - first)
        draft.text(target.of, target.start, target.end, weights, True)
        draft.mark(FILE_END, 0.0)
        draft.end(0.0)
        if len(draft) <= band.floor:
            return NotBuilt("too little text in the training snapshot to fill this length", len(draft))
        commits = [target.commit] if target.commit else []
        return self._judge(draft, draft.finish("hierarchical", target.split, commits))

    def _context(self, path: str, room: int) -> tuple[list[FilePiece], int]:
        """Pieces of other files, nearest relation first, and the tokens they leave free."""
        pieces: list[FilePiece] = []
        near = dict.fromkeys(one for one in self._related(path) if one in self._texts)
        folder = path.rpartition("/")[0]
        others = sorted(self._texts, key=lambda one: (one.rpartition("/")[0] != folder, self._rank.get(one, 0), one))
        for one in [*near, *(other for other in others if other not in near)]:
            of = self._texts[one]
            free = room - self._sizes.frame(of)
            if free < _LEAST_CONTEXT:
                if room < _LEAST_CONTEXT + 8:
                    break
                continue
            if one == path or not len(of):
                continue
            end = len(of) if len(of) <= free else of.cut_in(0, free, free // 2)[0]
            pieces.append(FilePiece(of, 0, end, (), False))
            room -= self._sizes.file(pieces[-1])
        return pieces, room
