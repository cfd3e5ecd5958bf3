"""Watch a run's memory: telemetry once a second, and between two steps whether to go on, pause or step down.

The guard's own thread only samples; it speaks and writes from the thread of the loop that calls it.

Freed blocks that the C library keeps for reuse on a CPU make a run faster, but a step's blocks of many sizes leave
gaps, up to twice the plan and more. They are kept only while there is room for them: as soon as the process holds a
share of what the budget leaves beside the plan, they are returned for good.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Literal, Protocol

from longrepo.memory.budget import (
    GIB,
    MAC_CRITICAL,
    MAC_WARNING,
    AvailableMemory,
    MachineSensors,
    MemorySample,
    MemorySensors,
    process_memory,
)
from longrepo.utils.process import freed_bytes, return_freed_memory

WATCH_SECONDS = 0.1  # between two looks: by then a process can't have filled the rest of the budget
SLACK_SHARE = 0.25  # of what the budget leaves beside the plan
RETURN_LOOKS = 10  # from one return of blocks to the next, while the process still holds that much


class FreedBlocks:
    """Watches what this process holds beside its plan, and has freed blocks returned in time.

    Since `reset_peak`: `at_peak`, bytes of freed blocks when the process held most, and `in_use`, the most that it held
    without such blocks, as far as looks ten times a second tell.
    """

    def __init__(
        self,
        resident: Callable[[], int] = lambda: process_memory().resident,
        kept: Callable[[], int] = freed_bytes,
        give_back: Callable[[], bool] = return_freed_memory,
    ) -> None:
        self._resident, self._kept, self._give_back = resident, kept, give_back
        self._peak = self.at_peak = self.in_use = 0
        self._returned, self._looks = False, 0

    def reset_peak(self) -> None:
        """Begin a new peak, as the process's own is begun."""
        self._peak = self.at_peak = self.in_use = 0

    def look(self, planned: int, allowed: int) -> int:
        """Return the bytes the process holds if its freed blocks had to be returned now, else 0. `planned`: bytes of
        the current method (0: not planned); `allowed`: bytes the process may hold."""
        held = self._resident()
        kept = 0 if self._returned else self._kept()  # the C library goes on counting blocks that it has returned
        self.in_use = max(self.in_use, held - kept)
        if held > self._peak:
            self._peak, self.at_peak = held, kept
        if not planned or held <= planned + SLACK_SHARE * max(0, allowed - planned):
            return 0
        if self._returned:  # blocks that were in use then may have left gaps since
            self._looks += 1
            if self._looks % RETURN_LOOKS == 0:
                self._give_back()
            return 0
        self._returned = True
        return held if self._give_back() else 0


SAMPLE_SECONDS = 1.0  # seconds between samples, and between looks while it waits
REPORT_SECONDS, MAX_WAIT_SECONDS = 60.0, 600.0  # seconds
SWAP_GROWTH = 64 * 2**20  # bytes of swap between two looks: with a warning from macOS, enough for a pause
LIMIT_SLACK = 1.05  # other programs' use moves by some percent all the time, and compression or swap takes that up
MEDIAN_STEPS, RECENT_STEPS = 10, 5  # steps that make a median to compare with, and steps compared with it
SLOW_SHARE, USUAL_SHARE = 0.7, 0.85  # of the median speed: below the one it is slow, above the other no longer

TelemetryRecord = dict[str, Any]
GuardAction = Literal["go", "pause", "step_down"]


@dataclass(frozen=True)
class GuardVerdict:
    """What to do between two steps, why, and the bytes this process may hold in all."""

    action: GuardAction
    reason: str
    room: int


