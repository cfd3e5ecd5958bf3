"""The checks of `longrepo doctor`: would the main job, training, run here?

The machine and the libraries, then the model: whether it is here or can be downloaded, whether its tokenizer loads, and
whether training it fits. Each check gives a finding with its remedy, in the order a person reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.config.schema import DataSettings, ModelSettings, Settings
from longrepo.engines.registry import choose_engine, select_device
from longrepo.errors import InputError
from longrepo.memory import doctor_checks, doctor_model
from longrepo.memory.budget import GIB
from longrepo.memory.doctor_checks import DoctorFinding
from longrepo.utils.hub import gguf_file, model_location
from longrepo.utils.hub_access import OFFLINE_REMEDY, HubProblem, ask_hub

if TYPE_CHECKING:
    from longrepo.engines.base import Placement
    from longrepo.engines.registry import EngineName, EngineSelection


WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


@dataclass(frozen=True)
class ModelAccess:
    """The finding, the folder of the model's configuration if it is on this machine, and the bytes of weights that the
    first run will download."""

    finding: DoctorFinding
    folder: Path | None
    download: int = 0


def find_model(model: ModelSettings) -> ModelAccess:
    """Look for a model in this package, in a folder, in the hub's cache, and, for at most three seconds, on the hub."""
    try:
        where = model_location(model.name)
    except InputError as error:
        return ModelAccess(_error_finding(error, "model"), None)
    if Path(where).is_dir():
        name = "embedded in this package" if model.name == "embedded" else f"in {where}"
        if (file := gguf_file(model.name)) is not None:
            name = f"{file.name}, de-quantised in {where}"
        if missing := _missing_weights(Path(where)):
            what = f"{name}: no {missing}"
            return ModelAccess(
                DoctorFinding("problem", "model", what, "download the model again, weights included"), Path(where)
            )
        return ModelAccess(DoctorFinding("ok", "model", name), Path(where))
    return _find_on_hub(model)


def check_tokenizer(folder: Path, data: DataSettings) -> Iterator[DoctorFinding]:
    """Check that the tokenizer beside the configuration loads; tell the base's dialect by it."""
    from longrepo.data.tokenizer_loading import load_tokenizer

    try:
        tokenizer = load_tokenizer(str(folder), None, data.structure_tokens, data.fim)
    except InputError as error:
        yield _error_finding(error, "tokenizer")
        return
    yield DoctorFinding("ok", "tokenizer", f"{tokenizer.vocabulary_size:,} tokens, marks: {tokenizer.marks}")
    yield from doctor_model.check_dialect(tokenizer)


def checkpoint_bytes(settings: Settings, engine: EngineName) -> int:
    """Bytes of all checkpoints a run keeps at once: LoRA and two moments in float32 each, for the last ones, one being
    written, the best and the phases' ends. `settings.model.name` is a folder; raises InputError if it can't be read.
    """
    from longrepo.engines.lora_targets import with_lora_targets
    from longrepo.engines.model_shape import read_config, read_shape

    shape = read_shape(read_config(settings.model.name), engine)
    settings = with_lora_targets(settings, shape.targets)
    lora = shape.lora_parameters(settings.lora.r, settings.lora.module_names)
    return 3 * 4 * lora * (settings.training.keep_last + 2 + 3)


def check_fit(settings: Settings, choice: EngineSelection, device: str) -> DoctorFinding:
    """Check that the planner finds a method for every phase, here and now. `settings.model.name` is a folder. Takes up
    to a minute for a model that was never planned before."""
    from longrepo.curriculum.schedule import make_schedule
    from longrepo.memory.planner import MemoryPlanner, plan_run

    phases = [phase for phase in make_schedule(settings) if phase.epochs]
    try:
        planner = MemoryPlanner.for_run(settings, choice, device)
        plan = plan_run(planner, phases, planner.budget)
    except InputError as error:
        return DoctorFinding("problem", "main job", str(error))
    chosen = [phase.chosen for phase in plan.phases.values()]
    steps = ", ".join(f"{one.length:,} tokens {one.peak / GIB:.2f} ({one.method})" for one in chosen)
    room = f"{plan.budget.bytes / GIB:.2f} GiB ({plan.budget.reason})"
    return DoctorFinding("ok", "main job", f"fits in {room}: {steps}")


