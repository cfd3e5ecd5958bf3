"""What was measured, as it is kept: `evaluation.json`. docs/evaluation.md explains every field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from longrepo.errors import InputError
from longrepo.utils.files import write_text_file

EVALUATION_FORMAT = 2
FEW_GROUPS = 4  # groups: with fewer an interval says nothing about chance
FigureParts = Mapping[str, str | int]


@dataclass(frozen=True)
class Comparison:
    """Held-out sequences of one length range. Losses are nats a target token; `difference` is tuned minus base, with
    its 95 % interval by bootstrap over `groups` (commits, or held-out files)."""

    longest: int  # tokens of the range's longest sequence
    cap: int
    sequences: int
    targets: int
    groups: int
    base: float
    tuned: float
    difference: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves no doubt about the sign."""
        return self.groups >= FEW_GROUPS and (self.high < 0 or self.low > 0)


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval by bootstrap over groups; with one group both ends are the mean."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One quantity under base and tuned, on the same samples. `parts` tells it from the others of its `measure`.

    `difference` is tuned minus base, paired. `tokens` are what a mean runs over where it runs over tokens, else 0.
    """

    measure: str
    metric: str
    parts: FigureParts
    unit: str
    better: Literal["lower", "higher"]
    base: Estimate
    tuned: Estimate
    difference: Estimate
    samples: int
    tokens: int
    groups: int
    seed: int

    @property
    def certain(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.groups >= FEW_GROUPS and (self.difference.high < 0 or self.difference.low > 0)

    @property
    def gained(self) -> bool:
        """Whether tuned is better than base, be it by chance."""
        return self.difference.value < 0 if self.better == "lower" else self.difference.value > 0


@dataclass(frozen=True)
class Example:
    """What both models wrote where `wanted` stood: after the text `before`, and before `after` where the middle was
    asked for. `base_scores` and `tuned_scores`: metric → value."""

    measure: str
    parts: FigureParts
    path: str
    commit: str
    before: str
    wanted: str
    after: str
    base: str
    tuned: str
    base_scores: Mapping[str, float]
    tuned_scores: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All that one run of `longrepo evaluate` found. `about`: model, engine, data, seed; `notes`: plain sentences."""

    about: Mapping[str, Any]
    comparisons: Sequence[Comparison] = ()
    figures: Sequence[Figure] = ()
    examples: Sequence[Example] = ()
    notes: Sequence[str] = field(default=())

    def find(self, measure: str, metric: str | None = None, **parts: str | int) -> list[Figure]:
        """The figures of a measure whose parts hold at least these values, in the order they were written."""
        return [
            one
            for one in self.figures
            if one.measure == measure
            and metric in (None, one.metric)
            and all(one.parts.get(name) == value for name, value in parts.items())
        ]


def write_evaluation(file: Path, evaluation: Evaluation) -> None:
    """Write it whole; an older file stays until the new one is."""
    content = {"format": EVALUATION_FORMAT, **asdict(evaluation)}
    write_text_file(file, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_evaluation(file: Path) -> Evaluation:
    """What `write_evaluation` wrote. Raises InputError where it isn't there, or is of another format."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{file}: no evaluation can be read there; run longrepo evaluate") from None
    if not isinstance(content, dict) or content.get("format") != EVALUATION_FORMAT:
        raise InputError(f"{file}: of another format than {EVALUATION_FORMAT}; run longrepo evaluate again")
    return Evaluation(
        content["about"],
        [Comparison(**one) for one in content["comparisons"]],
        [figure_from_json(one) for one in content["figures"]],
        [Example(**one) for one in content["examples"]],
        content["notes"],
    )


def figure_from_json(tree: Mapping[str, Any]) -> Figure:
    """A figure as JSON holds it."""
    estimates = {name: Estimate(**tree[name]) for name in ("base", "tuned", "difference")}
    return Figure(**{**tree, **estimates})
