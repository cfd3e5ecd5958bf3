"""The lengths each phase is filled towards: caps that touch, so that no length falls between two phases."""

from __future__ import annotations

from dataclasses import dataclass

from longrepo.config.phase_list import NUMBERED, phase_list
from longrepo.config.schema import LongContextSettings
from longrepo.errors import InputError


@dataclass(frozen=True)
class Band:
    """A phase's lengths in tokens: filled towards `low`..`cap`; above `floor` (the cap below) it belongs to it."""

    phase: int
    floor: int
    low: int
    cap: int


def last_phase(settings: LongContextSettings) -> int:
    """The last phase to build sequences for where nobody says which: 3, or the last further one that isn't off."""
    return max(NUMBERED, *(given.number for given in phase_list(settings) if given.enabled is not False))


def bands(settings: LongContextSettings, phases: int, max_length: int) -> tuple[list[Band], list[str]]:
    """The bands of phases 1..`phases` without those between that are off, and notes on what was decided.

    `max_length` below the longest of them is raised to it (and said); above it, the last band is not stretched. Raises
    InputError where there aren't as many phases.
    """
    given = phase_list(settings)
    if phases > len(given):
        raise InputError(
            f"phase {phases} is asked for, and the settings have {len(given)}: add it to long_context.further_phases"
        )
    found, floor = [], 0
    for one in given[:phases]:
        if one.enabled is not False or one.number == phases:
            found.append(Band(one.number, floor, one.min_length, one.max_length))
        floor = one.max_length
    notes = []
    if max_length < floor:
        notes.append(f"length raised from {max_length} to {floor} tokens: phase {phases} is asked for and needs it")
    elif max_length > floor:
        notes.append(f"sequences reach {floor} tokens, not {max_length}: phase {phases} is the longest asked for")
    return found, notes


def bands_up_to(settings: LongContextSettings, length: int) -> list[Band]:
    """Every phase's band whose cap is within `length`, and a last one cut to it where it lies between two caps."""
    found, _ = bands(settings, last_phase(settings), length)
    whole = [band for band in found if band.cap <= length]
    if len(whole) < len(found):
        next_one = found[len(whole)]
        if next_one.floor < length:
            low = min(next_one.low, (next_one.floor + length + 1) // 2)
            whole.append(Band(next_one.phase, next_one.floor, low, length))
    return whole


def phase_of(length: int, of: list[Band]) -> int:
    """The phase whose band a sequence of `length` tokens falls in (the last one for anything longer)."""
    return next((band.phase for band in of if length <= band.cap), of[-1].phase)
