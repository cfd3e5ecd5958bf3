"""How long a run takes: the share done and the time left over all phases, and fewer epochs that fit a time budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from longrepo.curriculum.schedule import Schedule
from longrepo.engines.base import Engine
from longrepo.training.plan import PhaseSchedule, TrainingPlan, remaining_epochs, tokens_left
from longrepo.training.state import TrainingState
from longrepo.training.step_down import StepDown
from longrepo.training.validation import accumulation_groups, make_batch

FORWARD_SHARE = 1 / 3  # of a training step with gradient checkpointing (forward, forward again, backward: at least)


MAX_GAIN_RATIO = 0.9  # of an epoch's gain to that of the epoch before it: gains that grow don't go on growing


def gain_ahead(losses: Sequence[float], epochs: float) -> float:
    """Return how much lower (nats) the loss would be after so many more epochs, which may be a fraction.

    `losses`: at a phase's start and after each of its epochs, at least two. Each further epoch is taken to gain as much
    less than the one before it as the last did (a geometric series); 0 if the last gained nothing. What counts is the
    best so far: an epoch that makes up for a rise gains nothing."""
    before, middle, last = list(accumulate(losses, min))[-3:]
    gain, former = middle - last, before - middle
    if gain <= 0:
        return 0.0
    ratio = min(gain / former, MAX_GAIN_RATIO) if former > 0 else MAX_GAIN_RATIO
    return gain * ratio * (1 - ratio**epochs) / (1 - ratio)


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
        left = sum(tokens_left(state, self._schedule, self._phase).values())
        return state.tokens / (state.tokens + left) if left else 1.0

    def seconds_left(self, state: TrainingState) -> float | None:
        """The time to the end, validations included; None if no speed is known."""
        epochs, seconds = remaining_epochs(state, self._schedule), 0.0
        for number, tokens in tokens_left(state, self._schedule, self._phase).items():
            speed = self._seconds_per_token(number)
            if speed is None:
                return None
            validations = epochs[number] + (number != state.phase)
            seconds += speed * (tokens + FORWARD_SHARE * validations * self._validation_tokens(number))
        return seconds

    def another_hour(self, state: TrainingState) -> str | None:
        """Say what another hour would bring, by the losses of the phase that was trained last; None if its epochs are
        too few to tell, or none of them was trained by this process."""
        losses, number = state.losses_of(state.done_phase), state.done_phase
        if losses.start is None or len(losses.epochs) < 2 or number not in self._measured:
            return None
        tokens = self._phase(number).orders[-1].tokens + FORWARD_SHARE * self._validation_tokens(number)
        seconds = max(self._seconds_per_token(number) or 0.0, 1e-9) * max(tokens, 1)
        epochs = min(3600 / seconds, len(losses.epochs))  # a curve isn't continued for longer than it is known
        gain, best = gain_ahead([losses.start, *losses.epochs], epochs), min(losses.epochs)
        time = "hour" if epochs < len(losses.epochs) else _format_hours(epochs * seconds)
        hour = f"another {time} (about {epochs:,.1f} more epochs of phase {number})"
        if gain <= 0:
            return f"{hour} would bring nothing, by its validation losses: the last epoch was no better than others"
        return (
            f"{hour} would lower its validation loss by about {gain / best:.1%}, to {best - gain:.4f}, if the gains "
            "go on shrinking as they did"
        )

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


@dataclass(frozen=True)
class EpochCost:
    """What an epoch of a phase costs: its `tokens`, seconds per token, and seconds of the validation after it."""

    tokens: int
    per_token: float
    validation: float

    @property
    def seconds(self) -> float:
        return self.tokens * self.per_token + self.validation


def schedule_within_budget(engine: Engine, plan: TrainingPlan, memory: StepDown, hours: float) -> tuple[Schedule, str]:
    """Scale the remaining epochs down to the budget; if one of each phase is too much, shorten the epochs themselves.
    Return the schedule and a sentence on what was chosen."""
    ahead = remaining_epochs(plan.state, plan.schedule)
    costs = {number: _epoch_cost(engine, plan, memory, number) for number in ahead}
    chosen, sentence = scale_epochs(ahead, {number: cost.seconds for number, cost in costs.items()}, hours * 3600)
    done = {plan.state.phase: plan.state.epoch_in_phase - 1}
    totals = {number: done.get(number, 0) + epochs for number, epochs in chosen.items()}
    # With --epochs only what is going to run was timed; phases that are cut keep at most their configured epochs.
    fewer = {number: total for number, total in totals.items() if chosen[number] < ahead[number]}
    schedule = plan.schedule.with_epochs(fewer)
    if sum(cost.seconds for cost in costs.values()) <= hours * 3600:
        return schedule, sentence
    most = tokens_within(list(costs.values()), hours * 3600)
    return schedule.with_max_tokens(max(1, most)), f"{sentence}, {_shortened(costs, most)}"


def tokens_within(costs: Sequence[EpochCost], budget: float) -> int:
    """Return the most tokens that an epoch of each phase may have so that one of each takes `budget` seconds; phases
    with fewer are trained whole. At most 0 if the validations alone take longer."""
    left, per_token = budget - sum(cost.validation for cost in costs), sum(cost.per_token for cost in costs)
    for cost in sorted(costs, key=lambda cost: cost.tokens):
        if left < per_token * cost.tokens:
            return int(left / per_token)
        left -= cost.tokens * cost.per_token
        per_token -= cost.per_token
    return max(cost.tokens for cost in costs)


def _shortened(costs: Mapping[int, EpochCost], most: int) -> str:
    if most < 1:
        alone = _format_hours(sum(cost.validation for cost in costs.values()))
        return f"of one sequence: the validations alone need about {alone} (training.max_validation_sequences)"
    parts = (f"phase {number}: {min(most, cost.tokens):,} of {cost.tokens:,}" for number, cost in costs.items())
    return f"of at most {most:,} tokens ({', '.join(parts)})"


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
            f"{_format_hours(budget)} given: one shorter epoch each"
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


def _epoch_cost(engine: Engine, plan: TrainingPlan, memory: StepDown, number: int) -> EpochCost:
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
    seconds = memory.run_with_fallback(per_token)
    return EpochCost(order.tokens, seconds, FORWARD_SHARE * scored * seconds)


def _format_hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
