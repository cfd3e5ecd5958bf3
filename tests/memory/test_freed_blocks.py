"""Freed blocks are kept while there is room for them, and returned before what the process holds could matter."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from longrepo.memory.budget import GIB
from longrepo.memory.guard import FreedBlocks, MemoryGuard
from longrepo.utils.process import freed_bytes

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed blocks, and tells of them")


class Process:
    """A process whose size a test sets; `returned` counts how often its freed blocks were returned."""

    def __init__(self, can_return: bool = True) -> None:
        self.held, self.kept, self.returned, self.can_return = GIB, 0, 0, can_return
        self.blocks = FreedBlocks(lambda: self.held, lambda: self.kept, self.give_back)

    def give_back(self) -> bool:
        self.returned += 1
        return self.can_return


@pytest.mark.parametrize(
    "planned, allowed, limit",
    [(1.0, 2.0, 1.25), (1.15, 2.39, 1.46), (1.0, 8.0, 2.75), (2.0, 2.0, 2.0), (3.0, 2.0, 3.0)],
)
def test_they_are_returned_once_a_quarter_of_what_is_left_is_in_use(
    planned: float, allowed: float, limit: float
) -> None:
    process = Process()

    def look(gib: float) -> int:
        process.held = int(gib * GIB)
        return process.blocks.look(int(planned * GIB), int(allowed * GIB))

    assert look(limit - 0.01) == 0 and process.returned == 0
    assert look(limit + 0.01) == process.held and process.returned == 1
    assert look(limit + 0.5) == 0 and process.returned == 1, "said once"
    assert [look(limit + 0.5) for _ in range(20)] == [0] * 20 and process.returned == 3, (
        "gaps left since, once a second"
    )


def test_without_a_plan_or_a_library_that_can_there_is_nothing_to_say() -> None:
    process = Process(can_return=False)
    process.held = 9 * GIB
    assert process.blocks.look(0, 2 * GIB) == 0 and process.returned == 0
    assert process.blocks.look(GIB, 2 * GIB) == 0 and process.returned == 1


def test_the_peak_tells_what_of_it_was_freed() -> None:
    process = Process()
    for held, kept in ((1, 0.1), (3, 1.5), (2, 0.4)):
        process.held, process.kept = held * GIB, int(kept * GIB)
        process.blocks.look(GIB, 64 * GIB)
    assert process.blocks.at_peak == int(1.5 * GIB)
    assert process.blocks.in_use == 2 * GIB - int(0.4 * GIB), "more than at the peak"
    process.blocks.reset_peak()
    process.held, process.kept = GIB, int(0.4 * GIB)
    process.blocks.look(GIB, 64 * GIB)
    assert process.blocks.at_peak == int(0.4 * GIB) and process.blocks.in_use == GIB - int(0.4 * GIB)


def test_blocks_that_were_returned_are_no_longer_taken_off() -> None:
    process = Process()
    process.held, process.kept = 3 * GIB, 2 * GIB
    assert process.blocks.look(GIB, 4 * GIB) == 3 * GIB and process.blocks.in_use == GIB
    process.held = int(1.3 * GIB)  # the C library still counts the two it gave back
    process.blocks.look(GIB, 4 * GIB)
    assert process.blocks.in_use == int(1.3 * GIB)


def test_what_is_used_is_the_process_without_them() -> None:
    from test_guard import Bench

    process = Process()
    guard = MemoryGuard("cpu", None, lambda: 4 * GIB, lambda event: None, sensors=Bench(), freed=process.blocks)
    process.held, process.kept = 3 * GIB, 2 * GIB
    guard.watch_freed_blocks()
    assert guard.without_freed_blocks(4 * GIB) == 2 * GIB, "a peak between two looks"
    process.held, process.kept = int(2.5 * GIB), 0
    guard.watch_freed_blocks()
    assert guard.without_freed_blocks(4 * GIB) == int(2.5 * GIB)
    guard.sample()
    record = guard.take()
    assert (record["peak"], record["used"], record["freed"]) == (4 * GIB, int(2.5 * GIB), 2 * GIB)
    plain = MemoryGuard("cpu", None, lambda: 4 * GIB, lambda event: None, sensors=Bench())
    plain.sample()
    assert plain.without_freed_blocks(4 * GIB) == 4 * GIB and "used" not in plain.take()


def test_the_guard_says_so_between_two_steps() -> None:
    from test_guard import Bench

    bench, process, events = Bench(), Process(), list[dict[str, object]]()
    guard = MemoryGuard("cpu", None, lambda: GIB, events.append, sensors=bench, freed=process.blocks)
    guard.planned = 2 * GIB
    process.held = int(2.7 * GIB)
    guard.watch_freed_blocks()
    assert guard.step(100, 1.0, 64) is None and not events, "5 GiB are allowed: a quarter of 3 isn't in use"
    process.held = int(2.8 * GIB)
    guard.watch_freed_blocks()
    message = guard.step(100, 1.0, 64)
    assert message is not None and "held 2.80 GiB with freed blocks, 2.00 are planned" in message
    assert events == [{"event": "returned", "gib": 2.8}]
    assert guard.step(100, 1.0, 64) is None, "once"


CODE = """
import sys, time
from longrepo.memory.budget import GIB, process_memory
from longrepo.memory.guard import machine_guard
import numpy as np
blocks = [np.ones(2**20, np.uint8) for _ in range(2)]
np.ones(20 * 2**20, np.uint8)  # freed at once: from here on glibc keeps blocks of such sizes
events = []
guard = machine_guard("cpu", 1.0, lambda: process_memory().resident, keeps_freed_blocks=sys.argv[1] == "watch")(
    events.append, lambda sample: None)
with guard:
    guard.planned = process_memory().resident
    blocks = [np.ones(size, np.uint8) for _ in range(500) for size in (2**20, 2**10)]
    del blocks[::2]
    time.sleep(1)
    print((process_memory().resident - guard.planned) // 2**20, guard.step(1, 1.0, 1))
"""


@glibc
def test_a_process_that_outgrows_its_plan_gives_its_gaps_back() -> None:
    def held(way: str) -> tuple[int, str]:
        out = subprocess.run([sys.executable, "-c", CODE, way], capture_output=True, text=True, check=True).stdout
        mib, _, message = out.partition(" ")
        return int(mib), message.strip()

    (kept, nothing), (left, message) = held("keep"), held("watch")
    assert kept > 400 and nothing == "None"
    assert left < 100 and "freed blocks are returned to the system" in message


@glibc
def test_freed_bytes_count_gaps() -> None:
    code = """
from longrepo.utils.process import freed_bytes
import numpy as np
np.ones(20 * 2**20, np.uint8)
blocks = [np.ones(size, np.uint8) for _ in range(100) for size in (2**20, 2**10)]
before = freed_bytes()
del blocks[::2]
print((freed_bytes() - before) // 2**20)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 90 <= int(out) <= 110
    assert freed_bytes() >= 0
