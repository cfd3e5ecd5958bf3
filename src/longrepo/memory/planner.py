"""Plan the method each phase is trained by: the cheapest that fits, found before anything is loaded."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrepo.config.schema import ContextSettings, PhaseConfig, Settings
from longrepo.curriculum.schedule import Phase
from longrepo.data.dialects import ADDED_FIM
from longrepo.data.marks import STRUCTURE_TOKENS
from longrepo.data.tokenizer_loading import marks_of_base
from longrepo.engines.base import Placement, StepMethod
from longrepo.engines.lora_targets import check_lora_targets, with_lora_targets
from longrepo.engines.model_shape import ModelShape, read_config, read_shape
from longrepo.engines.registry import select_device
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget, find_budget, process_memory
from longrepo.memory.disk_writes import DiskWrites
from longrepo.memory.estimate import Estimator, Methods, StepMemory, code_identity
from longrepo.rope.apply import NATIVE_CONTEXT, describe_context
from longrepo.utils.cache import JsonCache
from longrepo.utils.files import existing_folder

if TYPE_CHECKING:
    from longrepo.engines.registry import EngineName, EngineSelection


NO_BUDGET = Budget(sys.maxsize, "no budget was asked for", limit=False)


@dataclass(frozen=True)
class StepEstimate:
    """A method for sequences of `length` tokens. Its memory is estimated when first asked for, which takes seconds if
    it was never dry-run before. `overhead`: bytes of the process beside its tensors. `seconds`: of one micro-batch."""

    method: StepMethod
    length: int
    estimate: Callable[[StepMethod, int], StepMemory]
    overhead: int = 0
    time: Callable[[StepMethod, int], float | None] = lambda method, length: None

    @cached_property
    def memory(self) -> StepMemory:
        return self.estimate(self.method, self.length)

    @property
    def peak(self) -> int:
        """Bytes, as the budget counts them: tensors and, if the whole process is counted, its overhead."""
        return self.memory.peak + self.overhead

    @property
    def disk_held(self) -> int:
        return self.memory.disk_held

    @property
    def disk_written(self) -> int:
        """Bytes of one micro-batch."""
        return self.memory.disk_written

    @cached_property
    def seconds(self) -> float | None:
        return self.time(self.method, self.length)

    def fits(self, budget: int, disk: int) -> bool:
        return self.peak <= budget and self.disk_held <= disk

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method.as_dict(),
            "length": self.length,
            "peak": self.peak,
            "overhead": self.overhead,
            "parts": self.memory.as_dict(),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class PhaseMemoryPlan(Methods):
    """The methods for a phase's longest sequence at the positions of `context`; the first that fits is chosen."""

    estimates: tuple[StepEstimate, ...]
    chosen: StepEstimate
    number: int
    context: ContextSettings = NATIVE_CONTEXT

    def as_dict(self) -> dict[str, Any]:
        return self.chosen.as_dict() | {"context": self.context.model_dump(mode="json", exclude_defaults=True)}

    def line(self, budget: Budget) -> str:
        chosen = self.chosen
        where = "" if self.context == NATIVE_CONTEXT else f", positions {describe_context(self.context)}"
        disk = f", {chosen.disk_held / GIB:.1f} GiB on disk" if chosen.disk_held else ""
        return (
            f"memory: phase {self.number} ({chosen.length:,} tokens{where}) needs {chosen.peak / GIB:.2f} GiB of "
            f"{budget.bytes / GIB:.2f} GiB ({budget.reason}): {chosen.method}{disk}"
        )


