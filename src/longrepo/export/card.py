"""The model card, README.md of every exported folder: what the hub shows of it, and what its user must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrepo import __version__
from longrepo.config.files import write_text
from longrepo.config.model_source import model_location
from longrepo.errors import InputError
from longrepo.export.base_licence import BaseLicence, base_licence
from longrepo.export.card_figures import figures
from longrepo.export.card_training import training
from longrepo.export.source import Source
from longrepo.reports.html.run import Run, read_run
from longrepo.sequences.card import cell, table
from longrepo.sequences.header import Header
from longrepo.sequences.licence import all_of, hub_licence

CARD = "README.md"
_EMBEDDED = "longrepo's embedded model"
_RELATIONS = {"peft": "adapter", "mlx": "adapter", "transformers": "finetune", "gguf": "quantized"}
_WHOLE_RELATIONS = {**_RELATIONS, "mlx": "finetune"}


@dataclass(frozen=True)
class Use:
    """What a folder is for: the library's name as the hub knows it, what the folder holds, how it is loaded (Markdown),
    and what else was told in the terminal."""

    library: str
    holds: str
    how: str
    notes: Sequence[str] = ()


def write_card(folder: Path, source: Source, use: Use) -> None:
    """Write README.md into an existing folder, over one that is there."""
    write_text(folder / CARD, model_card(source, use))


def model_card(source: Source, use: Use) -> str:
    """The hub's YAML, then prose and tables. Without a run (an adapter from elsewhere) it says what isn't known."""
    run = _run_of(source)
    data = run.data if run else None
    model = source.settings.model
    licence = base_licence(model.name, model_location(model.name), model.revision)
    body = [
        f"# {shown_base(model.name)} tuned on {data.name if data else 'source code'}\n",
        f"{use.holds} Made by longrepo {__version__} from `{shown_base(model.name)}`"
        + (f", revision `{model.revision}`." if model.revision else "."),
        *(f"\n{note[:1].upper()}{note[1:]}." for note in (*source.notes, *use.notes)),
        "\n## How to use it\n",
        use.how,
        "\n## What it was trained on\n",
        *_data(run, data),
        "\n## How it was trained\n",
        *training(source, run),
        "\n## What that bought\n",
        *figures(run.evaluation if run else None),
        "\n## Licences\n",
        *_licences(source, licence, data),
        "\n## Limits\n",
        *_limits(source, data),
    ]
    return _front_matter(source, use, licence, data) + "\n".join(body) + "\n"


def shown_base(name: str) -> str:
    """A base as a card names it: a folder by its last part, not by where it lies on this machine."""
    if name == "embedded":
        return _EMBEDDED
    return Path(name).name if Path(name).expanduser().is_dir() else name


def _run_of(source: Source) -> Run | None:
    if source.run is None:
        return None
    try:
        return read_run(source.run)
    except InputError:  # of another version: the adapter is whole all the same
        return None


def _front_matter(source: Source, use: Use, licence: BaseLicence, data: Header | None) -> str:
    from huggingface_hub import ModelCardData

    license, name = hub_licence(all_of([licence.name, *(one.licence for one in data.repositories)] if data else [""]))
    base = source.settings.model.name
    on_hub = shown_base(base) == base
    relations = _WHOLE_RELATIONS if source.whole else _RELATIONS
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


def _data(run: Run | None, data: Header | None) -> Iterator[str]:
    if run is None or data is None:
        why = run.missing["data"] if run else "The adapter doesn't say."
        yield f"Not known here. {why.partition(':')[0].rstrip('.')}."
        return
    yield from table(
        ("repository", "revision", "training reaches", "licence", "weight"),
        [
            (
                one.name,
                f"`{one.head}`",
                f"`{one.validation_from or one.head}`",
                one.licence or "none found",
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
    yield from table(("phase", "sequences prepared", "tokens", "kinds"), rows)
    yield (
        f"\nOf these, {run.history.tokens:,} tokens were trained on in {len(run.history.updates):,} updates, repeated "
        f"ones counted each time. The sequences' SHA-256 is `{data.content_sha256}`. They were made from the files and "
        "the git history up to the commit named; later commits are held out."
    )
    replaced = sum(data.redactions.values())
    yield f"\n{replaced:,} secrets and personal details were found by rules and replaced. Rules miss things."


def _licences(source: Source, licence: BaseLicence, data: Header | None) -> Iterator[str]:
    base = shown_base(source.settings.model.name)
    named = f"[{licence.name}]({licence.link})" if licence.link else licence.name
    rows = [(f"the base, {base}", named or "not known: look before you pass this on")]
    rows += [(f"text of {one.name}", one.licence or "none found") for one in data.repositories] if data else []
    yield from table(("what", "licence"), rows)
    yield "\nThis model is made of the base and stays under the base's licence. It can repeat text it was trained on."
    if licence.restricts_use:
        yield (
            f"\n{licence.name} restricts what the model may be used for. The restrictions hold for whatever is made of "
            "it, this one too: whoever passes it on, or offers it as a service, passes them on in enforceable terms, "
            "with a copy of the licence and a note that the weights were changed."
        )
    if data and (unknown := [one.name for one in data.repositories if not one.licence]):
        yield (
            f"\nFor {cell(', '.join(unknown))} no licence was found: keep this model where the repository is kept, "
            "unless its owners agree."
        )


def _limits(source: Source, data: Header | None) -> Iterator[str]:
    yield "- It completes code and fills in the middle; it follows no instructions."
    yield "- What it writes can be wrong, insecure or somebody's text word by word: read it before you use it."
    yield "- It knows its repository as it was at the commit above; whoever has the model has much of its text."
    if data and data.bands:
        cap = max(band["cap"] for band in data.bands)
        yield f"- It was trained on sequences of up to {cap:,} tokens; beyond them nothing was measured."
    if source.settings.model.name == "embedded":
        yield "- Its base has 5 M parameters and is for trying things out: it writes no code that anyone would use."
