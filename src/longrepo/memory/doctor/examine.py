"""All checks, in the order a person reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.config.schema import Settings
from longrepo.engines.choose import choose, place
from longrepo.errors import InputError
from longrepo.memory.doctor import engine, machine, mlx, model
from longrepo.memory.doctor.finding import Finding

if TYPE_CHECKING:
    from longrepo.engines.choose import Choice, Placed


def examine(settings: Settings, wanted: str, device: str, output: Path) -> Iterator[Finding]:
    """Look at this machine for a run with these settings by the engine `wanted` (`auto`, `torch` or `mlx`) on `auto`,
    `mps`, `cuda` or `cpu` into `output`."""
    try:
        choice = choose(wanted, device, settings.training.weights)
    except InputError as error:
        what, _, usable = str(error).partition("; ")
        yield Finding("problem", "engine", what, usable)
        return
    yield Finding("ok", "engine", f"{choice.name}: {choice.reason}")
    libraries = list(engine.libraries())
    yield from libraries
    yield machine.git()
    if any(finding.status == "problem" for finding in libraries):
        return
    placement: Placed | None = None
    try:
        placement = place(choice, device, settings.training.precision)
    except InputError as error:
        what, _, usable = str(error).partition("; ")
        remedy = f"{usable}; or leave --device out" if what.startswith("--device") else usable
        yield Finding("problem", "device", what, remedy)
    yield machine.chip(placement.kind if placement else "cpu")
    if choice.name == "torch":
        yield machine.cores()
    if placement:
        yield from _computing(settings, choice, placement)
    yield machine.cgroup()
    yield from _the_model(settings, choice, placement, output)


def _computing(settings: Settings, choice: Choice, placement: Placed) -> Iterator[Finding]:
    for what, why in placement.choices:
        topic, _, chosen = what.partition(": ")
        yield Finding("ok", topic, f"{chosen}: {why}")
    quantised = settings.model.quantization == "nf4"
    if choice.name == "mlx":
        if quantised:
            yield mlx.four_bit(placement.kind, placement.dtype)
        yield mlx.metal()
    else:
        if quantised:
            yield engine.four_bit(placement.kind, placement.dtype, settings.model.double_quantization)
        yield from engine.kernels(placement.kind)
    yield machine.memory(placement.kind, settings.memory.budget_gb)


def _the_model(settings: Settings, choice: Choice, placement: Placed | None, output: Path) -> Iterator[Finding]:
    from huggingface_hub import constants

    from longrepo.sequences.cache import MOST_BYTES, cache_folder

    access = model.find_model(settings.model)
    yield access.finding
    if access.folder is not None:
        if (access.folder / "tokenizer.json").is_file() or not access.download:
            yield model.load_its_tokenizer(access.folder, settings.data.structure_tokens)
        there = settings.model.model_copy(update={"name": str(access.folder), "revision": None})
        settings = settings.model_copy(update={"model": there})
        if placement is not None:
            yield (job := model.fits(settings, choice.name, placement))
            if job.status == "ok":
                yield machine.disk("checkpoints", output, model.checkpoint_bytes(settings, choice.name))
    if access.download:
        yield machine.disk("the model", Path(constants.HF_HUB_CACHE), access.download)
    if (cache := cache_folder()) is not None:
        yield machine.disk("what was read", cache, MOST_BYTES, must=False)
