"""The lengths each phase is filled towards: caps that touch, so that no length falls between two phases."""

from __future__ import annotations

from dataclasses import dataclass

from longrepo.config.schema import LongContextSettings


@dataclass(frozen=True)
class Band:
    """A phase's lengths in tokens: filled towards `low`..`cap`; above `floor` (the cap below) it belongs to it."""

    phase: int
    floor: int
    low: int
    cap: int


def bands(settings: LongContextSettings, phases: int, max_length: int) -> tuple[list[Band], list[str]]:
    """The bands of phases 1..`phases` (1 to 3), and notes on what was decided.

    `max_length` below the longest of them is raised to it (and said); above it, the last band is not stretched.
    """
    rows = (
        (settings.phase1_min_length, settings.phase1_max_length),
        (settings.phase2_min_length, settings.phase2_max_length),
        (settings.phase3_min_length, settings.phase3_max_length),
    )[:phases]
    found, floor = [], 0
    for number, (low, cap) in enumerate(rows, start=1):
        found.append(Band(number, floor, low, cap))
        floor = cap
    notes = []
    if max_length < floor:
        notes.append(f"length raised from {max_length} to {floor} tokens: phase {phases} is asked for and needs it")
    elif max_length > floor:
        notes.append(f"sequences reach {floor} tokens, not {max_length}: phase {phases} is the longest asked for")
    return found, notes


def bands_up_to(settings: LongContextSettings, length: int) -> list[Band]:
    """Every phase's band whose cap is within `length`, and a last one cut to it where it lies between two caps."""
    found, _ = bands(settings, 3, settings.phase3_max_length)
    whole = [band for band in found if band.cap <= length]
    if len(whole) < len(found) and (not whole or whole[-1].cap < length):
        next_one = found[len(whole)]
        low = min(next_one.low, (next_one.floor + length + 1) // 2)
        whole.append(Band(next_one.phase, next_one.floor, low, length))
    return whole


def phase_of(length: int, of: list[Band]) -> int:
    """The phase whose band a sequence of `length` tokens falls in (the last one for anything longer)."""
    return next((band.phase for band in of if length <= band.cap), of[-1].phase)
