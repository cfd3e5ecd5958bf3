"""The result of an evaluation, as `evaluation.json` stores it. docs/evaluation.md explains every field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from longrepo.errors import InputError
from longrepo.utils.files import write_text_file

EVALUATION_FORMAT = 2
FEW_GROUPS = 4  # with fewer groups an interval says nothing about chance
FigureParts = Mapping[str, str | int]


@dataclass(frozen=True)
class Comparison:
    """The losses on held-out sequences of one length range, in nats a target token; `difference` is tuned minus base,
    with its 95 % interval by bootstrap over `groups` (commits, or held-out files)."""

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
        """Whether the interval excludes 0."""
        return self.groups >= FEW_GROUPS and (self.high < 0 or self.low > 0)


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % bootstrap interval over groups; with one group both ends are the mean."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One quantity under base and tuned, on the same samples. `parts` sets it apart from others of its `measure`.

    `difference` is tuned minus base, paired. `tokens` is the number of tokens that a mean over tokens has, else 0.
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
        """Whether the interval of the difference excludes 0."""
        return self.groups >= FEW_GROUPS and (self.difference.high < 0 or self.difference.low > 0)

    @property
    def gained(self) -> bool:
        """Whether tuned is better than base, even if by chance."""
        return self.difference.value < 0 if self.better == "lower" else self.difference.value > 0


@dataclass(frozen=True)
class Example:
    """What both models wrote in the place of `wanted`: after the text `before`, and before `after` if the middle was
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
class AgainstAdapter:
    """A run against another adapter of its base, on the same lines: in each figure `base` is that adapter's value.
    `name`: as given; `adapter`: the SHA-256 of its files."""

    name: str
    adapter: str
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Evaluation:
    """All results of one `longrepo evaluate`. `about`: model, engine, data, seed; `notes`: plain sentences; `against`:
    other adapters measured on the same lines."""

    about: Mapping[str, Any]
    comparisons: Sequence[Comparison] = ()
    figures: Sequence[Figure] = ()
    examples: Sequence[Example] = ()
    notes: Sequence[str] = field(default=())
    against: Sequence[AgainstAdapter] = field(default=())

    def find(self, measure: str, metric: str | None = None, **parts: str | int) -> list[Figure]:
        """Return the figures of a measure whose parts include these values, in the order they were written."""
        return [
            one
            for one in self.figures
            if one.measure == measure
            and metric in (None, one.metric)
            and all(one.parts.get(name) == value for name, value in parts.items())
        ]


def write_evaluation(file: Path, evaluation: Evaluation) -> None:
    """Write an evaluation; an older file is replaced only once the new one is whole."""
    content = {"format": EVALUATION_FORMAT, **asdict(evaluation)}
    write_text_file(file, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_evaluation(file: Path) -> Evaluation:
    """Read what `write_evaluation` wrote. Raises InputError if the file is missing, unreadable or of another format."""
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
        [
            AgainstAdapter(one["name"], one["adapter"], [figure_from_json(figure) for figure in one["figures"]])
            for one in content.get("against", ())
        ],
    )


def figure_from_json(tree: Mapping[str, Any]) -> Figure:
    """Return a figure from its JSON form."""
    estimates = {name: Estimate(**tree[name]) for name in ("base", "tuned", "difference")}
    return Figure(**{**tree, **estimates})