class MemoryGuard:
    """Guards a run on `mps`, `metal`, `cuda` or `cpu` within `budget_bytes` that a person set (None: no such limit).

    `read_peak` returns the allocator's peak in bytes, `write` takes event records. Set `planned` to the planned peak of
    the current method, counted as `Budget.bytes` is. Use it as a context: leaving it ends its thread.
    """

    def __init__(
        self,
        device: str,
        budget_bytes: int | None,
        read_peak: Callable[[], int],
        write: Callable[[TelemetryRecord], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        sensors: MemorySensors | None = None,
        freed: FreedBlocks | None = None,
    ) -> None:
        self._budget, self._read_peak, self._write = budget_bytes, read_peak, write
        self._clock, self._sleep = clock, sleep
        self._sensors = sensors or MachineSensors(device)
        self._freed, self._allowed = freed, 0
        self._planned = 0
        self._speeds = SpeedHistory()
        self._lock = Lock()
        self._pending_record: TelemetryRecord = {}
        self._last: tuple[float, MemorySample] | None = None
        self._swap: int | None = None  # at the last look
        self._limit: int | None = None  # at the last boundary
        self._reason = ""  # of the last verdict
        self._waited_in_vain = False
        self._rest_until = clock()
        self._returned_at = 0  # bytes the process held when its freed blocks were returned, until `step` says so
        self._end = Event()
        self._thread = Thread(target=self._run, name="memory-guard", daemon=True)

    def __enter__(self) -> MemoryGuard:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        looks = max(1, round(SAMPLE_SECONDS / WATCH_SECONDS)) if self._freed else 1
        while True:
            for _ in range(looks):
                if self._end.wait(SAMPLE_SECONDS / looks):
                    return
                self.watch_freed_blocks()
            self.sample()

    def watch_freed_blocks(self) -> None:
        """Have freed blocks returned if they could matter."""
        if self._freed is None:
            return
        if not self._allowed:
            self._allowed = self._allowed_bytes(self._sensors.room())
        if held := self._freed.look(self._planned, self._allowed):
            self._returned_at = held

    def _returned_message(self) -> str | None:
        held, self._returned_at = self._returned_at, 0
        if not held:
            return None
        self._write({"event": "returned", "gib": round(held / GIB, 2)})
        return (
            f"memory: the process held {held / GIB:.2f} GiB with freed blocks, {self._planned / GIB:.2f} are planned: "
            "from here on freed blocks are returned to the system"
        )

    def _allowed_bytes(self, room: AvailableMemory) -> int:
        return room.bytes if self._budget is None else min(room.bytes, self._budget)

    def without_freed_blocks(self, peak: int) -> int:
        """The most bytes that the process held without freed blocks, if `peak` is the most it held with them."""
        return max(self._freed.in_use, peak - self._freed.at_peak) if self._freed else peak

    def reset_peak(self) -> None:
        """Begin a new peak, as the engine does."""
        if self._freed:
            self._freed.reset_peak()

    @property
    def planned(self) -> int:
        """Bytes. A new value means another method or phase, whose speed is measured separately."""
        return self._planned

    @planned.setter
    def planned(self, value: int) -> None:
        if value != self._planned:
            self._planned, self._speeds = value, SpeedHistory()

    def sample(self) -> MemorySample:
        """Read the sensors once and add the reading to the record of this update."""
        sample, peak = self._sensors.sample(), self._read_peak()
        self._allowed = self._allowed_bytes(self._sensors.room()) if self._freed else 0
        highest = {
            "peak": peak,
            "resident": sample.resident,
            "anonymous": sample.anonymous,
            "pressure_some": sample.pressure.some,
            "pressure_full": sample.pressure.full,
            "pressure_level": sample.pressure.level,
            "cgroup_used": round(sample.pressure.cgroup, 3),
        }
        if self._freed:
            highest["used"] = self.without_freed_blocks(peak)
            highest["freed"] = self._freed.at_peak
        with self._lock:
            folded = self._pending_record
            before = self._last[1].swap if self._last else sample.swap
            for name, value in highest.items():
                folded[name] = max(folded.get(name, value), value)
            folded["swap"] = sample.swap
            folded["swap_growth"] = folded.get("swap_growth", 0) + sample.swap - before
            folded["samples"] = folded.get("samples", 0) + 1
            self._last = self._clock(), sample
        return sample

    def take(self) -> TelemetryRecord:
        """Return the record of the samples since the last call: the highest of each, current swap and its growth in
        bytes, current `room` and speed. Empty if there were none."""
        with self._lock:
            record, self._pending_record = self._pending_record, {}
        return record

    def step(self, tokens: int, seconds: float, length: int) -> str | None:
        """Count a step of `tokens` in `seconds`, its longest sequence `length` tokens. Return a message if steps of
        that length have become slow, or no longer are."""
        found = self._speeds.add(tokens / max(seconds, 1e-9), length)
        with self._lock:
            self._pending_record["speed"] = round(tokens / max(seconds, 1e-9), 2)
            self._pending_record["speed_of_usual"] = round(found.share, 3)
        if not found.changed:
            return self._returned_message()
        event = "slow" if found.slow else "usual_speed"
        self._write({"event": event, "share": round(found.share, 3), "up_to": found.up_to})
        if found.slow:
            return f"slow: {found.share:.0%} of the usual speed at {found.up_to:,} tokens (heat, or other programs)"
        return f"as fast as usual again at {found.up_to:,} tokens"

    def boundary(self) -> GuardVerdict:
        """Between two steps: read the limits again and decide."""
        room = self._sensors.room()
        if self._limit is not None and room.limit != self._limit:
            self._write({"event": "limit", "bytes": room.limit, "was": self._limit, "source": room.source})
        self._limit = room.limit
        allowed = self._allowed_bytes(room)
        with self._lock:
            self._pending_record["room"] = allowed
        firm, shortage = self._shortage(room)
        strain = self._strain(self._recent())
        self._reason = shortage or strain or "within the plan"
        if not shortage and not strain:
            self._waited_in_vain = False
        may_pause = not self._waited_in_vain and self._clock() >= self._rest_until
        action: GuardAction = "go"
        if (shortage or strain) and may_pause and not firm:
            action = "pause"
        elif shortage:
            action = "step_down"
        return GuardVerdict(action, self._reason, allowed)

    def wait_for_memory(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool:
        """Pause until memory is free, `stop()` is true, or ten minutes have passed. Return whether memory is free.

        It reports through `say`, again each minute. Afterwards it works for at least as long before the next pause.
        """
        began = reported = self._clock()
        reason = self._reason
        say(f"paused: {reason}; waiting for other programs, at most {MAX_WAIT_SECONDS / 60:.0f} minutes")
        self._write({"event": "pause", "reason": reason})
        while reason and self._clock() - began < MAX_WAIT_SECONDS and not stop():
            self._sleep(SAMPLE_SECONDS)
            reason = self._pause_reason()
            if reason and self._clock() - reported >= REPORT_SECONDS:
                reported = self._clock()
                say(f"still paused after {(reported - began) / 60:.0f} min: {reason}")
        waited = self._clock() - began
        self._rest_until = self._clock() + max(waited, REPORT_SECONDS)
        self._waited_in_vain = bool(reason)
        if not stop():
            say(f"going on after {waited:.0f} s" + (f", although {reason}" if reason else ""))
        self._write({"event": "resume", "seconds": round(waited, 1), "relieved": not reason})
        return not reason

    def _pause_reason(self) -> str:
        return self._shortage(self._sensors.room())[1] or self._strain(self.sample())

    def _shortage(self, room: AvailableMemory) -> tuple[bool, str]:
        """Whether a limit forbids the plan, and why it doesn't fit; "" if it fits."""
        plan = f"{self._planned / GIB:.2f} GiB planned"
        if self._budget is not None and self._planned > self._budget:
            return True, f"{plan}, {self._budget / GIB:.2f} GiB allowed (memory.budget_gb)"
        if self._planned <= room.bytes * (1 if room.enforced else LIMIT_SLACK):
            return False, ""
        return room.enforced, f"{plan}, {room.bytes / GIB:.2f} GiB there ({room.source})"

    def _strain(self, sample: MemorySample) -> str:
        """Why the machine is short of memory although this run is within its plan; "" if it isn't short."""
        grown = sample.swap - (sample.swap if self._swap is None else self._swap)
        self._swap = sample.swap
        warned = sample.pressure.level >= MAC_WARNING and grown >= SWAP_GROWTH
        return f"memory pressure ({sample.pressure})" if sample.pressure.high or warned else ""

    def _recent(self) -> MemorySample:
        last = self._last
        return last[1] if last and self._clock() - last[0] < 2 * SAMPLE_SECONDS else self.sample()


@dataclass(frozen=True)
class SpeedChange:
    """The `share` of the usual speed that the last steps of `up_to` tokens reached, whether that is slow, and whether
    that has changed."""

    share: float
    up_to: int
    slow: bool
    changed: bool


class SpeedHistory:
    """Speeds of steps by length (up to each power of two), compared with their median while they weren't slow."""

    def __init__(self) -> None:
        self._usual: dict[int, list[float]] = {}  # sorted
        self._recent: dict[int, deque[float]] = {}
        self._slow: dict[int, bool] = {}

    def add(self, speed: float, length: int) -> SpeedChange:
        up_to = 1 << max(length - 1, 1).bit_length()
        usual, recent = self._usual.setdefault(up_to, []), self._recent.setdefault(up_to, deque())
        before = self._slow.get(up_to, False)
        recent.append(speed)
        if len(recent) > RECENT_STEPS:
            oldest = recent.popleft()
            if not before:
                insort(usual, oldest)
        if len(usual) < MEDIAN_STEPS:
            return SpeedChange(1.0, up_to, False, False)
        share = median(recent) / median(usual)
        self._slow[up_to] = slow = share < (USUAL_SHARE if before else SLOW_SHARE)
        return SpeedChange(share, up_to, slow, slow != before)


class StepGuard(AbstractContextManager[Any], Protocol):
    """What a training loop asks of a guard; see `MemoryGuard`."""

    planned: int

    def without_freed_blocks(self, peak: int) -> int: ...

    def reset_peak(self) -> None: ...

    def boundary(self) -> GuardVerdict: ...

    def step(self, tokens: int, seconds: float, length: int) -> str | None: ...

    def take(self) -> TelemetryRecord: ...

    def wait_for_memory(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool: ...


class NoGuard:
    """A guard that always says to go on."""

    planned = 0

    def without_freed_blocks(self, peak: int) -> int:
        return peak

    def reset_peak(self) -> None:
        return None

    def boundary(self) -> GuardVerdict:
        return GuardVerdict("go", "", 0)

    def step(self, tokens: int, seconds: float, length: int) -> str | None:
        return None

    def take(self) -> TelemetryRecord:
        return {}

    def wait_for_memory(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool:
        return True

    def __enter__(self) -> NoGuard:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class RecordingSensors:
    """Sensors whose samples are recorded, so that a process that is killed leaves its last one behind."""

    def __init__(
        self, sensors: MemorySensors, read_peak: Callable[[], int], record: Callable[[TelemetryRecord], None]
    ) -> None:
        self._sensors, self._read_peak, self._record = sensors, read_peak, record
        self.room = sensors.room

    def sample(self) -> MemorySample:
        sample = self._sensors.sample()
        critical = sample.pressure.level >= MAC_CRITICAL
        self._record({"used": self._read_peak(), "limit": self.room().limit, "critical": critical})
        return sample


# (where events are written, where samples are recorded) -> the guard
GuardFactory = Callable[[Callable[[TelemetryRecord], None], Callable[[TelemetryRecord], None]], StepGuard]


def machine_guard(
    device: str, budget_gb: float | None, read_peak: Callable[[], int], keeps_freed_blocks: bool = False
) -> GuardFactory:
    """Make a guard over this machine's own sensors. `budget_gb`: `memory.budget_gb`; `read_peak`: the engine's;
    `keeps_freed_blocks`: whether the C library keeps them, so that they have to be watched."""
    budget = None if budget_gb is None else int(budget_gb * GIB)

    def make(write: Callable[[TelemetryRecord], None], record: Callable[[TelemetryRecord], None]) -> StepGuard:
        sensors = RecordingSensors(MachineSensors(device), read_peak, record)
        freed = FreedBlocks() if keeps_freed_blocks else None
        return MemoryGuard(device, budget, read_peak, write, sensors=sensors, freed=freed)

    return make
