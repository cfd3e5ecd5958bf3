"""Write the model card: the README.md of every exported folder.

It holds the hub's metadata, how to load the model, its data, settings and versions, the evaluation of base against
tuned, the licences (the base's applies to whatever is made from it), and the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo import __version__
from longrepo.config.schema import Settings
from longrepo.data.licenses import combine_licenses, hub_license, is_known, license_label
from longrepo.data.metadata import Header, markdown_cell, markdown_table
from longrepo.engines.adapter_io import ADAPTER_CONFIG, read_adapter_config
from longrepo.errors import InputError
from longrepo.evaluation.results import Comparison, Evaluation, Figure
from longrepo.reports.run_record import RunRecord, read_run_record
from longrepo.training.artifact import TrainedArtifact
from longrepo.training.checkpoint import MANIFEST, read_snapshot
from longrepo.training.events import UpdateRecord
from longrepo.training.usage import adapter_code, has_new_rows
from longrepo.utils.files import write_text_file
from longrepo.utils.hub import PACKAGED_MODELS, is_hub_id, model_location

_FIGURE_COLUMNS = ("held-out lines", "base", "tuned", "difference", "95 % interval", "samples", "commits")
_SHOWN_MEASURES = (
    ("context", "loss"),
    ("gain", "gain"),
    ("completion", "exact"),
    ("completion", "edit"),
    ("short", "loss"),
)


def figures_section(evaluation: Evaluation | None) -> Iterator[str]:
    """Yield Markdown: the losses by length, then the most important measures at the longest length."""
    if evaluation is None or not (evaluation.comparisons or evaluation.figures):
        yield "Not measured: `longrepo evaluate RUN` compares base and tuned on the repository's held-out commits."
        return
    about = evaluation.about
    yield (
        f"Measured on the {about.get('split', 'held-out')} commits that training never saw, with the "
        f"{about.get('engine', '')} engine in {about.get('dtype', '')}, the base as it was trained on. Losses are nats "
        "a token. Intervals by bootstrap over commits, paired; with fewer than about ten commits they are too narrow.\n"
    )
    rows = [_comparison_row(one) for one in evaluation.comparisons]
    yield from markdown_table(_FIGURE_COLUMNS, [*rows, *(_figure_row(one) for one in _important_figures(evaluation))])
    yield from (f"\n{note}" for note in evaluation.notes)


def _important_figures(evaluation: Evaluation) -> Iterator[Figure]:
    for measure, metric in _SHOWN_MEASURES:
        found = evaluation.find(measure, metric)
        most = max((int(one.parts.get("length", 0)) for one in found), default=0)
        yield from (one for one in found if int(one.parts.get("length", 0)) == most)


def _comparison_row(row: Comparison) -> tuple[str, ...]:
    interval = f"{row.low:+.3f} to {row.high:+.3f}" if row.groups > 1 else "one commit: none"
    counts = f"{row.sequences:,}", f"{row.groups:,}"
    label = f"loss, sequences of up to {row.cap:,} tokens"
    return label, f"{row.base:.3f}", f"{row.tuned:.3f}", f"{row.difference:+.3f}", interval, *counts


def _figure_row(one: Figure) -> tuple[str, ...]:
    parts = ", ".join(f"{name.replace('_', ' ')} {value}".replace("_", " ") for name, value in one.parts.items())
    change = one.difference
    interval = f"{change.low:+.3f} to {change.high:+.3f}" if one.groups > 1 else "one commit: none"
    values = f"{one.base.value:.3f}", f"{one.tuned.value:.3f}", f"{change.value:+.3f}"
    return f"{one.measure} {one.metric}: {parts}", *values, interval, f"{one.samples:,}", f"{one.groups:,}"


_QUANTIZATION_LABELS = {"nf4": "4 bits (NF4)", "none": "not quantised"}


def training_section(source: TrainedArtifact, run: RunRecord | None) -> Iterator[str]:
    """Yield Markdown: the training method, hyperparameters and versions."""
    rows = [("method", "all weights")] if source.whole else _adapter_lines(source)
    if run is None:
        yield from markdown_table(("", ""), rows)
        yield f"\nThe run isn't known{'' if source.whole else f': this is from {ADAPTER_CONFIG}'}."
        return
    yield from markdown_table(("", ""), [*rows, *_run_lines(source, run)])


def _adapter_lines(source: TrainedArtifact) -> list[tuple[str, str]]:
    adapter = read_adapter_config(source.adapter)
    lora = f"r {adapter.get('r')}, alpha {adapter.get('lora_alpha'):g}, dropout {adapter.get('lora_dropout'):g}"
    modules = adapter.get("target_modules") or ()
    rows = [("method", "LoRA"), ("LoRA", f"{lora}, on {', '.join(sorted(modules))}")]
    if marks := adapter.get("trainable_token_indices"):
        rows.append(("trained tokens", f"{len(marks)} added tokens, rows of their own in the embedding"))
    elif source.settings.data.structure_tokens == "native":
        rows.append(("marks", "the base's own tokens, as it was pretrained: LoRA alone, no rows of added tokens"))
    return rows


def _trained_updates(source: TrainedArtifact, run: RunRecord) -> list[UpdateRecord]:
    """Return the updates that made these weights: those up to the checkpoint they are from."""
    last: int | None = None
    if (source.adapter.parent / MANIFEST).is_file():
        last = read_snapshot(source.adapter.parent).state.update
    elif run.snapshot is not None and (best := run.snapshot.state.best) is not None:
        last = next((one.update for one in run.history.epochs if one.epoch == best.epoch), None)
    return [one for one in run.history.updates if last is None or one.update <= last]


def _longest_trained(source: TrainedArtifact, run: RunRecord) -> int:
    """Return how many tokens the longest sequences had that these weights were trained on; 0 if none is known."""
    caps = {phase.phase: phase.max_length for phase in run.history.phases}
    cut = run.snapshot.state.memory.max_length if run.snapshot is not None else None
    cut_from = min((one.update for one in run.history.steps_down if one.changes == "cut"), default=None)
    lengths = [0]
    for update in _trained_updates(source, run):
        cap = caps.get(update.phase, 0)
        is_cut = cut is not None and cut_from is not None and update.update >= cut_from
        lengths.append(min(cap, cut) if is_cut and cut is not None else cap)
    return max(lengths)


def _run_lines(source: TrainedArtifact, run: RunRecord) -> Iterator[tuple[str, str]]:
    settings, history = run.settings, run.history
    trained = {update.phase for update in _trained_updates(source, run)}
    batch = settings.training.batch_size_reference * settings.training.gradient_accumulation_steps
    yield "base while training", _QUANTIZATION_LABELS.get(settings.model.quantization, settings.model.quantization)
    for phase in history.phases:
        yield (
            f"phase {phase.phase}",
            f"sequences of {phase.longer_than + 1:,}–{phase.max_length:,} tokens, epochs {phase.first_epoch}–"
            f"{phase.last_epoch}, learning rate {phase.learning_rate:.2e}"
            + ("" if phase.phase in trained else "; these weights are from before it"),
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


_LICENSE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "LICENSE-sources.md")
_OPEN_RAIL_LINK = "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement"
_LICENSE_LINKS = {"bigcode-openrail-m": _OPEN_RAIL_LINK}
_FAMILY_LICENSES = {"bigcode/starcoder2": "bigcode-openrail-m"}  # if the base's card isn't available


@dataclass(frozen=True)
class BaseLicense:
    """The licence of a base: `name` as the hub spells it (`apache-2.0`) or the base's own; empty if unknown."""

    name: str
    link: str = ""

    @property
    def restricts_use(self) -> bool:
        """Whether it is a responsible AI licence, whose restrictions every copy must pass on."""
        return "rail" in self.name.lower()


