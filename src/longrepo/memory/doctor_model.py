"""What of a base works here, for `longrepo doctor`: its license, tokens, architecture and LoRA targets.

Everything is read from its configuration and tokenizer; only the license comes from the table of known bases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.config.schema import Settings
from longrepo.engines.known_bases import USES, date_of_facts, known_bases
from longrepo.engines.lora_targets import check_lora_targets, experts_line, with_lora_targets
from longrepo.errors import InputError
from longrepo.memory.doctor_checks import DoctorFinding
from longrepo.utils.hub import PACKAGED_MODELS

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.engines.registry import EngineSelection


def check_license(name: str) -> DoctorFinding:
    """The license of a known base, and whether it lets the base be used at work."""
    packaged = PACKAGED_MODELS.get(name)
    base = known_bases().get(packaged.base if packaged else name)
    if base is None:
        what = "its own" if name == "embedded" else f"not known of {name}"
        remedy = "" if name == "embedded" else "read its model card before you use it at work"
        return DoctorFinding("note" if remedy else "ok", "license", what, remedy)
    what = f"{base.license}, use at work: {USES[base.use]} (as of {date_of_facts()})"
    return (
        DoctorFinding("ok", "license", what)
        if base.use == "free"
        else DoctorFinding("note", "license", what, f"read it at https://huggingface.co/{base.name}")
    )


def check_code(folder: Path) -> Iterator[DoctorFinding]:
    """Code of the base's own, which is never run."""
    with suppress(OSError, ValueError):
        if json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map"):
            what = "its config.json names code of its own (auto_map): never run; transformers' own class is used"
            yield DoctorFinding("note", "own code", what)


def check_dialect(tokenizer: RepoTokenizer) -> Iterator[DoctorFinding]:
    """The tokens in which the base was pretrained to fill gaps."""
    dialect = tokenizer.dialect
    if tokenizer.fim is None:
        what = "none among its tokens: no gaps are learned, and serve refuses a suffix"
        yield DoctorFinding("note", "FIM", what, "data.fim=add teaches it, with three added tokens")
    elif dialect.fim is None:
        yield DoctorFinding("ok", "FIM", "three added tokens (data.fim=add), prefix-suffix-middle")
    else:
        orders = " and ".join(order.value for order in dialect.fim.orders)
        yield DoctorFinding("ok", "FIM", f"{dialect.name}'s tokens, {orders}")


def check_architecture(settings: Settings, choice: EngineSelection) -> Iterator[DoctorFinding]:
    """Whether each engine computes it, whether in chunks, and what LoRA trains. `settings.model.name` is a folder or a
    known base."""
    from longrepo.engines.model_shape import read_config, read_shape
    from longrepo.memory.planner import MemoryPlanner

    try:
        config = read_config(settings.model.name, settings.model.revision, settings.context)
        shape = read_shape(config)
        settings = with_lora_targets(settings, shape.targets)
        check_lora_targets(settings, shape.lora)
        why_not = MemoryPlanner.of(settings, "cpu", "float32").estimator.chunked_unsupported_reason
    except (InputError, AttributeError) as error:
        what = str(error).splitlines()[0]
        yield DoctorFinding("problem", "LoRA" if what.startswith("lora.") else "torch", what)
        return
    kind = getattr(config, "model_type", "?")
    yield DoctorFinding("ok", "torch", f"{kind}, {(shape.linear + shape.other) / 1e9:.2f} B parameters")
    if why_not:
        yield DoctorFinding(
            "note", "chunks", f"only the plain step: {why_not}", "plan for more memory, or another base"
        )
    else:
        yield DoctorFinding("ok", "chunks", "torch trains it in chunks: long sequences in little memory")
    yield _check_mlx(config, choice)
    left = f"; {experts_line(shape.experts)}" if shape.experts else ""
    what = f"{', '.join(settings.lora.module_names)}{left}"
    yield DoctorFinding("note" if left else "ok", "LoRA", what)


def _check_mlx(config: object, choice: EngineSelection) -> DoctorFinding:
    from longrepo.engines.model_shape import read_shape

    if any(find_spec(name) is None for name in ("mlx", "mlx_lm")):
        return DoctorFinding("ok", "MLX", "not installed here")
    try:
        read_shape(config, "mlx")
    except InputError as error:
        what, _, remedy = str(error).partition(": ")[2].partition("; ")
        return DoctorFinding("problem" if choice.name == "mlx" else "note", "MLX", what, remedy)
    return DoctorFinding("ok", "MLX", "the MLX engine computes it")
