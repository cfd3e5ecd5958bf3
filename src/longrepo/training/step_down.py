"""Out-of-memory fallback.

What a run is given to stay within its memory: each phase's rungs, and a guard that watches.

How the engine computes a phase: at its positions, by a method that memory allows.

Step-down: where memory isn't enough, the run goes on by a method that needs less, says so, and stays there.

First what changes nothing (another store), then what changes rounding (smaller chunks), then, only with
`memory.allow_lossy`, what changes the result: the largest LoRA modules are trained no further, then sequences are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from longrepo.config.schema import ContextSettings, MemorySettings
from longrepo.engines.base import Engine, StepMethod
from longrepo.errors import OutOfMemory
from longrepo.memory.budget import GIB, MAC_CRITICAL, MachineSensors, MemorySample, MemorySensors
from longrepo.memory.guard import GuardVerdict, MemoryGuard
from longrepo.memory.methods import MethodEstimate, Methods, differ_in_store_only
from longrepo.memory.planner import MemoryPlan, MemoryPlanner
from longrepo.training.crash import CrashMarker, CrashReport
from longrepo.training.events import MemoryUse, MetricsFile, Reporter, StepDownRecord
from longrepo.training.state import MemoryState, PhaseMemory, TrainingState

GuardEvent = dict[str, Any]


class StepGuard(AbstractContextManager[Any], Protocol):
    """What the loop asks of a guard; see `longrepo.memory.guard.MemoryGuard`."""

    planned: int

    def boundary(self) -> GuardVerdict: ...

    def step(self, tokens: int, seconds: float, length: int) -> str | None: ...

    def take(self) -> GuardEvent: ...

    def wait_for_memory(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool: ...


class NoGuard:
    """No guard: always go on."""

    planned = 0

    def boundary(self) -> GuardVerdict:
        return GuardVerdict("go", "", 0)

    def step(self, tokens: int, seconds: float, length: int) -> str | None:
        return None

    def take(self) -> GuardEvent:
        return {}

    def wait_for_memory(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool:
        return True

    def __enter__(self) -> NoGuard:
        return self

    def __exit__(self, *error: object) -> None:
        return None


# (where events go, where samples go) → the guard
GuardFactory = Callable[[Callable[[GuardEvent], None], Callable[[GuardEvent], None]], StepGuard]


@dataclass(frozen=True)
class RunMemory:
    """`ladders`: of each phase ahead; a phase without one runs as the engine stands. `shorter` plans a phase's
    sequences cut to a number of tokens, and `largest` names the LoRA modules to freeze first: both for
    `memory.allow_lossy`."""

    ladders: Mapping[int, Methods] = field(default_factory=dict)
    shorter: Callable[[int, int], Methods] | None = None  # (phase, tokens)
    largest: tuple[str, ...] = ()
    watch: GuardFactory = lambda write, note: NoGuard()


class RecordingSensors:
    """Sensors whose samples are noted, so that a process that is killed leaves its last one behind."""

    def __init__(
        self, sensors: MemorySensors, read_peak: Callable[[], int], note: Callable[[GuardEvent], None]
    ) -> None:
        self._sensors, self._read_peak, self._note = sensors, read_peak, note
        self.room = sensors.room

    def sample(self) -> MemorySample:
        sample = self._sensors.sample()
        critical = sample.pressure.level >= MAC_CRITICAL
        self._note({"used": self._read_peak(), "limit": self.room().limit, "critical": critical})
        return sample


def make_run_memory(planner: MemoryPlanner, plan: MemoryPlan, read_peak: Callable[[], int]) -> RunMemory:
    """What a planned run is given: its rungs, and a guard over the machine's own sensors. `read_peak`: the engine's."""
    set_gb = planner.settings.memory.budget_gb
    budget = None if set_gb is None else int(set_gb * GIB)

    def shorter(phase: int, length: int) -> Methods:
        rungs = planner.at(plan.phases[phase].context).estimates(length)
        # Not the plain step if there is another: the validation set, which isn't cut, is scored by it, too.
        first = next((rung for rung in rungs if rung.method.step == "chunked"), rungs[0])
        return Methods(rungs, first, planner.disk)

    def watch(write: Callable[[GuardEvent], None], note: Callable[[GuardEvent], None]) -> StepGuard:
        sensors = RecordingSensors(MachineSensors(plan.device), read_peak, note)
        return MemoryGuard(plan.device, budget, read_peak, write, sensors=sensors)

    return RunMemory(
        ladders={number: Methods(phase.estimates, phase.chosen, planner.disk) for number, phase in plan.phases.items()},
        shorter=shorter,
        largest=largest_modules(planner.shape.lora, _trained_modules(planner)),
        watch=watch,
    )


def _trained_modules(planner: MemoryPlanner) -> tuple[str, ...]:
    """The modules whose weights are trained."""
    all_weights = planner.settings.training.weights == "all"
    return tuple(planner.shape.lora) if all_weights else planner.settings.lora.target_modules


def largest_modules(sizes: Mapping[str, int], targets: Sequence[str]) -> tuple[str, ...]:
    """The modules with the most LoRA parameters: those of the MLP, where they are among the targets. None where
    nothing else would be left to train. `sizes`: in and out features by module name."""
    most = max((sizes[name] for name in targets), default=0)
    found = tuple(name for name in targets if sizes[name] == most)
    return found if len(found) < len(targets) else ()


T = TypeVar("T")
StepDownChange = Literal["store", "chunks", "frozen", "cut"]
MIN_CUT_LENGTH = 512  # tokens; sequences aren't cut below
TRAINING_BYTES_PER_PARAMETER = 12  # bytes: a float32 gradient and Adam's two moments


class StepDown:
    """The method a run computes by, and what memory has taught it (`learnt`, kept in the run's state)."""

    def __init__(
        self,
        engine: Engine,
        given: RunMemory,
        state: TrainingState,
        settings: MemorySettings,
        run: Path,
        in_flight: CrashMarker,
        metrics: MetricsFile,
        reporter: Reporter,
        contexts: Mapping[int, ContextSettings],
    ) -> None:
        """`engine` has its weights and moments: what is frozen according to the state is frozen again. `contexts`: the
        positions of each phase."""
        self._engine, self._given, self._state, self._settings, self._run = engine, given, state, settings, run
        self.crash_marker, self._metrics, self._reporter = in_flight, metrics, reporter
        self._contexts = contexts
        self.watch = given.watch(metrics.write_event, lambda sample: in_flight.renew(sample=sample))
        self._phase = 0
        self._rung: MethodEstimate | None = None
        if self.memory_state.frozen:
            engine.freeze(self.memory_state.frozen)
        for number, ladder in given.ladders.items():
            first = PhaseMemory(ladder.chosen.method.as_dict(), ladder.chosen.peak)
            self.memory_state.phases.setdefault(str(number), first)

    @property
    def memory_state(self) -> MemoryState:
        return self._state.memory

    @property
    def planned(self) -> int:
        """What the method in flight is planned to need, in bytes; 0 where nothing is planned."""
        return self._rung.peak - self.memory_state.relief if self._rung else 0

    def after(self, death: CrashReport) -> None:
        """Go on after a process that died: a rung lower where it was killed for memory. Raises OutOfMemory where
        there is none."""
        what = f"the process before died (phase {death.phase}, {death.method})"
        known = death.memory.phases.get(str(death.phase))
        if death.why is None or known is None:
            self._reporter.note(f"{what}; {death.why or 'nothing says that memory was the reason'}: the same method")
        elif death.phase in self._given.ladders:
            self.enter(death.phase)
            self.step_down(f"{what}: {death.why}")
        else:
            self._fail_at(known.planned)

    def enter(self, phase: int) -> None:
        """Compute at the phase's positions and by its method from here on: the one it had, unless as much as that needs
        has failed."""
        if phase == self._phase:
            return
        if self._contexts[phase] != self._contexts.get(self._phase):
            self._engine.position(self._contexts[phase])
        self._phase = phase
        ladder = self._ladder()
        if ladder is None:
            self._rung = None
            self.crash_marker.write(phase, self._state.update, str(self._engine.method), 0, 0, self.memory_state)
            return
        before = StepMethod.from_dict(self.memory_state.phases[str(phase)].method)
        rung = ladder.start(before, self._ceiling())
        if rung.method != before:
            why = "too much has failed before" if ladder.of(before) else "isn't among the planned ones any more"
            self._reporter.note(f"memory: phase {phase} is computed by {rung.method}, not {before}: that {why}")
        self._use(rung)

    def run_with_fallback(self, work: Callable[[], T], lossy: bool = True) -> T:
        """`work`'s result; where it runs out of memory, step down and do all of it again. Without `lossy` nothing
        that changes the result is given up. Raises OutOfMemory where nothing needs less."""
        while True:
            try:
                return work()
            except OutOfMemory as error:
                if self._rung is None:
                    raise
                why = str(error).partition(";")[0]
            # Not while the error is handled: it keeps the failed step's tensors alive.
            self._engine.drop_gradients()
            self.step_down(why, lossy=lossy)

    def boundary(self, stop: Callable[[], bool]) -> None:
        """Between two updates: wait, or step down, as the guard says. Raises OutOfMemory where nothing needs less."""
        verdict = self.watch.boundary()
        if verdict.action == "pause":
            self.watch.wait_for_memory(self._reporter.note, stop)
        elif verdict.action == "step_down" and self._rung is not None:
            self.step_down(verdict.reason, verdict.room)
        self.crash_marker.renew(self._state.update)

    def step_down(self, why: str, room: int | None = None, lossy: bool = True) -> None:
        """Go on by what needs less (within `room` bytes if anything does), for the rest of the run."""
        before, planned, ladder = self._rung, self.planned, self._ladder()
        assert before is not None and ladder is not None
        self._fail_at(planned)
        lower = ladder.lower(before, None if room is None else room + self.memory_state.relief)
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
        self._begin_flight(lower)

    def measure(self) -> int:
        """The peak of what was computed since the method was taken up or an epoch began, in bytes; noted."""
        peak = self._engine.peak_memory()
        if phase := self.memory_state.phases.get(str(self._phase)):
            phase.used = max(phase.used, peak)
        return peak

    def memory_use(self) -> MemoryUse:
        learnt, so_far = self.memory_state, self._state.so_far
        return MemoryUse(
            method=str(self._engine.method),
            planned=self.planned or None,
            used=so_far.peak_memory,
            steps_down=list(so_far.steps_down),
            frozen=list(learnt.frozen),
            cut_to=learnt.max_length,
            skipped=so_far.skipped,
        )

    def summary(self) -> list[str]:
        """What was planned and what was used, a line a phase."""
        return [
            f"phase {number}: planned {phase.planned / GIB:.2f} GiB, used {phase.used / GIB:.2f} "
            f"({StepMethod.from_dict(phase.method)})"
            for number, phase in sorted(self.memory_state.phases.items(), key=lambda item: int(item[0]))
            if phase.used
        ]

    def _ladder(self) -> Methods | None:
        ladder, cut_to = self._given.ladders.get(self._phase), self.memory_state.max_length
        if ladder is None or cut_to is None or ladder.chosen.length <= cut_to or self._given.shorter is None:
            return ladder
        return self._given.shorter(self._phase, cut_to)

    def _use(self, rung: MethodEstimate) -> None:
        self._engine.use(rung.method, self._run)
        self._engine.reset_peak_memory()
        self._rung = rung
        self.watch.planned = self.planned
        former, method = self.memory_state.phases[str(self._phase)], rung.method.as_dict()
        used = former.used if former.method == method else 0
        self.memory_state.phases[str(self._phase)] = PhaseMemory(method, self.planned, used)
        self._begin_flight(rung)

    def _begin_flight(self, rung: MethodEstimate) -> None:
        update, method = self._state.update, str(rung.method)
        self.crash_marker.write(self._phase, update, method, rung.length, self.planned, self.memory_state)

    def _fail_at(self, peak: int) -> None:
        self.memory_state.ceiling = peak if self.memory_state.ceiling is None else min(peak, self.memory_state.ceiling)

    def _ceiling(self) -> int | None:
        """As rungs are planned: before what freezing gave back."""
        return None if self.memory_state.ceiling is None else self.memory_state.ceiling + self.memory_state.relief

    def _can_give_up(self, rung: MethodEstimate) -> bool:
        can_freeze = bool(self._given.largest) and not self.memory_state.frozen
        return can_freeze or (self._given.shorter is not None and rung.length > MIN_CUT_LENGTH)

    def _give_up(self, rung: MethodEstimate) -> tuple[StepDownChange, MethodEstimate, str]:
        learnt = self.memory_state
        if self._given.largest and not learnt.frozen:
            count = self._engine.freeze(self._given.largest)
            learnt.frozen, learnt.relief = list(self._given.largest), TRAINING_BYTES_PER_PARAMETER * count
            return "frozen", rung, f"{' and '.join(learnt.frozen)} are trained no further ({count:,} LoRA parameters)"
        learnt.max_length = max(MIN_CUT_LENGTH, rung.length // 2)
        ladder = self._ladder()
        assert ladder is not None
        return "cut", ladder.start(rung.method, self._ceiling()), f"sequences are cut to {learnt.max_length:,} tokens"

    def _nothing_left(self, why: str, rung: MethodEstimate) -> str:
        settings = self._settings
        pinned = [name for name in ("store", "chunk_tokens", "step") if getattr(settings, name) != "auto"]
        ways = [f"set memory.{name}=auto" for name in pinned]
        ways += ["give it more memory (end other programs, raise memory.budget_gb)"]
        if not settings.allow_lossy:
            ways += ["allow it to train fewer LoRA modules or shorter sequences (memory.allow_lossy=true)"]
        ways += ["or leave out the longest phase"]
        return (
            f"{why}; nothing needs less than {rung.method} (phase {self._phase}, {rung.length} tokens, planned "
            f"{self.planned / GIB:.2f} GiB): {', '.join(ways)}, and go on with --resume auto; the checkpoints are whole"
        )