def find_base_license(name: str, where: str, revision: str | None) -> BaseLicense:
    """Read the licence from the base's card at `where`, a folder or a hub id, or guess it from the family's name."""
    facts: Any = {}
    if card := _find_file(where, "README.md", revision):
        from huggingface_hub import metadata_load

        facts = metadata_load(card) or {}
    known = str(facts.get("license") or "")
    if known == "other":
        known = str(facts.get("license_name") or "")
    known = known or next((licence for family, licence in _FAMILY_LICENSES.items() if name.startswith(family)), "")
    return BaseLicense(known, str(facts.get("license_link") or _LICENSE_LINKS.get(known, "")))


def find_license_files(where: str, revision: str | None) -> Iterator[Path]:
    """Yield the base's licence files, which go with every copy."""
    for name in _LICENSE_FILES:
        if file := _find_file(where, name, revision):
            yield file


def _find_file(where: str, name: str, revision: str | None) -> Path | None:
    """Return the file, or None if there is none or the hub can't be reached."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        where,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None


CARD_FILE = "README.md"
_EMBEDDED_LABEL = "longrepo's embedded model"
_RELATIONS = {"peft": "adapter", "mlx": "adapter", "transformers": "finetune", "gguf": "quantized"}
_FULL_FINETUNE_RELATIONS = {**_RELATIONS, "mlx": "finetune"}


_PEFT_USAGE = """From the folder that holds this one, load {shown}, then the adapter.{room}

