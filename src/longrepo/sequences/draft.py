"""A sequence in the making: tokens, weights, and which text stands where (for difficulty and for the accounts)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from longrepo.sequences.sequence import TARGET_WEIGHT, Kind, LongContextSequence
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer


@dataclass(frozen=True)
class Part:
    """A stretch of repository text in a sequence, from token `start` to `end`."""

    path: str
    language: str
    text: str
    start: int
    end: int
    target: bool


@dataclass
class Draft:
    """Tokens and weights, filled from the front. `roles` counts tokens: target, context, structure."""

    tokenizer: RepoTokenizer
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.tokens)

    def mark(self, name: str, weight: float) -> None:
        """A structure token; where the tokenizer has none (`data.structure_tokens: false`), its name as text."""
        id = self.tokenizer.structure_ids.get(name)
        self.plain([id] if id is not None else self.tokenizer.encode(name), weight)

    def plain(self, ids: Sequence[int], weight: float) -> None:
        """Tokens that hold the sequence together (marks, paths, labels)."""
        self.tokens.extend(ids)
        self.weights.extend([weight] * len(ids))
        self.roles["structure"] += len(ids)

    def text(self, of: TokenizedText, start: int, end: int, weight: float | Sequence[float], target: bool) -> None:
        """Tokens start..end of a text, with one weight or one a token; `target` says that they count as used."""
        if start >= end:
            return
        at = len(self.tokens)
        self.tokens.extend(of.ids[start:end])
        self.weights.extend([weight] * (end - start) if isinstance(weight, float | int) else weight)
        self.parts.append(Part(of.path, of.language, of.slice_text(start, end), at, len(self.tokens), target))
        self.roles["target" if target else "context"] += end - start

    def end(self, weight: float = TARGET_WEIGHT) -> None:
        """The end token, once, last."""
        self.plain([self.tokenizer.end_id], weight)

    def finish(self, kind: Kind, split: str = "train", commits: Sequence[str] = (), **more: Any) -> LongContextSequence:
        """The sequence, without its difficulty (`longrepo.sequences.difficulty` adds that)."""
        if self.weights:
            self.weights[0] = 0.0  # nothing predicts the first token
        targets = Counter[str]()
        held = [part for part in self.parts if part.path]
        for part in held:
            targets[part.language] += (part.end - part.start) * (100 if part.target else 1)
        metadata: dict[str, Any] = {
            "kind": kind,
            "files_included": list(dict.fromkeys(part.path for part in held)),
            "commits_included": list(dict.fromkeys(commits)),
            "language": max(sorted(targets), key=targets.__getitem__) if targets else "Other",
            "split": split,
            "roles": dict(self.roles),
            **more,
        }
        return LongContextSequence(self.tokens, self.weights, metadata)


def mark_size(tokenizer: RepoTokenizer, name: str) -> int:
    """Tokens that `Draft.mark` takes."""
    return 1 if name in tokenizer.structure_ids else len(tokenizer.encode(name))