@dataclass(frozen=True)
class MemoryPlan:
    """What a run needs on a device within its budget, by phase. A phase that isn't planned runs as the engine stands.

    `shorter` plans a phase's sequences cut to a number of tokens, and `largest` names the LoRA modules to freeze first:
    both for `memory.allow_lossy`.
    """

    phases: Mapping[int, PhaseMemoryPlan] = field(default_factory=dict)
    budget: Budget = NO_BUDGET
    device: str = "cpu"
    shorter: Callable[[int, int], Methods] | None = None  # (phase, tokens)
    largest: tuple[str, ...] = ()
    writes: DiskWrites | None = None

    def methods(self, phase: int, cut_to: int | None = None) -> Methods | None:
        """The methods of a phase, its sequences cut to `cut_to` tokens; None if it isn't planned."""
        whole = self.phases.get(phase)
        if whole is None or cut_to is None or whole.chosen.length <= cut_to or self.shorter is None:
            return whole
        return self.shorter(phase, cut_to)

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most; 0 if there is none."""
        return max((phase.chosen.peak for phase in self.phases.values()), default=0)

    @property
    def has_headroom(self) -> bool:
        """Whether it matters little what the process holds beside that."""
        return self.peak <= self.budget.bytes // 2

    def lines(self) -> Iterator[str]:
        """Describe the plan, one line per phase, and what is written to the disk if a step's store is there."""
        yield from (phase.line(self.budget) for phase in self.phases.values())
        if self.writes is not None and (line := self.writes.line()):
            yield line

    def as_json(self, former: Mapping[str, Any] | None = None, begun: int = 0) -> str:
        """The content of `memory_plan.json`. For a resumed run, the `former` content is kept for phases that
        aren't planned again, and for phase `begun`, which goes on by its former method on the same device."""
        device, budget = self.device, asdict(self.budget)
        phases = {str(number): phase.as_dict() for number, phase in self.phases.items()}
        if former is not None:
            place = {"device": former["device"], "budget": former["budget"]}
            for number, phase in former["phases"].items():
                same = former["device"] == device and int(number) == begun
                if number not in phases or same:
                    other = {} if place == {"device": device, "budget": budget} else place
                    phases[number] = other | phase
        ordered = {number: phases[number] for number in sorted(phases, key=int)}
        return json.dumps({"device": device, "budget": budget, "phases": ordered}, indent=2) + "\n"


CHUNK_SIZES = (1024, 512, 256, 128)
LENGTH_STEP = 128  # tokens: lengths that are looked for are multiples of it
MAX_LENGTH = 131_072
DISK_SHARE = 0.9  # of the free space, unless memory.max_disk_gb is set