```python
{code}
```"""


_ROOM = """ The embedding needs room for the
tokens that the tokenizer in this folder has more than the base's:"""


@dataclass(frozen=True)
class CardUse:
    """How a folder is used: the hub's name of the library, what the folder holds, how to load it (Markdown), and the
    notes that were printed."""

    library: str
    holds: str
    how: str
    notes: Sequence[str] = ()


def write_card(folder: Path, source: TrainedArtifact, use: CardUse) -> None:
    """Write README.md into an existing folder, replacing any that is there."""
    write_text_file(folder / CARD_FILE, make_model_card(source, use))


def make_model_card(source: TrainedArtifact, use: CardUse) -> str:
    """Return the hub's YAML, then prose and tables. Without a run (a foreign adapter) it says what isn't known."""
    run = _read_run_of(source)
    data = run.data if run else None
    model = source.settings.model
    licence = find_base_license(model.name, model_location(model.name), model.revision)
    body = [
        f"# {base_label(model.name)} tuned on {data.name if data else 'source code'}\n",
        f"{use.holds} Made by longrepo {__version__} from `{base_label(model.name)}`"
        + (f", revision `{model.revision}`." if model.revision else "."),
        *(f"\n{note[:1].upper()}{note[1:]}." for note in (*source.notes, *use.notes)),
        "\n## How to use it\n",
        use.how,
        "\n## What it was trained on\n",
        *_data_section(source, run, data),
        "\n## How it was trained\n",
        *training_section(source, run),
        "\n## Results\n",
        *figures_section(run.evaluation if run else None),
        "\n## Licences\n",
        *_license_section(source, licence, data),
        "\n## Limits\n",
        *_limits_section(source, run),
    ]
    return _front_matter(source, use, licence, data) + "\n".join(body) + "\n"


def base_label(name: str) -> str:
    """Return the base's name for a card: of a local folder or file the last part only, not its path."""
    if name == "embedded":
        return _EMBEDDED_LABEL
    if (packaged := PACKAGED_MODELS.get(name)) is not None:
        return f"{packaged.file} of {packaged.requirement}"
    return name if is_hub_id(name) else Path(name).name


def peft_usage(folder: str, settings: Settings) -> str:
    """Return how to load an adapter in a folder of that name, for `CardUse.how`. It shows no path of this machine."""
    code, room = adapter_code(folder, settings, show_path=False), _ROOM if has_new_rows(settings) else ""
    return _PEFT_USAGE.format(code=code, shown=base_label(settings.model.name), room=room)


def _read_run_of(source: TrainedArtifact) -> RunRecord | None:
    if source.run is None:
        return None
    try:
        return read_run_record(source.run)
    except InputError:  # written by another version; the adapter is complete anyway
        return None


