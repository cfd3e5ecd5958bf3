"""`training.time_budget_hours`: fewer epochs where the schedule wouldn't fit, chosen from one timed step a phase."""

from __future__ import annotations

import time
from collections.abc import Mapping

from longrepo.curriculum.phases import Schedule
from longrepo.engines.base import Engine
from longrepo.training.batches import batch_of, windows
from longrepo.training.descent import Descent
from longrepo.training.plan import Plan, epochs_ahead

FORWARD_SHARE = 1 / 3  # of a training step with gradient checkpointing (forward, forward again, backward: at least)


def fitted_schedule(engine: Engine, plan: Plan, memory: Descent, hours: float) -> tuple[Schedule, str]:
    """The plan's schedule with the epochs ahead scaled down to the budget, and a sentence on what was chosen."""
    ahead = epochs_ahead(plan.state, plan.schedule)
    cost = {number: _seconds_an_epoch(engine, plan, memory, number) for number in ahead}
    chosen, sentence = choose_epochs(ahead, cost, hours * 3600)
    done = {plan.state.phase: plan.state.epoch_in_phase - 1}
    totals = {number: done.get(number, 0) + epochs for number, epochs in chosen.items()}
    # With --epochs only what is going to run was timed; phases that are cut keep at most their configured epochs.
    fewer = {number: total for number, total in totals.items() if chosen[number] < ahead[number]}
    return plan.schedule.with_epochs(fewer), sentence


def choose_epochs(epochs: Mapping[int, int], seconds: Mapping[int, float], budget: float) -> tuple[dict[int, int], str]:
    """Scale the epochs of all phases down by one factor until they fit `budget` seconds, then give back what still
    fits, the phase that lost most first; at least 1 each, never more than configured. `seconds` is an epoch's cost."""
    total = sum(epochs[number] * seconds[number] for number in epochs)
    if total <= budget:
        return dict(epochs), f"the schedule needs about {_hours(total)} of {_hours(budget)}: nothing is shortened"
    least = sum(seconds[number] for number in epochs)
    if least > budget:
        return dict.fromkeys(epochs, 1), (
            f"one epoch of each phase already needs about {_hours(least)}, more than the {_hours(budget)} given: one "
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
    return chosen, f"epochs shortened to fit {_hours(budget)} (all would need about {_hours(total)}): {counts}"


def _seconds_an_epoch(engine: Engine, plan: Plan, memory: Descent, number: int) -> float:
    """One forward and backward of the phase's first micro-batch, timed the second time (the first also warms up),
    scaled by tokens to its epoch, and the validation after it. The gradients are dropped."""
    order = plan.phase_plan(plan.schedule, number).orders[0]
    indices = windows(order.indices, plan.settings.training)[0][0]
    memory.enter(number)

    def per_token() -> float:
        batch = batch_of(plan.source, indices, engine.pad_id, memory.learnt.max_length)
        for _ in range(2):
            began = time.perf_counter()
            engine.accumulate(batch, max(batch.weight, 1.0), 0)
            seconds = time.perf_counter() - began
            engine.drop_gradients()
        return seconds / int(batch.lengths.sum())

    groups = plan.validation(number).groups
    scored = sum(int(plan.catalogue.lengths[index]) for group in groups.values() for index in group)
    return memory.attempt(per_token) * (order.tokens + FORWARD_SHARE * scored)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
