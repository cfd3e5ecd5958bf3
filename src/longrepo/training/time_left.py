"""Progress of a whole run, over all its phases: the share that is done, and the time that is left."""

from __future__ import annotations

from collections.abc import Mapping

from longrepo.curriculum.schedule import Schedule
from longrepo.training.plan import PhaseSchedule, TrainingPlan, remaining_epochs
from longrepo.training.state import TrainingState

FORWARD_SHARE = 1 / 3  # of a training step with gradient checkpointing (forward, forward again, backward: at least)


class ProgressEstimate:
    """Estimates what is left of a run from the speed of each phase: its own as soon as it was measured, before that the
    calibrated one in proportion, and without calibration that of another phase.

    `calibrated`: seconds per token by phase, if this machine was timed.
    """

    def __init__(self, plan: TrainingPlan, schedule: Schedule, calibrated: Mapping[int, float]) -> None:
        self._plan, self._schedule, self._calibrated = plan, schedule, calibrated
        self._measured: dict[int, tuple[int, float]] = {}  # tokens and seconds by phase
        self._phases: dict[int, PhaseSchedule] = {}
        self._validated: dict[int, int] = {}

    def count(self, phase: int, tokens: int, seconds: float) -> None:
        """Count a measured update."""
        former = self._measured.get(phase, (0, 0.0))
        self._measured[phase] = former[0] + tokens, former[1] + seconds

    def share(self, state: TrainingState) -> float:
        """The share of the run's tokens that were trained on."""
        left = sum(self._tokens_left(state).values())
        return state.tokens / (state.tokens + left) if left else 1.0

    def seconds_left(self, state: TrainingState) -> float | None:
        """The time to the end, validations included; None if no speed is known."""
        epochs, seconds = remaining_epochs(state, self._schedule), 0.0
        for number, tokens in self._tokens_left(state).items():
            speed = self._seconds_per_token(number)
            if speed is None:
                return None
            validations = epochs[number] + (number != state.phase)
            seconds += speed * (tokens + FORWARD_SHARE * validations * self._validation_tokens(number))
        return seconds

    def _tokens_left(self, state: TrainingState) -> dict[int, int]:
        """Tokens to train on by phase, within `--epochs`."""
        left = {}
        for number, epochs in remaining_epochs(state, self._schedule).items():
            first = state.epoch_in_phase - 1 if number == state.phase else 0
            orders = self._phase(number).orders[first : first + epochs]
            done = state.so_far.tokens if number == state.phase else 0
            left[number] = max(0, sum(order.tokens for order in orders) - done)
        return left

    def _seconds_per_token(self, number: int) -> float | None:
        if tokens := self._measured.get(number, (0, 0.0))[0]:
            return self._measured[number][1] / tokens
        if not self._measured:
            return self._calibrated.get(number)
        nearest = min(self._measured, key=lambda other: abs(other - number))
        tokens, seconds = self._measured[nearest]
        ratio = 1.0
        if number in self._calibrated and self._calibrated.get(nearest):
            ratio = self._calibrated[number] / self._calibrated[nearest]
        return ratio * seconds / max(1, tokens)

    def _validation_tokens(self, number: int) -> int:
        if number not in self._validated:
            groups = self._plan.validation(number).groups
            lengths = self._plan.catalog.lengths
            self._validated[number] = sum(int(lengths[index]) for group in groups.values() for index in group)
        return self._validated[number]

    def _phase(self, number: int) -> PhaseSchedule:
        if number not in self._phases:
            self._phases[number] = self._plan.phase_plan(self._schedule, number)
        return self._phases[number]
