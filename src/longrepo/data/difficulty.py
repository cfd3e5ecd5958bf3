"""How difficult a sequence is. Length plays no part, as lengths are what phases differ in.

Without a model: score = 0.35 unseen + 0.25 distance + 0.20 references + 0.20 nesting, each part in 0..1:

- unseen: of the names in the target text, the share that neither occurs earlier in the sequence nor is common in the
  training snapshot (in 5 % of its files, and at least 3). Names are words of two letters or more.
- distance: from the definition of a name to its use in the target, mean over uses of log2(1 + d) / log2(1 + 8192) with
  d in tokens (1 at 8192 and beyond); 0 if nothing that is used is defined in the sequence.
- references: files in the sequence whose names the target uses from another file, r / (r + 2).
- nesting: the deepest nesting of bodies in the target (in a change, of indentation), n / (n + 6).

With the base model (`data.model_difficulty`): 0.6 of that score + 0.25 loss + 0.15 context, measured on the last 256
target tokens:

- loss: l / (l + 3), where l is their loss in nats a token after everything before them in the sequence.
- context: 1 / (1 + g), where g is how many nats a token lower l is than without what comes before them: if the context
  doesn't help, the sequence lacks what is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrepo.data.sequence import DIFFICULTIES, TARGET_WEIGHT
from longrepo.data.template import BuiltSequence, SequencePart
from longrepo.data.text import Int32Array, TokenizedText

MODEL_PART_WEIGHTS = {"loss": 0.25, "context": 0.15}
_MAX_SCORED_TOKENS = 256

# The mean loss in nats of the tokens of weight 1, each given those before it: (ids, weights), `[tokens]` each.
Scorer = Callable[[Int32Array, NDArray[np.float32]], float]


def add_model_difficulty(built: BuiltSequence, score: Scorer) -> None:
    """Add the model's two parts to the score; a sequence with fewer than two target tokens keeps its score."""
    ids, weights = built.builder.arrays()
    targets = np.flatnonzero(weights == TARGET_WEIGHT)[-_MAX_SCORED_TOKENS:]
    if len(targets) < 2:
        return
    start = int(targets[0])
    judged = np.zeros(len(ids), np.float32)
    judged[targets[1:]] = 1.0
    after_all = score(ids, judged)
    alone = score(ids[start:], judged[start:])
    found = {
        "loss": round(after_all / (after_all + 3), 4),
        "context": round(1 / (1 + max(0.0, alone - after_all)), 4),
    }
    built.parts = built.parts | found
    without = 1 - sum(MODEL_PART_WEIGHTS.values())
    built.score = round(
        without * built.score + sum(MODEL_PART_WEIGHTS[name] * found[name] for name in MODEL_PART_WEIGHTS), 6
    )


_COMMON_SHARE, _COMMON_FILES = 0.05, 3
_AMBIGUOUS = 3  # a name defined in more files than this can't be traced to one

NameHashes = NDArray[np.uint32]