@dataclass(frozen=True)
class MemoryPlanner:
    """Plans steps of one model and one set of settings on one kind of device. `budget`: bytes for a run there;
    `choices`: the device and precision with their reasons; `here`: whether the device is this machine's."""

    settings: Settings
    shape: ModelShape
    estimator: Estimator
    overhead: int
    disk: int  # bytes that a store may hold
    time: Callable[[StepMethod, int], float | None] = lambda method, length: None
    budget: Budget = NO_BUDGET
    choices: tuple[tuple[str, str], ...] = ()
    here: bool = True

    @staticmethod
    def for_run(
        settings: Settings,
        engine: EngineSelection,
        device: str,
        scratch: Path | None = None,
        budget_gb: float | None = None,
    ) -> MemoryPlanner:
        """Make the planner of a run by an engine on `auto`, `mps`, `cuda` or `cpu`, with its budget.
        `budget_gb`, in GiB, replaces this machine's; then the device may be another machine's, except that MLX's steps
        are measured on it. `scratch`: see `of`.

        Raises InputError for a device that isn't here, and as `of` does.
        """
        precision = settings.training.precision
        here = budget_gb is None or device in ("auto", "cpu")
        if here:
            place = select_device(engine, device, precision)
        else:
            kind = "metal" if engine.name == "mlx" else device
            place = Placement(kind, "bfloat16" if precision == "auto" else precision, ())
        planner = MemoryPlanner.of(settings, place.kind, place.dtype_name, scratch, engine=engine.name)
        if budget_gb is None:
            budget = find_budget(place.kind, settings.memory.budget_gb)
        else:
            budget = Budget(int(budget_gb * GIB), "--budget-gb", limit=True)
        return replace(planner, budget=budget, choices=place.choices, here=here)

    @staticmethod
    def of(
        settings: Settings,
        device: str,
        dtype: str,
        scratch: Path | None = None,
        time: Callable[[StepMethod, int], float | None] = lambda method, length: None,
        engine: EngineName = "torch",
    ) -> MemoryPlanner:
        """Make a planner without a budget; its settings name the LoRA modules that `auto` comes to. `scratch`: the
        folder of the disk store. Raises InputError if there is no readable configuration."""
        config = read_config(settings.model.name, settings.model.revision, settings.context)
        shape = read_shape(config, engine)
        settings = with_lora_targets(settings, shape.targets)
        if settings.training.weights == "lora":
            check_lora_targets(settings, shape.lora)
        added = len(STRUCTURE_TOKENS) if marks_of_base(settings) == "added" else 0
        added += len(ADDED_FIM.marks) if settings.data.fim == "add" else 0
        estimator = Estimator(config, settings, device, dtype, added, engine)
        overhead = process_overhead(engine) if device == "cpu" else 0
        return MemoryPlanner(settings, shape, estimator, overhead, disk_allowance(settings, scratch), time)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules that LoRA trains."""
        return with_lora_targets(self.settings, self.shape.targets).lora.module_names

    def at(self, context: ContextSettings) -> MemoryPlanner:
        """The planner at other positions. Raises InputError if the model can't be computed at them."""
        if context == self.settings.context:
            return self
        settings = self.settings.model_copy(update={"context": context})
        config = read_config(settings.model.name, settings.model.revision, context)
        shape = replace(self.shape, max_positions=config.max_position_embeddings)
        return replace(_with_settings(self, settings, config), shape=shape)

    def estimates(self, length: int) -> tuple[StepEstimate, ...]:
        """List every method that the settings and the architecture allow, from the fastest to the leanest.

        Raises InputError if the settings ask for chunks and the architecture can't be computed in chunks.
        """
        allowed = list(allowed_methods(self.settings, length, self.shape.layers, self.estimator.engine))
        if any(method.step == "chunked" for method in allowed) and (
            reason := self.estimator.chunked_unsupported_reason
        ):
            allowed = [method for method in allowed if method.step == "plain"]
            if not allowed:
                raise InputError(
                    f"memory.step: {self.settings.model.name} can't be trained in chunks: {reason}; leave step, store "
                    "and chunk_tokens at auto"
                )
        return tuple(self.planned(method, length) for method in allowed)

    def planned(self, method: StepMethod, length: int) -> StepEstimate:
        return StepEstimate(method, length, self.estimator.step, self.overhead, self.time)

    def first_fit(self, length: int, budget: int) -> StepEstimate | None:
        """The fastest method that fits `budget` bytes and the disk; None if none does."""
        return next((estimate for estimate in self.estimates(length) if estimate.fits(budget, self.disk)), None)

    def longest(self, budget: int, method: StepMethod | None = None, most: int = MAX_LENGTH) -> int:
        """The most tokens, a multiple of 128, that fit (by `method`, or by the leanest); 0 if not even 128 do."""
        most = min(most, self.shape.max_positions)
        leanest = method or self.estimates(most)[-1].method

        low, high = (self.planned(leanest, steps * LENGTH_STEP) for steps in (1, max(1, most // LENGTH_STEP)))
        if high.fits(budget, self.disk):
            return high.length
        if not low.fits(budget, self.disk):
            return 0
        while high.length - low.length > LENGTH_STEP:  # peaks are nearly linear in the length: few steps lead there
            share = (budget - low.peak) / max(1, high.peak - low.peak)
            steps = (low.length + int(share * (high.length - low.length))) // LENGTH_STEP
            steps = min(max(steps, low.length // LENGTH_STEP + 1), high.length // LENGTH_STEP - 1)
            middle = self.planned(leanest, steps * LENGTH_STEP)
            low, high = (middle, high) if middle.fits(budget, self.disk) else (low, middle)
        return low.length


def plan_run(
    planner: MemoryPlanner, phases: Sequence[Phase], budget: Budget, writes: DiskWrites | None = None
) -> MemoryPlan:
    """Plan each phase at its positions by the cheapest method that fits its longest sequence and writes no more to the
    disk than `writes` allows.

    Raises InputError if none does, naming the nearest settings that do, or if the model can't be computed so.
    """
    check_weights_fit(planner, budget)
    if writes is not None:
        writes.check_checkpoints()
    planned = {phase.number: _plan_phase(planner, phase, budget, writes) for phase in phases}

    def shorter(phase: int, length: int) -> Methods:
        estimates = planner.at(planned[phase].context).estimates(length)
        if writes is not None:
            estimates = tuple(one for one in estimates if writes.allow(phase, one))
        # Not the plain step if there is another: the validation set, which isn't cut, is scored by it, too.
        first = next((estimate for estimate in estimates if estimate.method.step == "chunked"), estimates[0])
        return Methods(estimates, first, planner.disk)

    all_weights = planner.settings.training.weights == "all"
    trained = tuple(planner.shape.lora) if all_weights else planner.modules
    largest = largest_modules(planner.shape.lora, trained)
    return MemoryPlan(planned, budget, planner.estimator.device, shorter, largest, writes)


def _plan_phase(planner: MemoryPlanner, phase: Phase, budget: Budget, writes: DiskWrites | None) -> PhaseMemoryPlan:
    at = checked_phase_planner(planner, phase)
    every = estimates = at.estimates(phase.max_length)
    if writes is not None and writes.limit is not None:
        estimates = tuple(one for one in every if writes.allow(phase.number, one))
        if not any(one.fits(budget.bytes, at.disk) for one in estimates) and (
            stored := [one for one in every if one not in estimates and one.fits(budget.bytes, at.disk)]
        ):
            room = f"{budget.bytes / GIB:.2f} GiB ({budget.reason})"
            raise InputError(writes.refusal(phase.number, stored, room))
        estimates = estimates or every
    chosen = estimates[0] if estimates[0].fits(budget.bytes, at.disk) else None
    if chosen is None and estimates[-1].peak > budget.bytes:  # the leanest: no need to plan those between
        raise InputError(_refusal_message(at, phase, estimates[-1:], budget))
    chosen = chosen or next((estimate for estimate in estimates if estimate.fits(budget.bytes, at.disk)), None)
    if chosen is None:
        raise InputError(_refusal_message(at, phase, estimates, budget))
    if writes is not None:
        writes.chosen[phase.number] = chosen
    return PhaseMemoryPlan(
        estimates=estimates, chosen=chosen, disk=planner.disk, number=phase.number, context=phase.context
    )


def largest_modules(sizes: Mapping[str, int], targets: Sequence[str]) -> tuple[str, ...]:
    """The modules with the most LoRA parameters: those of the MLP, if they are among the targets; none if nothing
    else would be left to train. `sizes`: input plus output features by module name."""
    most = max((sizes[name] for name in targets), default=0)
    largest = tuple(name for name in targets if sizes[name] == most)
    return largest if len(largest) < len(targets) else ()


def phase_planner(planner: MemoryPlanner, given: PhaseConfig) -> MemoryPlanner:
    """The planner at a phase's positions. Raises InputError, naming its settings, if these can't be computed."""
    try:
        return planner.at(given.positions(planner.settings.context))
    except InputError as error:
        raise InputError(given.named(str(error))) from None


def checked_phase_planner(planner: MemoryPlanner, phase: Phase) -> MemoryPlanner:
    """Like `phase_planner`, but also raises InputError if these positions don't reach the phase's longest sequence."""
    given, at = phase.given, phase_planner(planner, phase.given)
    if phase.max_length <= at.shape.max_positions:
        return at
    raise InputError(given.beyond_positions(planner.settings.model.name, at.shape.max_positions))


def allowed_methods(settings: Settings, length: int, layers: int, engine: EngineName = "torch") -> Iterator[StepMethod]:
    """Yield the methods that `memory.step`, `memory.store` and `memory.chunk_tokens` allow, from the fastest to the
    leanest. Layers that are computed again cost a forward pass; a disk wears out. On MLX the plain step is only used
    on request: its graph of a whole sequence isn't faster."""
    memory = settings.memory
    may_be_plain = memory.step == "plain" or (memory.step == "auto" and engine == "torch")
    if may_be_plain and memory.store == "auto" and memory.chunk_tokens == "auto":
        yield StepMethod()
    if memory.step == "plain":
        if memory.store != "auto" or memory.chunk_tokens != "auto":
            yield StepMethod()
        return
    shorter = [chunk for chunk in CHUNK_SIZES if chunk < length] or [CHUNK_SIZES[-1]]
    chunks = shorter if memory.chunk_tokens == "auto" else [memory.chunk_tokens]
    lean = chunks[-3:]
    if memory.store in ("auto", "memory"):
        yield from (StepMethod("chunked", chunk) for chunk in chunks)
    if memory.store in ("auto", "recompute") and layers > 2:
        yield from (StepMethod("chunked", chunk, "recompute", 2) for chunk in lean[:2])
        if (every := _leanest_interval(layers)) > 2:
            yield StepMethod("chunked", lean[min(1, len(lean) - 1)], "recompute", every)
    if memory.store in ("auto", "disk"):
        yield from (StepMethod("chunked", chunk, "disk") for chunk in lean)


def process_overhead(engine: EngineName = "torch") -> int:
    """Bytes of libraries and buffers that a process on the CPU holds beside its tensors: this one's, once the engine is
    imported, or a calibrated step's, if that is more. Call it before a model is loaded."""
    kept, key, module = JsonCache("process.json"), code_identity(engine), f"longrepo.engines.{engine}.engine"
    libraries = kept.get(f"libraries {key}")
    if libraries is None or module in sys.modules:
        import_module(module)
        libraries = process_memory().resident + _buffer_bytes(engine)
        kept.put(f"libraries {key}", libraries)
    return max(libraries, kept.get(f"step {key}") or 0)


def _buffer_bytes(engine: EngineName) -> int:
    """Bytes of freed buffers that an engine keeps for reuse on a CPU."""
    if engine == "torch":
        return 0
    from longrepo.engines.mlx.device import MIN_CACHE

    return MIN_CACHE


def disk_allowance(settings: Settings, folder: Path | None) -> int:
    """Bytes that the disk store may hold."""
    free = shutil.disk_usage(existing_folder(folder or Path(tempfile.gettempdir()))).free
    if settings.memory.max_disk_gb is None:
        return int(free * DISK_SHARE)
    return min(free, int(settings.memory.max_disk_gb * GIB))


def _leanest_interval(layers: int) -> int:
    """The interval k that needs least: keeping every k-th layer's input holds layers / k of them, and k layers' inputs,
    keys and values at a time."""
    return min(range(2, 5), key=lambda every: math.ceil(layers / every) + every)


def check_weights_fit(planner: MemoryPlanner, budget: Budget) -> None:
    """Raise InputError if not even the weights fit."""
    weights = planner.estimator.model_bytes[0]
    if weights + planner.overhead <= budget.bytes:
        return
    beside = f" and {planner.overhead / GIB:.2f} GiB of libraries" if planner.overhead else ""
    settings = planner.settings
    as_it_is = settings.model.quantization == "none" and settings.training.weights == "lora"
    packed = ", set model.quantization=nf4" if as_it_is else ""
    raise InputError(
        f"memory.budget_gb: the weights alone need {weights / GIB:.2f} GiB{beside}, the budget is "
        f"{budget.bytes / GIB:.2f} GiB ({budget.reason}): raise it{packed} or take a smaller model"
    )


def _refusal_message(planner: MemoryPlanner, phase: Phase, estimates: tuple[StepEstimate, ...], budget: Budget) -> str:
    room, least = budget.bytes, min(estimates, key=lambda estimate: estimate.peak)
    of = f"{room / GIB:.2f} GiB ({budget.reason})"
    lean = [estimate for estimate in estimates if estimate.peak <= room]
    if lean:  # then it is the disk
        need = min(estimate.disk_held for estimate in lean)
        return (
            f"memory.max_disk_gb: phase {phase.number} ({least.length:,} tokens) fits {of} only with {need / GIB:.1f} "
            f"GiB on disk, and {planner.disk / GIB:.1f} GiB may be used: free some, or set a shorter phase"
        )
    return (
        f"memory.budget_gb: phase {phase.number} ({least.length:,} tokens) needs at least {least.peak / GIB:.2f} GiB "
        f"({least.method}), the budget is {of}. What fits: {'; or '.join(_remedies(planner, phase, least, budget))}"
    )


def _remedies(planner: MemoryPlanner, phase: Phase, least: StepEstimate, budget: Budget) -> list[str]:
    """Settings that fit, each tried by the planner, not guessed."""
    settings, found = planner.settings, []
    shorter = planner.longest(budget.bytes, least.method, least.length)
    if shorter:
        found.append(f"{phase.given.setting('max_length')}={shorter}")
    if (rank := _smaller_rank(planner, least, budget)) is not None:
        found.append(f"lora.r={rank}")
    if settings.memory.step == "plain" or settings.memory.store != "auto" or settings.memory.chunk_tokens != "auto":
        free = {"step": "auto", "store": "auto", "chunk_tokens": "auto"}
        open_ = _with_settings(planner, settings.model_copy(update={"memory": settings.memory.model_copy(update=free)}))
        if (fit := open_.first_fit(least.length, budget.bytes)) is not None:
            found.append(f"memory.step, store and chunk_tokens = auto ({fit.method})")
    found.append(f"memory.budget_gb={math.ceil(least.peak / GIB * 10) / 10:g}")
    return [*found, phase.given.off]


def _smaller_rank(planner: MemoryPlanner, least: StepEstimate, budget: Budget) -> int | None:
    """The largest of half, a quarter … of the rank that fits: every peak is a straight line over the rank."""
    settings, rank = planner.settings, planner.settings.lora.r

    def peak(r: int) -> int:
        lora = settings.lora.model_copy(update={"r": r})
        return (
            _with_settings(planner, settings.model_copy(update={"lora": lora})).planned(least.method, least.length).peak
        )

    if settings.training.weights == "all" or rank < 2 or peak(1) > budget.bytes:
        return None
    at_one, a_rank = peak(1), (least.peak - peak(1)) / (rank - 1)
    rank //= 2
    while rank > 1 and (at_one + a_rank * (rank - 1) > budget.bytes or peak(rank) > budget.bytes):
        rank //= 2
    return rank


def _with_settings(planner: MemoryPlanner, settings: Settings, config: Any = None) -> MemoryPlanner:
    one = planner.estimator
    estimator = Estimator(config or one.config, settings, one.device, one.dtype, one.added, one.engine)
    return replace(planner, settings=settings, estimator=estimator)
