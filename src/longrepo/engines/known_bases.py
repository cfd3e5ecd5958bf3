"""Bases that people tune, as a table: license, dialect, shape, and what training them needs.

`known_bases.json` holds what was published, with its source, and what the planner found (`benchmarks/memory/bases.py`
writes it). A shape that isn't verified isn't there. The facts are for a person to choose by: no code branches on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from longrepo.data.dialects import DIALECTS, NO_DIALECT
from longrepo.utils.hub import PACKAGED_MODELS

PLANNED_LENGTHS = (2048, 4096)  # tokens of a sequence
FIM_FACT = "fill-in-the-middle in pretraining"
TABLE = Path(__file__).with_name("known_bases.json")
Use = Literal["free", "uses", "research", "read"]
USES: dict[Use, str] = {
    "free": "yes",
    "uses": "some uses forbidden",
    "research": "no: for research",
    "read": "read its terms",
}


@dataclass(frozen=True)
class PlannedBase:
    """What the planner found. `parameters`; `mlx`: whether the MLX engine computes it; `plain_only`: why it can't be
    trained in chunks, or None; `steps`: by device (`mps`, `cuda`) and tokens of a sequence, methods from the fastest
    on, those tried to find the first that fits each machine, each with its peak in bytes."""

    parameters: int
    mlx: bool
    plain_only: str | None
    steps: Mapping[str, Mapping[str, tuple[tuple[str, int], ...]]]

    def first_fit(self, device: str, tokens: int, budget: int) -> tuple[str, int] | None:
        """Return the fastest known method within `budget` bytes, with its peak; None if none of those known fits."""
        methods = self.steps.get(device, {}).get(str(tokens), ())
        return next(((method, peak) for method, peak in methods if peak <= budget), None)


@dataclass(frozen=True)
class KnownBase:
    """A base as published. `use`: whether its license lets it be used at work; `code`: made for code; `dialect`: the
    name of its row in `longrepo.data.dialects`, or None; `unverified`: facts to check. `config` and `planned` are None
    if its shape isn't verified. `published`: the month, `YYYY-MM`, of its weights; None if that isn't verified."""

    name: str
    license: str
    use: Use
    code: bool
    dialect: str | None
    source: str
    unverified: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    planned: PlannedBase | None = field(default=None, repr=False)
    published: str | None = None

    @property
    def fim(self) -> bool | None:
        """Whether it was pretrained to fill in the middle; None if that isn't verified."""
        row = next((one for one in DIALECTS if one.name == self.dialect), NO_DIALECT)
        return None if FIM_FACT in self.unverified else row.fim is not None

    @property
    def positions(self) -> int | None:
        return None if self.config is None else int(self.config["max_position_embeddings"])


@cache
def known_bases() -> dict[str, KnownBase]:
    """Return the bases by name."""
    return {row["name"]: _read_row(row) for row in _table()["bases"]}


def best_fit(device: str, tokens: int, budget: int) -> KnownBase | None:
    """Return the largest base that is made for code, fills in the middle, is free to use, and trains on `tokens` tokens
    within `budget` bytes on a Mac (`mps`) or a GPU (`cuda`); on a CPU, which is slow, the smallest. None if none fits.
    """
    fitting = [
        (base.planned.parameters, base)
        for base in known_bases().values()
        if base.planned and base.code and base.fim and base.use == "free" and not base.unverified
        if device == "cpu" or base.planned.first_fit(device, tokens, budget)
    ]
    if not fitting:
        return None
    choose = min if device == "cpu" else max
    return choose(fitting, key=lambda pair: pair[0])[1]


def release_month(model: str) -> str | None:
    """Return the month in which a model's weights were published, `YYYY-MM`; None if that isn't known. `model`: a hub
    name, a folder or file named like one of the bases, or a packaged model."""
    if model in PACKAGED_MODELS:
        model = PACKAGED_MODELS[model].file
    name = Path(model).name.lower()
    bases = [one for one in known_bases().values() if name.startswith(one.name.rpartition("/")[2].lower())]
    return max(bases, key=lambda one: len(one.name)).published if bases else None


def date_of_facts() -> str:
    """The day on which what was published was looked up, and the plan made."""
    return str(_table()["checked"])


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def _read_row(row: Mapping[str, Any]) -> KnownBase:
    planned = row.get("planned")
    if planned is not None:
        steps = {
            device: {tokens: tuple((name, peak) for name, peak in methods) for tokens, methods in by_tokens.items()}
            for device, by_tokens in planned["steps"].items()
        }
        planned = PlannedBase(planned["parameters"], planned["mlx"], planned["plain_only"], steps)
    return KnownBase(**{**row, "unverified": tuple(row["unverified"]), "planned": planned})
