"""Step-down: if memory runs out, the run goes on by a method that needs less, says so, and stays there.

First what changes nothing (another store), then what changes rounding (smaller chunks), then, only with
`memory.allow_lossy`, what changes the result: the largest LoRA modules are trained no further, then sequences are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeVar

from longrepo.config.schema import ContextSettings, MemorySettings
from longrepo.engines.base import Engine, StepMethod
from longrepo.errors import OutOfMemory
from longrepo.memory.budget import GIB
from longrepo.memory.disk_writes import stored_bytes
from longrepo.memory.estimate import MethodEstimate, Methods, differ_in_store_only
from longrepo.memory.guard import GuardFactory
from longrepo.memory.planner import MemoryPlan
from longrepo.training.crash import CrashMarker, CrashReport
from longrepo.training.events import MemoryUse, MetricsFile, Reporter, StepDownRecord
from longrepo.training.state import MemoryState, PhaseMemory, TrainingState

T = TypeVar("T")
StepDownChange = Literal["store", "chunks", "frozen", "cut"]
MIN_CUT_LENGTH = 512  # tokens; sequences aren't cut below
TRAINING_BYTES_PER_PARAMETER = 12  # bytes: a float32 gradient and Adam's two moments


class StepDown:
    """The method that a run uses, and what it has learned about memory (kept in the run's state)."""

    def __init__(
        self,
        engine: Engine,
        plan: MemoryPlan,
        state: TrainingState,
        settings: MemorySettings,
        run: Path,
        crash_marker: CrashMarker,
        metrics: MetricsFile,
        reporter: Reporter,
        contexts: Mapping[int, ContextSettings],
        make_guard: GuardFactory,
    ) -> None:
        """`engine` already has its weights and moments: modules that the state calls frozen are frozen again.
        `contexts`: the positions of each phase."""
        self._engine, self._plan, self._state, self._settings, self._run = engine, plan, state, settings, run
        self.crash_marker, self._metrics, self._reporter = crash_marker, metrics, reporter
        self._contexts = contexts
        self.guard = make_guard(metrics.write_event, lambda sample: crash_marker.renew(sample=sample))
        self._phase = 0
        self._current: MethodEstimate | None = None  # the method in use
        if self.memory_state.frozen:
            engine.freeze(self.memory_state.frozen)
        for number, phase in plan.phases.items():
            first = PhaseMemory(phase.chosen.method.as_dict(), phase.chosen.peak)
            self.memory_state.phases.setdefault(str(number), first)

    @property
    def memory_state(self) -> MemoryState:
        return self._state.memory

    @property
    def planned(self) -> int:
        """Planned memory of the current method in bytes; 0 if nothing is planned."""
        return self._current.peak - self.memory_state.relief if self._current else 0

    def recover(self, crash: CrashReport) -> None:
        """Go on after a crash: by the next lower method if it was killed for memory. Raises OutOfMemory if there is
        none."""
        what = f"the previous process died (phase {crash.phase}, {crash.method})"
        known = crash.memory.phases.get(str(crash.phase))
        if crash.why is None or known is None:
            self._reporter.note(f"{what}; {crash.why or 'nothing suggests that memory was the cause'}: the same method")
        elif crash.phase in self._plan.phases:
            self.enter(crash.phase)
            self.step_down(f"{what}: {crash.why}")
        else:
            self._fail_at(known.planned)

    def enter(self, phase: int) -> None:
        """Switch to the phase's positions and its method: the one it had, unless that much memory has failed before."""
        if phase == self._phase:
            return
        if self._contexts[phase] != self._contexts.get(self._phase):
            self._engine.position(self._contexts[phase])
        self._phase = phase
        methods = self._methods()
        if methods is None:
            self._current = None
            self.crash_marker.write(phase, self._state.update, str(self._engine.method), 0, 0, self.memory_state)
            return
        before = StepMethod.from_dict(self.memory_state.phases[str(phase)].method)
        first = methods.start(before, self._ceiling())
        if first.method != before:
            why = "needs memory that has failed before" if methods.of(before) else "is no longer among the planned ones"
            self._reporter.note(f"memory: phase {phase} is computed by {first.method}, not {before}: that {why}")
        self._use(first)

    def run_with_fallback(self, work: Callable[[], T], lossy: bool = True) -> T:
        """Return `work()`; if it runs out of memory, step down and repeat all of it. Without `lossy` nothing that
        changes the result is given up. Raises OutOfMemory if no method needs less."""
        while True:
            try:
                return work()
            except OutOfMemory as error:
                if self._current is None:
                    raise
                why = str(error).partition(";")[0]
            # Not while the error is handled: it keeps the failed step's tensors alive.
            self._engine.drop_gradients()
            self.step_down(why, lossy=lossy)

    def boundary(self, stop: Callable[[], bool]) -> None:
        """Between two updates: wait or step down, as the guard says. Raises OutOfMemory if no method needs less."""
        verdict = self.guard.boundary()
        if verdict.action == "pause":
            self.guard.wait_for_memory(self._reporter.note, stop)
        elif verdict.action == "step_down" and self._current is not None:
            self.step_down(verdict.reason, verdict.room)
        self.crash_marker.renew(self._state.update)

    def step_down(self, why: str, room: int | None = None, lossy: bool = True) -> None:
        """Switch to a method that needs less (within `room` bytes if one does), for the rest of the run."""
        before, planned, methods = self._current, self.planned, self._methods()
        assert before is not None and methods is not None
        self._fail_at(planned)
        lower = methods.lower(before, None if room is None else room + self.memory_state.relief)
        if lower is not None:
            same = differ_in_store_only(before.method, lower.method)
            changes: StepDownChange = "store" if same else "chunks"
            effect = "the result stays the same, bit for bit" if same else "the result changes by rounding only"
        elif lossy and self._settings.allow_lossy and self._can_give_up(before):
            changes, lower, effect = self._give_up(before)
        else:
            raise OutOfMemory(self._nothing_left(why, before))
        self._use(lower)
        update = self._state.update + 1
        text = (
            f"memory: {why}; from update {update} on {lower.method} (planned {self.planned / GIB:.2f} GiB) instead of "
            f"{before.method} ({planned / GIB:.2f}): {effect}"
        )
        record = StepDownRecord(
            self._phase, update, why, changes, str(before.method), str(lower.method), planned, self.planned, text
        )
        self.memory_state.steps.append(asdict(record))
        self._state.so_far.steps_down.append(text)
        self._metrics.write(record)
        self._reporter.note(text)
        self._write_crash_marker(lower)

    def calibrated_speeds(self, batch: int) -> dict[int, float]:
        """Seconds per token by phase in batches of so many sequences, if this machine was timed."""
        return {
            number: chosen.seconds / (batch * chosen.length)
            for number, phase in self._plan.phases.items()
            if (chosen := phase.chosen).seconds
        }

    def stored_bytes(self, tokens: int, batch: int) -> int:
        """Bytes that the current method wrote to its disk store for so many tokens, as planned; 0 if it has none."""
        return stored_bytes(self._current, tokens, batch) if self._current else 0

    def reset_peak(self) -> None:
        """Begin a new peak of memory."""
        self._engine.reset_peak_memory()
        self.guard.reset_peak()

    def measure(self) -> int:
        """Return the peak in bytes since the method was chosen or an epoch began, and record it. On a CPU it is the
        whole process without freed blocks that the C library kept."""
        peak = self.guard.without_freed_blocks(self._engine.peak_memory())
        if phase := self.memory_state.phases.get(str(self._phase)):
            phase.used = max(phase.used, peak)
        return peak

    def memory_use(self) -> MemoryUse:
        memory, so_far = self.memory_state, self._state.so_far
        return MemoryUse(
            method=str(self._engine.method),
            planned=self.planned or None,
            used=so_far.peak_memory,
            steps_down=list(so_far.steps_down),
            frozen=list(memory.frozen),
            cut_to=memory.max_length,
            skipped=so_far.skipped,
        )

    def summary(self) -> list[str]:
        """Planned and used memory, one line per phase."""
        return [
            f"phase {number}: planned {phase.planned / GIB:.2f} GiB, used {phase.used / GIB:.2f} "
            f"({StepMethod.from_dict(phase.method)})"
            for number, phase in sorted(self.memory_state.phases.items(), key=lambda item: int(item[0]))
            if phase.used
        ]

    def _methods(self) -> Methods | None:
        return self._plan.methods(self._phase, self.memory_state.max_length)

    def _use(self, estimate: MethodEstimate) -> None:
        self._engine.use(estimate.method, self._run)
        self.reset_peak()
        self._current = estimate
        self.guard.planned = self.planned
        former, method = self.memory_state.phases[str(self._phase)], estimate.method.as_dict()
        used = former.used if former.method == method else 0
        self.memory_state.phases[str(self._phase)] = PhaseMemory(method, self.planned, used)
        self._write_crash_marker(estimate)

    def _write_crash_marker(self, estimate: MethodEstimate) -> None:
        update, method = self._state.update, str(estimate.method)
        self.crash_marker.write(self._phase, update, method, estimate.length, self.planned, self.memory_state)

    def _fail_at(self, peak: int) -> None:
        self.memory_state.ceiling = peak if self.memory_state.ceiling is None else min(peak, self.memory_state.ceiling)

    def _ceiling(self) -> int | None:
        """The ceiling as methods are planned: without the memory that freezing gave back."""
        return None if self.memory_state.ceiling is None else self.memory_state.ceiling + self.memory_state.relief

    def _can_give_up(self, current: MethodEstimate) -> bool:
        can_freeze = bool(self._plan.largest) and not self.memory_state.frozen
        return can_freeze or (self._plan.shorter is not None and current.length > MIN_CUT_LENGTH)

    def _give_up(self, current: MethodEstimate) -> tuple[StepDownChange, MethodEstimate, str]:
        memory = self.memory_state
        if self._plan.largest and not memory.frozen:
            count = self._engine.freeze(self._plan.largest)
            memory.frozen, memory.relief = list(self._plan.largest), TRAINING_BYTES_PER_PARAMETER * count
            return (
                "frozen",
                current,
                f"{' and '.join(memory.frozen)} are trained no further ({count:,} LoRA parameters)",
            )
        memory.max_length = max(MIN_CUT_LENGTH, current.length // 2)
        methods = self._methods()
        assert methods is not None
        return (
            "cut",
            methods.start(current.method, self._ceiling()),
            f"sequences are cut to {memory.max_length:,} tokens",
        )

    def _nothing_left(self, why: str, current: MethodEstimate) -> str:
        settings = self._settings
        pinned = [name for name in ("store", "chunk_tokens", "step") if getattr(settings, name) != "auto"]
        ways = [f"set memory.{name}=auto" for name in pinned]
        ways += ["give it more memory (close other programs, raise memory.budget_gb)"]
        if not settings.allow_lossy:
            ways += ["allow it to train fewer LoRA modules or shorter sequences (memory.allow_lossy=true)"]
        ways += ["or leave out the longest phase"]
        return (
            f"{why}; nothing needs less than {current.method} (phase {self._phase}, {current.length} tokens, planned "
            f"{self.planned / GIB:.2f} GiB): {', '.join(ways)}, and go on with --resume auto; the "
            "checkpoints are intact"
        )
