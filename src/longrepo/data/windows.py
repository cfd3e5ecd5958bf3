"""The repository as overlapping windows, as `tokenizers/git_tokenizer_rich.py` makes them.

The files are one stream, definitions first, and each phase's windows cover all of it. A window begins `overlap` tokens
before the end of the one before it, at the start of a line if there is one; the overlap has weight 0, so each token is
scored once in a phase. The end token is scored only at the end of the text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longrepo.config.schema import Settings
from longrepo.data.corpus import Corpus
from longrepo.data.marks import FILE_END, FILE_START
from longrepo.data.mixture import PhaseAccount
from longrepo.data.packing import TOO_SHORT_REASON, Band, bands_up_to
from longrepo.data.prepare import (
    PreparationTools,
    PreparedData,
    RepositoryPart,
    RepositorySpec,
    SequencePlan,
    prepare_sequences,
)
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.template import BuiltSequence, SequenceBuilder
from longrepo.data.text import TokenizedText
from longrepo.errors import InputError
from longrepo.utils.progress import Progress


@dataclass(frozen=True)
class _FilePlacement:
    """A file's place in the stream: marks and path begin at `at`, the text at `text_at`, the end mark at `end_at`."""

    of: TokenizedText
    at: int
    text_at: int
    end_at: int


def build_windows(
    origins: Sequence[RepositorySpec], settings: Settings, tools: PreparationTools, length: int, overlap: int
) -> PreparedData:
    """Build windows for every phase up to `length` tokens, and the same held-out sequences as `prepare`.

    Raises InputError if a repository holds nothing to train on or has a weight, or `length` is beyond the positions.
    """
    reach = tools.positions(settings.context)
    if reach is not None and length > reach:
        raise InputError(
            f"windows of {length:,} tokens, and the positions of {settings.model.name} reach {reach:,}: build windows "
            "of that or less, or extend them with context.method"
        )
    if any(origin.weight != 1 for origin in origins):
        raise InputError("--weight: windows show every text once; leave it out, or build long-context sequences")
    bands = bands_up_to(settings, length)
    without_changes = settings.model_copy(
        update={"data": settings.data.model_copy(update={"commit_share": 0.0, "question_share": 0.0})}
    )
    lowered = {band.phase: min(overlap, band.cap // 2) for band in bands}
    notes = [
        f"phase {phase}: overlap lowered from {overlap} to {used}, half its length"
        for phase, used in lowered.items()
        if used < overlap
    ]

    plan = WindowPlan(without_changes, bands, notes, f"tokenize, overlap {overlap}", lowered)
    return prepare_sequences(origins, plan, tools)


@dataclass(frozen=True)
class WindowPlan(SequencePlan):
    """A plan for windows of each band. `overlaps`: phase → repeated tokens."""

    overlaps: dict[int, int]

    def build(self, part: RepositoryPart, watch: Progress) -> None:
        """Cut each band's windows over all of the repository's text."""
        for band in self.bands:
            watch.step(f"cutting windows of {band.cap} tokens")
            built, part.accounts[band.phase] = _phase_windows(part.corpus, band, self.overlaps[band.phase])
            part.training += built


def _phase_windows(corpus: Corpus, band: Band, overlap: int) -> tuple[list[BuiltSequence], PhaseAccount]:
    texts = {path: text for path, text in corpus.texts.items() if len(text)}
    stream, starts, length = _place_files([texts[path] for path in sorted(texts, key=corpus.rank.__getitem__)], corpus)
    account = PhaseAccount(tokenized=sum(map(len, texts.values())))
    built: list[BuiltSequence] = []
    for start, end, fresh in _spans(length, starts, band, overlap, corpus.sizes.ends):
        builder = _window(corpus, stream, start, end, fresh, end == length)
        used = builder.roles["target"]
        if len(builder) <= band.floor:
            account.dropped[TOO_SHORT_REASON] += used
            continue
        account.used += used
        built.append(BuiltSequence(builder, "window", "train", corpus.facts.name))
    corpus.score_difficulty(built)
    return built, account


def _place_files(texts: list[TokenizedText], corpus: Corpus) -> tuple[list[_FilePlacement], list[int], int]:
    """Return each file's place in the stream, where lines begin in the stream, and its length."""
    sizes, at = corpus.sizes, 0
    placed: list[_FilePlacement] = []
    starts: list[int] = []
    for of in texts:
        text_at = at + sizes.marks(FILE_START) + len(of.path_ids)
        end_at = text_at + len(of)
        placed.append(_FilePlacement(of, at, text_at, end_at))
        starts.append(at)
        starts.extend((of.lines + text_at).tolist())
        at = end_at + sizes.marks(FILE_END)
    return placed, starts, at


def _spans(length: int, starts: list[int], band: Band, overlap: int, ends: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, first fresh token) of each window over a stream of `length` tokens; `ends` is the size of what
    comes before and after a window's part of the stream."""
    room, done, start = band.cap - ends, 0, 0
    while done < length:
        end = min(length, start + room)
        if end == length and end - start < band.low - ends:
            # The last window: more overlap rather than too few tokens.
            start = _line_start_near(starts, max(0, length - room), done)
        elif end < length:
            line = starts[bisect_right(starts, end) - 1]
            end = line if line > max(done, start + room // 2) else end
        yield start, end, done
        done = end
        start = _line_start_near(starts, max(0, end - overlap), done)


def _line_start_near(starts: list[int], at: int, before: int) -> int:
    index = bisect_left(starts, at)
    return starts[index] if index < len(starts) and starts[index] <= before else at


def _window(
    corpus: Corpus, stream: list[_FilePlacement], start: int, end: int, fresh: int, last: bool
) -> SequenceBuilder:
    builder, context = corpus.sizes.begin(), corpus.settings.data.context_weight
    first = bisect_right([placed.at for placed in stream], start) - 1
    marked = corpus.sizes.marks(FILE_END) > 0  # else the end token, or the next file's mark, says that a file ends
    for placed in stream[first:]:
        if placed.at >= end:
            break
        if start <= placed.at:
            builder.mark(FILE_START, context if placed.at >= fresh else 0.0)
            builder.plain(placed.of.path_ids, context if placed.at >= fresh else 0.0)
        low, high = max(start, placed.text_at), min(end, placed.end_at)
        middle = min(max(low, fresh), max(low, high))
        builder.text(placed.of, low - placed.text_at, middle - placed.text_at, 0.0, False)
        builder.text(placed.of, middle - placed.text_at, high - placed.text_at, TARGET_WEIGHT, True)
        if placed.end_at < end:  # what ends at `fresh` without a mark of its own was scored in the window before
            builder.mark(FILE_END, TARGET_WEIGHT if placed.end_at >= fresh + (not marked) else 0.0)
        last |= not marked and placed.end_at == end
    builder.end(TARGET_WEIGHT if last else 0.0)
    return builder
