"""What a run writes to the disk is planned, and kept within `memory.disk_write_gb`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from longrepo.engines.base import StepMethod
from longrepo.errors import InputError
from longrepo.memory.budget import GIB
from longrepo.memory.disk_writes import DiskWrites, PhaseWork, stored_bytes

MEMORY, DISK = StepMethod("chunked", 256), StepMethod("chunked", 256, "disk")


@dataclass(frozen=True)
class Planned:
    method: StepMethod
    length: int = 1000
    disk_written: int = GIB


def writes(limit_gb: float | None, before: int = 0, trained: int = 0) -> DiskWrites:
    """Phase 1 stores 10 GiB on disk if it stores there, phase 2 stores 20; 5 checkpoints in all."""
    work = {1: PhaseWork(10_000, 2), 2: PhaseWork(20_000, 3)}
    return DiskWrites(None if limit_gb is None else int(limit_gb * GIB), before, 1, trained, lambda: work)


def test_stored_bytes_grow_with_the_tokens_and_are_none_without_a_disk() -> None:
    assert stored_bytes(Planned(DISK), 2500, 1) == int(2.5 * GIB)
    assert stored_bytes(Planned(DISK), 2500, 2) == int(1.25 * GIB)  # `disk_written` is a micro-batch's
    assert stored_bytes(Planned(MEMORY), 2500, 1) == 0


@pytest.mark.parametrize(("limit", "first", "second"), [(30, True, True), (29.9, True, False), (9.9, False, False)])
def test_a_phase_stores_on_disk_only_what_the_others_leave(limit: float, first: bool, second: bool) -> None:
    found = writes(limit)
    assert found.allow(1, Planned(DISK)) is first
    found.chosen[1] = Planned(DISK)
    assert found.allow(2, Planned(DISK)) is second
    assert found.allow(2, Planned(MEMORY))


def test_what_the_run_wrote_before_counts() -> None:
    assert writes(30, before=20 * GIB).allow(1, Planned(DISK))
    assert not writes(30, before=20 * GIB + 1).allow(1, Planned(DISK))
    assert writes(None, before=1 << 60).allow(1, Planned(DISK))


def test_checkpoints_count_before_any_store() -> None:
    trained = GIB // 12  # a GiB each
    writes(5, trained=trained).check_checkpoints()
    assert not writes(14.9, trained=trained).allow(1, Planned(DISK))
    assert writes(15, trained=trained).allow(1, Planned(DISK))
    with pytest.raises(
        InputError, match=r"^memory.disk_write_gb: the checkpoints alone write 5.0 GiB .* 4.9 are allowed"
    ):
        writes(4.9, trained=trained).check_checkpoints()


def test_the_line_says_what_is_written_where_it_matters() -> None:
    free, limited = writes(None, trained=GIB // 12), writes(40)
    free.chosen[1] = Planned(MEMORY)
    assert free.line() is None
    free.chosen[2] = Planned(DISK)
    assert free.line() == "disk: the run writes up to 25.00 GiB (steps' store and checkpoints)"
    limited.chosen[1] = Planned(DISK)
    assert limited.line() == "disk: the run writes up to 10.00 GiB of 40.0 GiB allowed (steps' store and checkpoints)"


def test_the_refusal_names_what_is_left() -> None:
    found = writes(25)
    found.chosen[1] = Planned(DISK)
    said = found.refusal(2, [Planned(DISK)], "4.00 GiB (set)")
    assert said.startswith(
        "memory.disk_write_gb: phase 2 fits 4.00 GiB (set) only with a store on disk, which writes 20.0"
    )
    assert "15.0 are left of 25.0" in said