class NameIndex:
    """The names of the training snapshot: the common ones, and those that too many files define to be traced to one.

    Each text is added once. Its names are kept in long arrays, so that many sequences are judged at once. `[names of
    all texts]`: `number` of the name, `known` (it is common), `defines` (its text defines it), and `token`, its place,
    counted through all texts.
    """

    def __init__(self, common: NameHashes | None = None, ambiguous: NameHashes | None = None) -> None:
        """`common` and `ambiguous`: ascending hashes of names."""
        self.common = _no_names() if common is None else common
        self.ambiguous = _no_names() if ambiguous is None else ambiguous
        self._numbers: dict[int, int] = {}
        self._began: dict[int, tuple[int, TokenizedText]] = {}
        self._tokens = 0
        self._arrays = {"number": _GrowingArray(np.int32), "token": _GrowingArray(np.int32)}
        self._flags = {"known": _GrowingArray(np.bool_), "defines": _GrowingArray(np.bool_)}

    @staticmethod
    def of(texts: Sequence[TokenizedText]) -> NameIndex:
        """Return the index of the files of a snapshot."""
        held, by = _unique_counts([np.unique(text.names) for text in texts])
        defined, places = _unique_counts([text.defines for text in texts])
        enough = max(_COMMON_FILES, _COMMON_SHARE * len(texts))
        return NameIndex(held[by >= enough], defined[places > _AMBIGUOUS])

    def __len__(self) -> int:
        """The number of different names so far."""
        return len(self._numbers)

    @property
    def number(self) -> NDArray[np.int32]:
        """The number of each name."""
        return self._arrays["number"].filled

    @property
    def token(self) -> NDArray[np.int32]:
        """The token of each name, ascending."""
        return self._arrays["token"].filled

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether each name is common."""
        return self._flags["known"].filled

    @property
    def defines(self) -> NDArray[np.bool_]:
        """Whether its text defines each name and few others do."""
        return self._flags["defines"].filled

    def began(self, of: TokenizedText) -> int:
        """Return the token at which an added text begins."""
        return self._began[id(of)][0]

    def note(self, texts: Iterable[TokenizedText]) -> None:
        """Add the texts that aren't in the index yet."""
        new = [text for key, text in {id(text): text for text in texts}.items() if key not in self._began]
        if not new:
            return
        numbers, tokens = self._numbers, list[NDArray[np.int32]]()
        for text in new:
            self._began[id(text)] = self._tokens, text
            tokens.append(text.name_tokens + np.int32(self._tokens))
            self._tokens += len(text) + 1  # so that a name at a text's end comes before the next text
        names = np.concatenate([text.names for text in new])
        distinct, place = np.unique(names, return_inverse=True)
        number = [numbers.setdefault(name, len(numbers)) for name in distinct.tolist()]
        defined = isin_sorted(
            _with_text_numbers([text.names for text in new]), _with_text_numbers([text.defines for text in new])
        )
        self._arrays["number"].add(np.array(number, np.int32)[place])
        self._arrays["token"].add(np.concatenate(tokens))
        self._flags["known"].add(isin_sorted(distinct, self.common)[place])
        self._flags["defines"].add(defined & ~isin_sorted(distinct, self.ambiguous)[place])


class _GrowingArray:
    """An array that grows at its end."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._values: NDArray[Any] = np.empty(1024, dtype)
        self._size = 0

    @property
    def filled(self) -> NDArray[Any]:
        return self._values[: self._size]

    def add(self, more: NDArray[Any]) -> None:
        size = self._size + len(more)
        if size > len(self._values):
            grown = np.empty(max(size, len(self._values) * 3 // 2), self._values.dtype)
            grown[: self._size] = self.filled
            self._values = grown
        self._values[self._size : size] = more
        self._size = size


def isin_sorted(some: NDArray[Any], ascending: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of `some` values are in `ascending`."""
    if not len(ascending):
        return np.zeros(len(some), bool)
    slot = np.minimum(ascending.searchsorted(some), len(ascending) - 1)
    return np.asarray(ascending[slot] == some)


def _with_text_numbers(each: Sequence[NameHashes]) -> NDArray[np.uint64]:
    """Return names with the number of their text in the upper bits."""
    text = np.repeat(np.arange(len(each), dtype=np.uint64), [len(one) for one in each])
    return np.asarray(text << np.uint64(32) | np.concatenate(each))


def _no_names() -> NameHashes:
    return np.zeros(0, np.uint32)


def _unique_counts(each: Sequence[NameHashes]) -> tuple[NameHashes, NDArray[np.int64]]:
    return np.unique(np.concatenate([_no_names(), *each]), return_counts=True)


PART_WEIGHTS = {"unseen": 0.35, "distance": 0.25, "references": 0.20, "nesting": 0.20}
# For a sequence built outside a corpus, which has no quantiles: set by hand, near those of real repositories.
FIXED_THRESHOLDS = (0.25, 0.35, 0.45)
_MAX_DISTANCE = 8192  # tokens
_SEQUENCES_PER_BATCH = 64


def compute_parts(each: Sequence[Sequence[SequencePart]], names: NameIndex) -> list[dict[str, float]]:
    """Return the four parts of each sequence's difficulty, each in 0..1, for the target text among its parts."""
    found: list[dict[str, float]] = []
    for first in range(0, len(each), _SEQUENCES_PER_BATCH):
        found += _compute_batch(each[first : first + _SEQUENCES_PER_BATCH], names)
    return found