def _front_matter(source: TrainedArtifact, use: CardUse, licence: BaseLicense, data: Header | None) -> str:
    from huggingface_hub import ModelCardData

    license, name = hub_license(
        combine_licenses([licence.name, *(one.licence for one in data.repositories)] if data else [""])
    )
    base = source.settings.model.name
    on_hub = is_hub_id(base)
    relations = _FULL_FINETUNE_RELATIONS if source.whole else _RELATIONS
    facts = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation=relations[use.library] if on_hub else None,
        language="code",
        library_name=use.library,
        license=license,
        license_name=name,
        license_link=(licence.link or None) if name else None,
        pipeline_tag="text-generation",
        tags=["code", *(() if source.whole else ("lora",)), "long-context", "longrepo"],
    )
    return f"---\n{facts.to_yaml()}\n---\n\n"


def _data_section(source: TrainedArtifact, run: RunRecord | None, data: Header | None) -> Iterator[str]:
    if run is None or data is None:
        why = run.missing["data"] if run else "The adapter doesn't say."
        yield f"Unknown. {why.partition(':')[0].rstrip('.')}."
        return
    yield from markdown_table(
        ("repository", "revision", "training reaches", "licence", "weight"),
        [
            (
                one.name,
                f"`{one.head}`",
                f"`{one.validation_from or one.head}`",
                license_label(one.licence),
                str(one.weight),
            )
            for one in data.repositories
        ],
    )
    yield ""
    rows = []
    for phase, counts in data.counts.get("train", {}).items():
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.get("kinds", {}).items())
        rows.append((str(phase), *(f"{counts.get(name, 0):,}" for name in ("sequences", "tokens")), kinds))
    yield from markdown_table(("phase", "sequences prepared", "tokens", "kinds"), rows)
    updates = _trained_updates(source, run)
    tokens = sum(update.tokens for update in updates)
    yield (
        f"\nOf these, {tokens:,} tokens were trained on in {len(updates):,} updates, repeated "
        f"ones counted each time. The sequences' SHA-256 is `{data.content_sha256}`. They were made from the files and "
        "the git history up to the commit named; later commits are held out."
    )
    replaced = sum(data.redactions.values())
    yield f"\n{replaced:,} secrets and personal details were found by rules and replaced. Rules miss things."


def _license_section(source: TrainedArtifact, licence: BaseLicense, data: Header | None) -> Iterator[str]:
    base = base_label(source.settings.model.name)
    named = f"[{licence.name}]({licence.link})" if licence.link else licence.name
    rows = [(f"the base, {base}", named or "unknown: check it before you pass this on")]
    rows += [(f"text of {one.name}", license_label(one.licence)) for one in data.repositories] if data else []
    yield from markdown_table(("what", "licence"), rows)
    yield "\nThis model is derived from the base and stays under its licence. It can repeat text it was trained on."
    if licence.restricts_use:
        yield (
            f"\n{licence.name} restricts what the model may be used for. The restrictions apply to "
            "everything derived from it, this model included: whoever passes it on, or offers it as a service, must "
            "pass them on in enforceable terms, with a copy of the licence and a note that the weights were changed."
        )
    if data and (unknown := [one.name for one in data.repositories if not is_known(one.licence)]):
        yield (
            f"\nFor {markdown_cell(', '.join(unknown))} no licence was found or recognized: keep this model where the "
            "repository is kept, unless its owners agree."
        )


def _limits_section(source: TrainedArtifact, run: RunRecord | None) -> Iterator[str]:
    yield "- It completes code and fills in the middle; it follows no instructions."
    yield "- Its output can be wrong, insecure or a verbatim copy of somebody's text: review it before you use it."
    yield "- It knows its repository as of the commit above; whoever has the model has much of its text."
    if run and (longest := _longest_trained(source, run)):
        prepared = max((band["cap"] for band in run.data.bands), default=0) if run.data else 0
        more = f" (of the prepared ones, up to {prepared:,})" if prepared > longest else ""
        yield f"- It was trained on sequences of up to {longest:,} tokens{more}; it never saw longer ones."
    if source.settings.model.name == "embedded":
        yield "- Its base has 5 M parameters and is for trying things out: its code isn't usable."
