"""A run whose adapter is random, and the repository that it writes in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.exported import trained_run
from small_repository import small_repository

from longrepo.engines.registry import choose_engine
from longrepo.serve.model import TunedModel


@dataclass(frozen=True)
class Tried:
    """`tuned` by the engine's name."""

    run: Path
    repo: Path
    tuned: dict[str, TunedModel]


def tried(folder: Path) -> Tried:
    run = trained_run(folder / "run", "embedded").folder
    tuned = {engine: TunedModel.load(run, None, choose_engine(engine, "cpu"), "cpu") for engine in ("torch", "mlx")}
    return Tried(run, small_repository(folder / "shop"), tuned)
