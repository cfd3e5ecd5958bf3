"""The settings and versions of a run, as its model card tells them."""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.engines.peft_names import CONFIG
from longrepo.export.source import Source, read_adapter_config
from longrepo.reports.html.run import Run
from longrepo.sequences.card import table

_QUANTISED = {"nf4": "4 bits (NF4)", "none": "not quantised"}


def training(source: Source, run: Run | None) -> Iterator[str]:
    """Lines of Markdown."""
    rows = [("method", "all weights")] if source.whole else _of_adapter(source)
    if run is None:
        yield from table(("", ""), rows)
        yield f"\nNo run is known{'' if source.whole else f': this is what {CONFIG} says'}."
        return
    yield from table(("", ""), [*rows, *_of_run(run)])


def _of_adapter(source: Source) -> list[tuple[str, str]]:
    adapter = read_adapter_config(source.adapter)
    lora = f"r {adapter.get('r')}, alpha {adapter.get('lora_alpha'):g}, dropout {adapter.get('lora_dropout'):g}"
    modules = adapter.get("target_modules") or ()
    rows = [("method", "LoRA"), ("LoRA", f"{lora}, on {', '.join(sorted(modules))}")]
    if marks := adapter.get("trainable_token_indices"):
        rows.append(("trained tokens", f"{len(marks)} structure tokens, rows of their own in the embedding"))
    return rows


def _of_run(run: Run) -> Iterator[tuple[str, str]]:
    settings, history = run.settings, run.history
    batch = settings.training.batch_size_reference * settings.training.gradient_accumulation_steps
    yield "base while training", _QUANTISED.get(settings.model.quantization, settings.model.quantization)
    for phase in history.phases:
        yield (
            f"phase {phase.phase}",
            f"sequences of {phase.longer_than + 1:,}–{phase.max_length:,} tokens, epochs {phase.first_epoch}–"
            f"{phase.last_epoch}, learning rate {phase.learning_rate:.2e}",
        )
    yield "batch", f"{batch} sequences an update"
    yield "seed", str(settings.training.seed)
    if run.snapshot is not None:
        best = run.snapshot.state.best
        if best is not None:
            yield "validation loss", f"{best.loss:.4f} nats a token, checkpoint {best.checkpoint} (the lowest)"
        names = ", ".join(f"{name} {version}" for name, version in run.snapshot.identity.versions.items())
        yield "engine", f"{run.snapshot.identity.engine}: {names}"
    if not run.finished:
        yield "state", "the run was not finished when this was exported"
