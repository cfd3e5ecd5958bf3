"""How long a run takes: the share done and the time left over all phases, and fewer epochs that fit a time budget."""

from __future__ import annotations

import time
from collections.abc import Mapping

from longrepo.curriculum.schedule import Schedule
from longrepo.engines.base import Engine
from longrepo.training.plan import PhaseSchedule, TrainingPlan, remaining_epochs
from longrepo.training.state import TrainingState
from longrepo.training.step_down import StepDown
from longrepo.training.validation import accumulation_groups, make_batch

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


def schedule_within_budget(engine: Engine, plan: TrainingPlan, memory: StepDown, hours: float) -> tuple[Schedule, str]:
    """Scale the remaining epochs down to the budget. Return the schedule and a sentence on what was chosen."""
    ahead = remaining_epochs(plan.state, plan.schedule)
    cost = {number: _seconds_per_epoch(engine, plan, memory, number) for number in ahead}
    chosen, sentence = scale_epochs(ahead, cost, hours * 3600)
    done = {plan.state.phase: plan.state.epoch_in_phase - 1}
    totals = {number: done.get(number, 0) + epochs for number, epochs in chosen.items()}
    # With --epochs only what is going to run was timed; phases that are cut keep at most their configured epochs.
    fewer = {number: total for number, total in totals.items() if chosen[number] < ahead[number]}
    return plan.schedule.with_epochs(fewer), sentence


def scale_epochs(epochs: Mapping[int, int], seconds: Mapping[int, float], budget: float) -> tuple[dict[int, int], str]:
    """Scale the epochs of all phases down by one factor until they fit `budget` seconds, then add back what still
    fits, starting with the phase that lost most; at least 1 each, never more than configured. `seconds`: per epoch."""
    total = sum(epochs[number] * seconds[number] for number in epochs)
    if total <= budget:
        return dict(
            epochs
        ), f"the schedule needs about {_format_hours(total)} of {_format_hours(budget)}: nothing is shortened"
    least = sum(seconds[number] for number in epochs)
    if least > budget:
        return dict.fromkeys(epochs, 1), (
            f"one epoch of each phase already needs about {_format_hours(least)}, more than the "
            f"{_format_hours(budget)} given: one "
            "each is trained; to stay within it set training.max_tokens_per_epoch"
        )
    chosen = {number: max(1, int(count * budget / total)) for number, count in epochs.items()}

    def cost() -> float:
        return sum(chosen[number] * seconds[number] for number in chosen)

    while cost() > budget:  # phases lifted to 1 took what others must give
        dearest = max((number for number in chosen if chosen[number] > 1), key=lambda number: seconds[number])
        chosen[dearest] -= 1
    while room := [n for n in chosen if chosen[n] < epochs[n] and cost() + seconds[n] <= budget]:
        chosen[min(room, key=lambda number: chosen[number] / epochs[number])] += 1
    counts = ", ".join(f"phase {number}: {chosen[number]} of {epochs[number]}" for number in chosen)
    return (
        chosen,
        f"epochs shortened to fit {_format_hours(budget)} (all would need about {_format_hours(total)}): {counts}",
    )


def _seconds_per_epoch(engine: Engine, plan: TrainingPlan, memory: StepDown, number: int) -> float:
    """Time one forward and backward of the phase's first micro-batch (the second of two: the first also warms up), and
    scale it by tokens to an epoch and the validation after it. The gradients are dropped."""
    order = plan.phase_plan(plan.schedule, number).orders[0]
    indices = accumulation_groups(order.indices, plan.settings.training)[0][0]
    memory.enter(number)

    def per_token() -> float:
        batch = make_batch(plan.source, indices, engine.pad_id, memory.memory_state.max_length)
        for _ in range(2):
            began = time.perf_counter()
            engine.accumulate(batch, max(batch.weight, 1.0), 0)
            seconds = time.perf_counter() - began
            engine.drop_gradients()
        return seconds / int(batch.lengths.sum())

    groups = plan.validation(number).groups
    scored = sum(int(plan.catalog.lengths[index]) for group in groups.values() for index in group)
    return memory.run_with_fallback(per_token) * (order.tokens + FORWARD_SHARE * scored)


def _format_hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