def _find_on_hub(model: ModelSettings) -> ModelAccess:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    folder = Path(cached).parent if isinstance(cached, str) else None
    if folder and not _missing_weights(folder):
        return ModelAccess(
            DoctorFinding("ok", "model", f"{model.name} is in the hub's cache: no network needed"), folder
        )
    answer = ask_hub(model.name, model.revision)
    if isinstance(answer, HubProblem):
        what = answer.what.replace("it is not in", "its weights are not in") if folder else answer.what
        return ModelAccess(DoctorFinding("problem", "model", f"{model.name}: {what}", answer.remedy), folder)
    size = sum(file.size or 0 for file in answer.siblings or () if file.rfilename.endswith(".safetensors"))
    if folder is None:
        try:
            folder = Path(hf_hub_download(model.name, "config.json", revision=model.revision)).parent
        except OSError as error:
            what = f"{model.name}: the hub doesn't give its config.json ({type(error).__name__})"
            return ModelAccess(DoctorFinding("problem", "model", what, OFFLINE_REMEDY), None)
    what = f"{model.name}: not in the hub's cache yet, the hub gives it ({size / GIB:.1f} GiB)"
    return ModelAccess(DoctorFinding("note", "model", what, "nothing: the first run downloads it"), folder, size)


def _missing_weights(folder: Path) -> str:
    """The first file of weights that is missing, or ""."""
    index = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if index is None:
        return "weights"
    if index.suffix != ".json":
        return ""
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return next((name for name in shards if not (folder / name).is_file()), "")


def _error_finding(error: InputError, topic: str) -> DoctorFinding:
    what, _, remedy = str(error).partition("; ")
    return DoctorFinding("problem", topic, what, remedy)


def run_checks(settings: Settings, wanted: str, device: str, output: Path) -> Iterator[DoctorFinding]:
    """Check this machine for a run with these settings by the engine `wanted` (`auto`, `torch` or `mlx`) on `auto`,
    `mps`, `cuda` or `cpu` into `output`."""
    with suppress(ImportError, OSError):  # told below
        import_module("torch")  # choosing MLX keeps transformers from it, and what torch makes of a base is told, too
    try:
        choice = choose_engine(wanted, device, settings.training.weights)
    except InputError as error:
        what, _, usable = str(error).partition("; ")
        yield DoctorFinding("problem", "engine", what, usable)
        return
    yield DoctorFinding("ok", "engine", f"{choice.name}: {choice.reason}")
    libraries = list(doctor_checks.check_libraries())
    yield from libraries
    yield doctor_checks.check_git()
    if any(finding.status == "problem" for finding in libraries):
        return
    placement: Placement | None = None
    try:
        placement = select_device(choice, device, settings.training.precision)
    except InputError as error:
        what, _, usable = str(error).partition("; ")
        remedy = f"{usable}; or leave --device out" if what.startswith("--device") else usable
        yield DoctorFinding("problem", "device", what, remedy)
    yield doctor_checks.check_chip(placement.kind if placement else "cpu")
    if choice.name == "torch":
        yield doctor_checks.check_cores()
    if placement:
        yield from _device_checks(settings, choice, placement)
    yield doctor_checks.check_cgroup()
    yield from _model_checks(settings, choice, device if placement else None, output)


def _device_checks(settings: Settings, choice: EngineSelection, placement: Placement) -> Iterator[DoctorFinding]:
    for what, why in placement.choices:
        topic, _, chosen = what.partition(": ")
        yield DoctorFinding("ok", topic, f"{chosen}: {why}")
    quantised = settings.model.quantization == "nf4"
    if choice.name == "mlx":
        if quantised:
            yield doctor_checks.check_mlx_4bit(placement.kind, placement.dtype_name)
        yield doctor_checks.check_metal()
    else:
        if quantised:
            yield doctor_checks.check_torch_4bit(
                placement.kind, placement.dtype_name, settings.model.double_quantization
            )
        yield from doctor_checks.check_kernels(placement.kind)
    yield doctor_checks.check_memory(placement.kind, settings.memory.budget_gb)


def _model_checks(
    settings: Settings, choice: EngineSelection, device: str | None, output: Path
) -> Iterator[DoctorFinding]:
    """`device`: None if there is no such device here, or not for this engine."""
    from huggingface_hub import constants

    from longrepo.engines.model_shape import is_shipped_config
    from longrepo.utils.cache import MAX_CACHE_BYTES, cache_folder

    access = find_model(settings.model)
    yield access.finding
    yield doctor_model.check_license(settings.model.name)
    if access.folder is None and is_shipped_config(settings.model.name, settings.model.revision):
        yield from doctor_model.check_architecture(settings, choice)
    if access.folder is not None:
        if (access.folder / "tokenizer.json").is_file() or not access.download:
            yield from check_tokenizer(access.folder, settings.data)
        yield from doctor_model.check_code(access.folder)
        there = settings.model.model_copy(update={"name": str(access.folder), "revision": None})
        settings = settings.model_copy(update={"model": there})
        yield from doctor_model.check_architecture(settings, choice)
        if device is not None:
            yield (job := check_fit(settings, choice, device))
            if job.status == "ok":
                yield doctor_checks.check_disk("checkpoints", output, checkpoint_bytes(settings, choice.name))
    if access.download:
        yield doctor_checks.check_disk("the model", Path(constants.HF_HUB_CACHE), access.download)
    if (cache := cache_folder()) is not None:
        yield doctor_checks.check_disk("the cache of what was read", cache, MAX_CACHE_BYTES, must=False)
