"""All phases of the settings as one list: 1 to 3 by their keys, then `long_context.further_phases`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from longrepo.config.schema import ContextSettings, LongContextSettings

NUMBERED = 3  # phases that have keys of their own
_POSITIONS = re.compile(rf"\bcontext\.(?={'|'.join(ContextSettings.model_fields)})")


@dataclass(frozen=True)
class GivenPhase:
    """A phase as it is set, on or off. `prefix` begins the names of its settings; None: what holds for the run."""

    number: int
    prefix: str
    min_length: int
    max_length: int
    epochs: int
    lr_multiplier: float
    enabled: bool | Literal["auto"] = True
    replay_share: float | None = None
    context: ContextSettings | None = None

    def setting(self, name: str) -> str:
        """The dotted name of one of its settings."""
        return self.prefix + name

    @property
    def is_further(self) -> bool:
        return self.number > NUMBERED

    @property
    def off(self) -> str:
        """The setting that leaves it out."""
        return self.setting("epochs=0" if self.number < NUMBERED else "enabled=false")

    def positions(self, of_run: ContextSettings) -> ContextSettings:
        """What it computes at. Scaling reaches its longest sequence where no `target_length` says more."""
        own = self.context
        if own is None:
            return of_run
        if own.method != "none" and own.target_length is None:
            return own.model_copy(update={"target_length": self.max_length})
        return own

    def named(self, message: str) -> str:
        """A message on its positions, with the names of the settings where they are set."""
        return message if self.context is None else _POSITIONS.sub(self.setting("context."), message)


def phase_list(settings: LongContextSettings) -> tuple[GivenPhase, ...]:
    """Every phase, in order, those that are off among them."""

    def numbered(number: int) -> GivenPhase:
        def value(name: str) -> Any:
            return getattr(settings, f"phase{number}_{name}", True)  # phases 1 and 2 can't be off

        return GivenPhase(
            number, f"long_context.phase{number}_", value("min_length"), value("max_length"), value("epochs"),
            value("lr_multiplier"), value("enabled"),
        )  # fmt: skip

    further = (
        GivenPhase(NUMBERED + 1 + index, f"long_context.further_phases[{index}].", **dict(one))
        for index, one in enumerate(settings.further_phases)
    )
    return (*map(numbered, range(1, NUMBERED + 1)), *further)
