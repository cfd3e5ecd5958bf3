"""Commit chains: a file as it was, then what commits made of it, filled to a phase's lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from longrepo.repository.languages import language_of
from longrepo.repository.model import Change, Commit
from longrepo.sequences.compose import FilePiece, Sizes, Step, make_step, step_text
from longrepo.sequences.lengths import Band
from longrepo.sequences.text import TokenizedText, path_tokens
from longrepo.sequences.tokenizer import RepoTokenizer

_STEPS_SHARE = 0.6  # of a sequence go to the changes at first; the file as it was gets the rest
_LEAST_STATE = 64  # tokens: less of the file as it was is no context
_TRAILER = re.compile(r"^(signed-off-by|co-authored-by|reviewed-by|acked-by|tested-by|change-id)\s*:.*$", re.I | re.M)
_EMAIL = re.compile(r"<?[\w.+-]+@[\w-]+\.[\w.-]+>?")


@dataclass(frozen=True)
class Link:
    """One change of one file, with the text before it."""

    commit: str
    path: str
    message: str
    before: str
    after: str
    files: int  # that the commit changed in all


@dataclass
class Chain:
    """A file's changes, oldest first, tokenized, and the text before each."""

    path: str
    steps: list[Step]
    before: list[str]


@dataclass
class ChainPack:
    """A sequence of chains: (the file as it was or None, its steps)."""

    runs: list[tuple[FilePiece | None, list[Step]]] = field(default_factory=list)
    front: list[FilePiece] = field(default_factory=list)  # related files, as context, where the chains are short

    @property
    def steps(self) -> Iterator[Step]:
        """Every step in it."""
        for _, steps in self.runs:
            yield from steps


def clean_message(message: str) -> str:
    """A commit's message without trailers and e-mail addresses: people's names and addresses are not to be learnt."""
    kept = _EMAIL.sub("", _TRAILER.sub("", message))
    return re.sub(r"\n{3,}", "\n\n", kept).strip()


def links(commits: Iterable[Commit], without: frozenset[str], limit: int) -> tuple[list[Link], Counter[str]]:
    """The changes of existing files in these commits (newest first), up to about `limit` characters of changed files,
    each under the path its file has now; and what was left out by reason, as far as history was read. Files of
    `without` are left out whole."""
    found: list[Link] = []
    left_out: Counter[str] = Counter()
    now: dict[str, str] = {}
    size = 0
    for commit in commits:
        for change in commit.changes:
            path = now.get(change.path, change.path)
            if change.old_path:
                now[change.old_path] = path
            if reason := _reason(change, path, without):
                left_out[reason] += 1
                continue
            assert change.before is not None and change.after is not None
            found.append(
                Link(commit.id, path, clean_message(commit.message), change.before, change.after, len(commit.changes))
            )
            size += abs(len(change.after) - len(change.before)) + 400  # about what the hunks take
        if size > limit:  # older history is not even read
            break
    return found, left_out


def _reason(change: Change, path: str, without: frozenset[str]) -> str:
    if without & {path, change.path, change.old_path or ""}:
        return "change of a held-out file"
    if change.before is None or not change.before.strip():
        return "file added: it stands in the snapshot"
    if change.after is None:
        return "file deleted"
    return ""


def tokenize_links(tokenizer: RepoTokenizer, found: Sequence[Link], context: float) -> list[Chain]:
    """One chain a path, those changed last first; changes that leave the text as it is fall out."""
    texts = [(link, step_text(link.commit, link.message, link.before, link.after)) for link in found]
    texts = [(link, text) for link, text in texts if text]
    chains: dict[str, Chain] = {}
    for (link, text), (ids, starts) in zip(texts, tokenizer.encode_many(text for _, text in texts), strict=True):
        of = TokenizedText(link.path, text, language_of(link.path, link.after), ids, starts, has_syntax=False)
        chain = chains.setdefault(link.path, Chain(link.path, [], []))
        chain.steps.insert(0, make_step(link.commit, link.message, of, context))
        chain.before.insert(0, link.before)
    return list(chains.values())


class ChainPacker:
    """Fills sequences of a phase from chains, each change used once."""

    def __init__(self, tokenizer: RepoTokenizer, sizes: Sizes, reserve: int = 1) -> None:
        self._tokenizer = tokenizer
        self._sizes = sizes
        self._reserve = reserve
        self._states: dict[tuple[str, str], TokenizedText] = {}  # the same state opens sequences of several phases

    def pack(self, chains: Iterable[Chain], band: Band) -> list[ChainPack]:
        """Sequences of at most the band's cap; chains that are short share one."""
        packs: list[ChainPack] = []
        full = band.cap - self._reserve
        current, room = ChainPack(), full
        for chain in chains:
            todo = list(zip(chain.steps, chain.before, strict=True))
            while todo:
                before = todo[0][1]
                steps, rest = self._take([one for one, _ in todo], int(room * _STEPS_SHARE), room, full)
                if not steps:
                    packs.append(current)
                    current, room = ChainPack(), full
                    continue
                left = room - sum(map(self._sizes.step, steps))
                state = self._state(chain.path, before, steps[0].first_row, left)
                left -= self._sizes.file(state) if state else 0
                while rest and rest[0].start == 0 and self._sizes.step(rest[0]) <= left:
                    left -= self._sizes.step(rest[0])
                    steps.append(rest.pop(0))
                current.runs.append((state, steps))
                room = left
                todo = list(zip(rest, [one for _, one in todo[len(todo) - len(rest) :]], strict=True))
        if current.runs:
            packs.append(current)
        return packs

    def _take(self, steps: list[Step], wanted: int, room: int, full: int) -> tuple[list[Step], list[Step]]:
        """The first steps that fit into `wanted` tokens; in a fresh sequence at least one, cut where it is longer,
        so that the file as it was has its place too. And the rest."""
        taken: list[Step] = []
        rest = list(steps)
        while rest and self._sizes.step(rest[0]) <= wanted:
            taken.append(rest.pop(0))
            wanted -= self._sizes.step(taken[-1])
        if taken or not rest:
            return taken, rest
        if room < full:
            return [], rest
        first = rest[0]
        frame = self._sizes.step(first) - (first.stop - first.start)
        if frame + _LEAST_STATE > wanted:  # a message that leaves no room is not repeated
            frame, first = frame - first.repeated, replace(first, message=0)
        end, _ = first.of.cut_in(first.start, first.start + max(1, wanted - frame), max(1, (wanted - frame) // 2))
        return [replace(first, end=end)], [replace(first, start=end), *rest[1:]]

    def _state(self, path: str, before: str, row: int, room: int) -> FilePiece | None:
        key = (path, before)
        if key not in self._states:
            ids, starts = self._tokenizer.encode_many([before])[0]
            of = TokenizedText(path, before, language_of(path, before), ids, starts, path_tokens(self._tokenizer, path))
            self._states[key] = of
        of = self._states[key]
        room -= self._sizes.frame(of)
        if room < min(_LEAST_STATE, len(of)) or not len(of):
            return None
        if len(of) <= room:
            return FilePiece.whole(of, target=False)
        middle = of.lines[row - 1] if 0 < row <= len(of.lines) else 0
        start = of.start_in(middle, room // 2) if middle else 0
        return FilePiece(of, start, of.cut_in(start, min(len(of), start + room), room // 2)[0], (), False)
