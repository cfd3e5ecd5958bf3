"""A preset's plan: the existing planner on a configuration that no folder holds yet."""

from __future__ import annotations

import tempfile
from pathlib import Path

from longrepo.config.schema import Settings
from longrepo.curriculum.phases import phases_from
from longrepo.engines.method import Method
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.planned import Planned
from longrepo.memory.planner import Planner, positioned
from longrepo.models.presets import CONTEXTS, Preset, preset, sizes

SHORTEST = 2  # tokens


def planner_of(chosen: Preset, settings: Settings, device: str, dtype: str, scratch: Path | None = None) -> Planner:
    """Plans steps of the preset by torch; `settings.model.name` is not read."""
    with tempfile.TemporaryDirectory() as folder:
        return _planner(Path(folder), chosen, settings, device, dtype, scratch)


def check_positions(chosen: Preset, settings: Settings, device: str, dtype: str) -> None:
    """Raises InputError where the positions of a phase that is going to be trained don't reach its longest sequence, or
    can't be computed."""
    with tempfile.TemporaryDirectory() as folder:
        planner = _planner(Path(folder), chosen, settings, device, dtype, None)
        try:
            for phase in phases_from(settings):
                if phase.epochs:
                    positioned(planner, phase)
        except InputError as error:
            raise InputError(str(error).replace(folder, chosen.name)) from None


def _planner(
    folder: Path, chosen: Preset, settings: Settings, device: str, dtype: str, scratch: Path | None
) -> Planner:
    chosen.write_config(folder)
    named = settings.model.model_copy(update={"name": str(folder), "revision": None})
    planner = Planner.of(settings.model_copy(update={"model": named}), device, dtype, scratch)
    planner.estimator.config.name_or_path = chosen.name
    return planner


def fitting(planner: Planner, length: int, budget: Budget) -> Planned | None:
    """The cheapest way to train on sequences of `length` tokens within the budget; None where there is none."""
    if fixed_bytes(planner) + planner.overhead > budget.bytes:
        return None
    return planner.first_fit(length, budget.bytes)


def fixed_bytes(planner: Planner) -> int:
    """Weights, gradients and moments: what every way to train holds."""
    step = planner.estimator.step(Method(), SHORTEST)
    return step.weights + step.adapter + step.gradients + step.moments


def check_fits(planner: Planner, chosen: Preset, length: int, budget: Budget) -> Planned:
    """As `fitting`. Raises InputError where there is none, with the nearest preset that fits."""
    if (fit := fitting(planner, length, budget)) is not None:
        return fit
    beside = f" and {planner.overhead / GIB:.2f} GiB of libraries" if planner.overhead else ""
    raise InputError(
        f"--preset {chosen.name}: weights, gradients and moments take {fixed_bytes(planner) / GIB:.2f} GiB{beside}, "
        f"{length:,} tokens more, and the budget is {budget.bytes / GIB:.2f} GiB ({budget.reason}): "
        f"{_what_fits(planner, chosen, budget)}"
    )


def _what_fits(planner: Planner, chosen: Preset, budget: Budget) -> str:
    size, known, one = chosen.name.partition("_")[0], list(sizes()), planner.estimator
    shorter = [f"{size}_{context}" for context in CONTEXTS if context < chosen.context]
    smaller = [f"{other}_{chosen.context}" for other in reversed(known[: known.index(size)])]
    for name in (*shorter[:1], *smaller):  # if the shortest doesn't fit, no context of this size does
        other = preset(name)
        if fitting(planner_of(other, planner.settings, one.device, one.dtype), other.context, budget):
            return f"--preset {name} fits"
    return "no smaller preset fits either; raise memory.budget_gb"
