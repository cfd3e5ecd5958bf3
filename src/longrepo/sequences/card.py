"""The dataset card of an Arrow folder: what the Hugging Face hub shows of it, and what its reader must know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from longrepo.sequences.header import Header, RepositoryFacts
from longrepo.sequences.licence import hub_licence

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_KINDS = {
    "hierarchical": "files in the order of their imports, the target last",
    "commit_evolution": "a file as it was, then commits as messages and hunks",
    "qa": "snippets, a question and its answer",
    "window": "a window of the repository's text",
}


def dataset_card(header: Header) -> str:
    """README.md: the hub's YAML, then prose and tables. The same for the same header."""
    return "\n".join([*_front_matter(header), *_body(header)]) + "\n"


def _front_matter(header: Header) -> Iterator[str]:
    yield from (
        "---",
        f"pretty_name: {json.dumps(_title(header))}",
    )
    license, name = hub_licence(header.licence)
    yield from (f"license: {license}", *([f"license_name: {json.dumps(name)}"] if name else []))
    yield from ("language:", "- code", "task_categories:", "- text-generation", "size_categories:")
    yield f"- {next((name for most, name in _SIZES if header.rows < most), '1M<n<10M')}"
    yield from ("tags:", "- code", "- git", "- long-context", "- longrepo")
    yield from ("configs:", "- config_name: default", "  data_files:", "  - split: sequences", "    path: data-*.arrow")
    yield from ("---", "")


def _body(header: Header) -> Iterator[str]:
    yield f"# {_title(header)}\n"
    yield (
        f"{header.rows:,} token sequences for tuning a code model, made by longrepo (`{header.made_by}`, seed "
        f"{header.seed}) from the files and the git history below. The text is the repository's; questions and their "
        "answers are read from its code and history."
    )
    yield "\n## Where it comes from, and its licence\n"
    yield from table(
        ("repository", "revision", "licence", "weight"),
        [(one.name, f"`{one.head}`", one.licence or "none found", f"{one.weight:g}") for one in header.repositories],
    )
    yield f"\n{_licence_sentence(header.repositories)}"
    notes = [f"- {cell(note)}" for note in header.notes]
    yield from ["\n## Notes from the preparation\n", *notes] if notes else []
    yield "\n## Tokenizer\n"
    tokenizer = header.tokenizer
    yield (
        f"`{tokenizer.name}`, SHA-256 `{tokenizer.sha256}`, {tokenizer.vocabulary_size:,} ids, of which "
        f"{len(tokenizer.structure_tokens)} are structure tokens that were added. The ids mean nothing to another one."
    )
    yield "\n## What is in it\n"
    yield from _counts(header)
    yield "\n## Secrets and people\n"
    yield from _redactions(header.redactions)
    yield "\n## Held-out lines\n"
    yield from _held_out(header.repositories)
    yield "\n## How to open it\n"
    yield from ("```python", "from datasets import load_from_disk", "")
    yield from (
        'sequences = load_from_disk("FOLDER")  # this folder',
        'training = sequences.filter(lambda row: row["split"] == "train")',
        "```",
    )
    yield "\n## Loss weights\n"
    yield (
        "`loss_weights` has one number a token: how much its prediction from the tokens before it counts. 1 is a "
        "target, a number between 0 and 1 is context (a tenth, unless set otherwise), 0 is not scored. The first token "
        "of a sequence is always 0. In validation and test rows the scored tokens alone have 1. Sequences are not "
        "padded."
    )


def _licence_sentence(repositories: Sequence[RepositoryFacts]) -> str:
    text = (
        "This data is text of the repository and falls under the repository's licence, as read from the licence files "
        "at its root."
    )
    unknown = [one.name for one in repositories if not one.licence]
    if unknown:
        text += (
            f" For {cell(', '.join(unknown))} no licence was found: without one, nobody but its owners may pass "
            "this data on."
        )
    return text


def _counts(header: Header) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    met: set[str] = set()
    for split, phases in header.counts.items():
        for phase, cell in phases.items():
            kinds = cell.get("kinds", {})
            met.update(kinds)
            listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
            numbers = [f"{cell.get(name, 0):,}" for name in ("sequences", "tokens", "target_tokens")]
            rows.append((split, str(phase), *numbers, listed))
    yield from table(("split", "phase", "sequences", "tokens", "target tokens", "kinds"), rows)
    if header.bands:
        caps = "; ".join(f"phase {band['phase']}: up to {band['cap']:,} tokens" for band in header.bands)
        yield f"\nPhases are lengths: {caps}."
    yield from ["", *[f"- `{kind}`: {_KINDS.get(kind, 'made by hand')}" for kind in sorted(met)]] if met else []


def _redactions(redactions: dict[str, int]) -> Iterator[str]:
    if not redactions:
        yield "No replaced keys, passwords, addresses or names were recorded. Look before you pass the data on."
        return
    yield "Found by rules and replaced, history included. Rules miss things: look before you pass the data on.\n"
    yield from table(("kind", "replaced"), [(kind, f"{count:,}") for kind, count in redactions.items()])


def _held_out(repositories: Sequence[RepositoryFacts]) -> Iterator[str]:
    yield (
        "Splits follow the commits' ancestry, not their dates. Training is what one commit reaches, validation what "
        "the next reaches beyond it, test what comes after. In a validation or test row only lines are scored that "
        "such a commit (or a file held out whole) brought and that no training row holds, white space aside; "
        "`longrepo check-leaks` checks it.\n"
    )
    rows = []
    for one in repositories:
        files = ", ".join(f"{split} {len(paths):,}" for split, paths in one.held_out_files.items() if paths)
        rows.append((one.name, _commit(one.validation_from), _commit(one.test_from), files or "none"))
    yield from table(("repository", "training reaches", "validation reaches", "files held out whole"), rows)


def _commit(id: str | None) -> str:
    return f"`{id}`" if id else "–"


def _title(header: Header) -> str:
    return f"Training sequences of {header.name}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(cell, row))} |"


def cell(text: str) -> str:
    """Text as a table's cell holds it: one line, no bars."""
    return " ".join(text.replace("|", "\\|").split())