def _compute_batch(each: Sequence[Sequence[SequencePart]], names: NameIndex) -> list[dict[str, float]]:
    parts = [part for one in each for part in one]
    names.note(part.of for part in parts)
    files: dict[str, int] = {}
    began = np.array([names.began(part.of) for part in parts], np.int32)
    start, end = (np.array([getattr(part, name) for part in parts], np.int32) for name in ("start", "end"))
    first = names.token.searchsorted(began + start)
    size = names.token.searchsorted(began + end) - first
    ends = np.cumsum(size)
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + size, size)
    shift = np.array([part.at for part in parts], np.int64) - start - began
    which = np.repeat([files.setdefault(part.of.path, len(files)) for part in parts], size)
    limits = np.concatenate([[0], ends])[np.cumsum([0, *map(len, each)])]
    seen, definition = _first_positions(names, index, limits)
    uses = np.flatnonzero(np.repeat([part.target for part in parts], size))
    owner = np.repeat(np.arange(len(each)), np.diff(limits))
    count = np.bincount(owner[uses], minlength=len(each))
    fresh = uses[(seen[uses] == uses) & ~names.known[index[uses]]]
    unseen = np.bincount(owner[fresh], minlength=len(each)) / np.maximum(count, 1)
    uses = uses[(definition[uses] >= limits[owner[uses]]) & (definition[uses] < uses)]
    where = names.token[index] + np.repeat(shift, size)
    away = np.minimum(1.0, np.log2(1.0 + where[uses] - where[definition[uses]]) / np.log2(1.0 + _MAX_DISTANCE))
    defined_uses = np.bincount(owner[uses], minlength=len(each))
    distance = np.bincount(owner[uses], away, minlength=len(each)) / np.maximum(defined_uses, 1)
    other = uses[which[definition[uses]] != which[uses]]
    pairs = np.unique(owner[other] * max(1, len(files)) + which[definition[other]])
    references = np.bincount(pairs // max(1, len(files)), minlength=len(each))
    return [
        {
            "unseen": round(float(unseen[number]), 4),
            "distance": round(float(distance[number]), 4),
            "references": round(float(references[number] / (references[number] + 2)), 4),
            "nesting": _nesting(one),
        }
        for number, one in enumerate(each)
    ]


def _first_positions(
    names: NameIndex, index: NDArray[np.int64], limits: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where in `index` each of its names first occurs in the sequence, and where it is first defined (a place
    before the sequence if it isn't). Sequences end at `limits`."""
    name, defines = names.number[index], names.defines[index]
    scratch, scratch_of_definitions = np.full(len(names), -1), np.full(len(names), -1)
    seen, definition = np.empty(len(index), np.int64), np.empty(len(index), np.int64)
    place = np.arange(len(index))
    for begin, end in pairwise(limits.tolist()):
        own, at = name[begin:end], place[begin:end]
        scratch[own[::-1]] = at[::-1]
        seen[begin:end] = scratch[own]
        defined = at[defines[begin:end]][::-1]
        scratch_of_definitions[name[defined]] = defined
        definition[begin:end] = scratch_of_definitions[own]
    return seen, definition


def _nesting(parts: Sequence[SequencePart]) -> float:
    depths = [part.of.depth[part.start : part.end] for part in parts if part.target and len(part.of.depth)]
    deepest = max((int(depth.max()) for depth in depths), default=0)
    return round(deepest / (deepest + 6), 4)


def weighted_score(parts: Mapping[str, float]) -> float:
    """Return the weighted sum of the parts, 0..1."""
    return round(sum(weight * parts[name] for name, weight in PART_WEIGHTS.items()), 6)


def difficulty_label(score: float, thresholds: tuple[float, float, float] = FIXED_THRESHOLDS) -> str:
    """Return one of DIFFICULTIES by how many of the three ascending thresholds the score reaches."""
    return DIFFICULTIES[sum(score >= threshold for threshold in thresholds)]


def score_difficulty(built: Sequence[BuiltSequence], names: NameIndex) -> None:
    """Set score, parts and the difficulty by fixed thresholds of sequences."""
    for one, parts in zip(built, compute_parts([one.builder.parts for one in built], names), strict=True):
        one.parts = parts
        one.score = weighted_score(parts)
        one.difficulty = difficulty_label(one.score)


def quantile_thresholds(scores: Iterable[float]) -> tuple[float, float, float]:
    """Return the scores at 25, 50 and 75 % of a phase's training sequences (FIXED_THRESHOLDS for fewer than four)."""
    ordered = sorted(scores)
    if len(ordered) < 4:
        return FIXED_THRESHOLDS
    one, two, three = (ordered[min(len(ordered) - 1, len(ordered) * quarter // 4)] for quarter in (1, 2, 3))
    return one, two, three
