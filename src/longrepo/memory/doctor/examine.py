"""All checks, in the order a person reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.memory.doctor import engine, machine, model
from longrepo.memory.doctor.finding import Finding

if TYPE_CHECKING:
    from longrepo.engines.torch.device import Placement


def examine(settings: Settings, device: str, output: Path) -> Iterator[Finding]:
    """Look at this machine for a run with these settings on `auto`, `mps`, `cuda` or `cpu` into `output`."""
    libraries = list(engine.libraries())
    yield from libraries
    yield machine.git()
    if any(finding.status == "problem" for finding in libraries):
        return
    from longrepo.engines.torch.device import place

    placement: Placement | None = None
    try:
        placement = place(device, settings.training.precision)
    except InputError as error:
        what, _, usable = str(error).partition("; ")
        yield Finding("problem", "device", what, f"{usable}; or leave --device out")
    yield machine.chip(placement.device.type if placement else "cpu")
    yield machine.cores()
    if placement:
        yield from _computing(settings, placement)
    yield machine.cgroup()
    yield from _the_model(settings, placement, output)


def _computing(settings: Settings, placement: Placement) -> Iterator[Finding]:
    kind = placement.device.type
    for choice, why in placement.choices:
        topic, _, chosen = choice.partition(": ")
        yield Finding("ok", topic, f"{chosen}: {why}")
    if settings.model.quantization == "nf4":
        yield engine.four_bit(placement, settings.model.double_quantization)
    yield from engine.kernels(kind)
    yield machine.memory(kind, settings.memory.budget_gb)


def _the_model(settings: Settings, placement: Placement | None, output: Path) -> Iterator[Finding]:
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
            yield (job := model.fits(settings, placement))
            if job.status == "ok":
                yield machine.disk("checkpoints", output, model.checkpoint_bytes(settings))
    if access.download:
        yield machine.disk("the model", Path(constants.HF_HUB_CACHE), access.download)
    if (cache := cache_folder()) is not None:
        yield machine.disk("what was read", cache, MOST_BYTES, must=False)
