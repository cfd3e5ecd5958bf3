"""The header of a file of sequences, and its dataset card.

The header holds enough to refuse a file that doesn't fit a model. The dataset card is what the Hugging Face hub shows
of an Arrow folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from longrepo.config.schema import FimSetting
from longrepo.data.dialects import ADDED_FIM
from longrepo.data.licenses import combine_licenses, hub_license, is_known, license_label
from longrepo.data.marks import MarksKind
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.errors import InputError

FORMAT_VERSION = 2
PREPARATION_VERSION = 4  # how `prepare` lays texts out; sequences that don't record it were laid out as 1


@dataclass
class TokenizerFacts:
    """The tokenizer of the ids, and the kind of marks they were written with. `structure_tokens` is name → id,
    `initial_from` new id → the id it is initialised from. Files written before `marks` existed have none of them.
    `begins`: whether each sequence begins with the base's begin token."""

    name: str
    sha256: str
    vocabulary_size: int
    structure_tokens: dict[str, int] = field(default_factory=dict)
    initial_from: dict[int, int] = field(default_factory=dict)
    marks: MarksKind | None = None
    marked_by: str = ""  # the kind and its tokens, to be read
    begins: bool = False

    @property
    def kind(self) -> MarksKind:
        """The kind of marks."""
        return self.marks or ("added" if self.structure_tokens else "none")

    @property
    def fim(self) -> FimSetting:
        """The value of `data.fim` that gives its tokens."""
        return "add" if ADDED_FIM.prefix in self.structure_tokens else "auto"

    @staticmethod
    def of(tokenizer: RepoTokenizer) -> TokenizerFacts:
        """Return the facts of a loaded tokenizer."""
        return TokenizerFacts(
            tokenizer.name,
            tokenizer.sha256,
            tokenizer.vocabulary_size,
            dict(tokenizer.structure_ids),
            dict(tokenizer.initial_from),
            tokenizer.kind,
            str(tokenizer.marks),
            tokenizer.begin_id is not None,
        )


@dataclass
class RepositoryFacts:
    """A repository: HEAD and where validation and test begin (full commit ids), and notes from the preparation.

    `licence` is an SPDX expression with `other` for what wasn't recognized, or empty if there is none; `weight` is its
    share among repositories.
    """

    name: str
    head: str
    validation_from: str | None = None  # training is what this commit reaches; validation comes after it
    test_from: str | None = None  # validation is what this commit reaches beyond that; test comes after it
    held_out_files: dict[str, list[str]] = field(default_factory=dict)  # split -> paths
    notes: list[str] = field(default_factory=list)
    licence: str = ""
    licences: dict[str, str] = field(default_factory=dict)  # folder or file -> SPDX expression, or `other`
    weight: float = 1.0


@dataclass
class Header:
    """The header of a file of sequences. `write_sequences` fills in `rows` and `content_sha256`.

    `counts`: split → phase → {sequences, tokens, target_tokens, kinds, difficulties, languages}.
    `accounts`: phase → {tokenized, used, dropped: {reason: tokens}, context, structure}, in tokens.
    `thresholds`: phase → the difficulty scores at 25, 50, 75 % of its training sequences.
    `redactions`: kind of secret or personal data → how many were replaced.
    `preparation`: PREPARATION_VERSION when they were made.
    """

    tokenizer: TokenizerFacts
    repositories: list[RepositoryFacts]
    settings: str = ""  # hash of the settings that decide the content
    made_by: str = "prepare"
    seed: int = 0
    bands: list[dict[str, int]] = field(default_factory=list)  # phase, floor, low, cap
    counts: dict[str, Any] = field(default_factory=dict)
    accounts: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, list[float]] = field(default_factory=dict)
    redactions: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    content_sha256: str = ""
    format_version: int = FORMAT_VERSION
    preparation: int = 1

    @property
    def name(self) -> str:
        """The repositories' names, for display."""
        return ", ".join(one.name for one in self.repositories)

    @property
    def licence(self) -> str:
        """The repositories' licences as one SPDX expression; empty if one of them has none."""
        return combine_licenses(one.licence for one in self.repositories)

    @property
    def notes(self) -> list[str]:
        """The notes on all repositories, with the repository's name if there are several."""
        several = len(self.repositories) > 1
        return [f"{one.name}: {note}" if several else note for one in self.repositories for note in one.notes]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form (keys of `initial_from` become text)."""
        tree = asdict(self)
        tree["tokenizer"]["initial_from"] = {str(new): old for new, old in self.tokenizer.initial_from.items()}
        return tree

    @staticmethod
    def from_dict(tree: Any, where: str) -> Header:
        """Read back what `as_dict` returned. Raises InputError naming `where` for another version or broken header."""
        if not isinstance(tree, dict) or "format_version" not in tree:
            raise InputError(f"{where}: no sequences header; make the file again with longrepo prepare")
        if tree["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{where}: sequences of format {tree['format_version']}, this version reads {FORMAT_VERSION}; "
                "make the sequences again with longrepo prepare"
            )
        known = {one.name for one in fields(Header)}
        try:
            tokenizer = dict(tree["tokenizer"])
            tokenizer["initial_from"] = {int(new): int(old) for new, old in tokenizer["initial_from"].items()}
            rest = {key: value for key, value in tree.items() if key in known - {"tokenizer", "repositories"}}
            repositories = [RepositoryFacts(**one) for one in tree["repositories"]]
            return Header(TokenizerFacts(**tokenizer), repositories, **rest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: its header is damaged ({error!r}); make the file again") from None


PLAIN_CHUNKS = "prepare, plain chunks"


def check_recipe(header: Header, recipe: str) -> None:
    """Raise InputError if the sequences are plain chunks and `data.recipe` is another: its phases would lack theirs."""
    if header.made_by == PLAIN_CHUNKS and recipe != "plain":
        raise InputError(
            f"the sequences are plain chunks, which have one phase, and data.recipe={recipe} has several: set "
            "data.recipe=plain, or prepare them again"
        )


def check_tokenizer(header: Header, tokenizer: RepoTokenizer) -> None:
    """Raise InputError if the sequences were made with a tokenizer other than `tokenizer`, or with other marks; make
    it begin texts as the sequences do."""
    made = header.tokenizer
    if made.kind != tokenizer.kind and (made.name == tokenizer.name or made.sha256 == tokenizer.sha256):
        raise InputError(
            f"the sequences are written with data.structure_tokens={made.kind}, and this uses {tokenizer.kind}: "
            f"prepare them again, or for a new run set data.structure_tokens={made.kind}"
        )
    if (made.fim == "add") != tokenizer.fim_added:
        used = "add" if tokenizer.fim_added else "auto"
        raise InputError(
            f"the sequences are written with data.fim={made.fim}, and this uses {used}: prepare them again, or for a "
            f"new run set data.fim={made.fim}"
        )
    if not tokenizer.has_hash(made.sha256):
        raise InputError(
            f"the sequences were made with the tokenizer of {made.name} (sha256 {made.sha256[:12]}), the model has "
            f"that of {tokenizer.name} ({tokenizer.sha256[:12]}); prepare them again with --model {tokenizer.name}"
        )
    _begin_as(made, tokenizer)


def _begin_as(made: TokenizerFacts, tokenizer: RepoTokenizer) -> None:
    if not made.begins:  # files written before there was a begin token in them
        tokenizer.begin_id = None


def tokenizer_of(header: Header, model: str | None = None) -> RepoTokenizer:
    """Return the tokenizer that the sequences were made with, from `model` or from the model that the header names.

    Raises InputError if it isn't available, or is a different one.
    """
    made = header.tokenizer
    tokenizer = load_tokenizer(model or made.name, None, made.kind, made.fim)
    if not tokenizer.has_hash(made.sha256):
        raise InputError(
            f"--model {tokenizer.name}: its tokenizer (sha256 {tokenizer.sha256[:12]}) is not the one that the "
            f"sequences were made with ({made.name}, {made.sha256[:12]}); give the model they were made with"
        )
    _begin_as(made, tokenizer)
    return tokenizer


_SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_KIND_DESCRIPTIONS = {
    "hierarchical": "files in the order of their imports, the target last",
    "commit_evolution": "a file as it was, then commits as messages and hunks",
    "qa": "snippets, a question and its answer",
    "window": "a window of the repository's text",
}


_MARK_DESCRIPTIONS: dict[MarksKind, str] = {
    "added": "by the added tokens.",
    "native": "as the base was pretrained: by its own tokens, and by text where it has none.",
    "none": "by the names of longrepo's structure tokens, as text.",
}


def dataset_card(header: Header) -> str:
    """Return README.md: the hub's YAML, then prose and tables. Equal headers give equal cards."""
    return "\n".join([*_front_matter(header), *_body(header)]) + "\n"


def _front_matter(header: Header) -> Iterator[str]:
    yield from (
        "---",
        f"pretty_name: {json.dumps(_title(header))}",
    )
    license, name = hub_license(header.licence)
    yield from (f"license: {license}", *([f"license_name: {json.dumps(name)}"] if name else []))
    yield from ("language:", "- code", "task_categories:", "- text-generation", "size_categories:")
    yield f"- {next((name for most, name in _SIZE_CATEGORIES if header.rows < most), '1M<n<10M')}"
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
    yield from markdown_table(
        ("repository", "revision", "licence", "weight"),
        [(one.name, f"`{one.head}`", license_label(one.licence), f"{one.weight:g}") for one in header.repositories],
    )
    yield f"\n{_license_sentence(header.repositories)}"
    if places := [
        (one.name, f"`{place}`", license_label(licence))
        for one in header.repositories
        for place, licence in one.licences.items()
        if len(one.licences) > 1
    ]:
        yield ""
        yield from markdown_table(("repository", "folder or file", "licence"), places)
    notes = [f"- {markdown_cell(note)}" for note in header.notes]
    yield from ["\n## Notes from the preparation\n", *notes] if notes else []
    yield "\n## Tokenizer\n"
    tokenizer = header.tokenizer
    yield (
        f"`{tokenizer.name}`, SHA-256 `{tokenizer.sha256}`, {tokenizer.vocabulary_size:,} ids, of which "
        f"{len(tokenizer.structure_tokens)} are added structure tokens. The ids mean nothing to another tokenizer."
    )
    yield f"\nFiles, changes and snippets are marked {_MARK_DESCRIPTIONS[tokenizer.kind]}"
    yield "\n## Contents\n"
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


def _license_sentence(repositories: Sequence[RepositoryFacts]) -> str:
    text = (
        "This data is text of the repository and falls under the repository's licences, as its licence files, SPDX "
        "identifiers, REUSE.toml and manifests state them. A text counts as a licence only if it is that licence from "
        "the first word to the last."
    )
    unknown = [one.name for one in repositories if not one.licence]
    unrecognized = [one.name for one in repositories if one.licence and not is_known(one.licence)]
    if unrecognized:
        text += f" For {markdown_cell(', '.join(unrecognized))} not every licence was recognized: read it first."
    if unknown:
        text += (
            f" For {markdown_cell(', '.join(unknown))} no licence was found: without one, nobody but its owners may "
            f"pass "
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
    yield from markdown_table(("split", "phase", "sequences", "tokens", "target tokens", "kinds"), rows)
    if header.bands:
        caps = "; ".join(f"phase {band['phase']}: up to {band['cap']:,} tokens" for band in header.bands)
        yield f"\nPhases are lengths: {caps}."
    yield from (
        ["", *[f"- `{kind}`: {_KIND_DESCRIPTIONS.get(kind, 'made by hand')}" for kind in sorted(met)]] if met else []
    )


def _redactions(redactions: dict[str, int]) -> Iterator[str]:
    if not redactions:
        yield "No replaced keys, passwords, addresses or names were recorded. Check before you pass the data on."
        return
    yield (
        "Found by rules and replaced, history included; names in paths too, but not in the column `files` and in "
        "lists of held-out files. Rules miss things: check before you pass the data on.\n"
    )
    yield from markdown_table(("kind", "replaced"), [(kind, f"{count:,}") for kind, count in redactions.items()])


def _held_out(repositories: Sequence[RepositoryFacts]) -> Iterator[str]:
    yield (
        "Splits follow the commits' ancestry, not their dates. Training is what one commit reaches, validation what "
        "the next reaches beyond it, test what comes after. A validation or test row scores only lines that such a "
        "commit (or a file held out whole) added and that no training row holds, white space ignored; "
        "`longrepo check-leaks` checks it.\n"
    )
    rows = []
    for one in repositories:
        files = ", ".join(f"{split} {len(paths):,}" for split, paths in one.held_out_files.items() if paths)
        rows.append((one.name, _short_id(one.validation_from), _short_id(one.test_from), files or "none"))
    yield from markdown_table(("repository", "training reaches", "validation reaches", "files held out whole"), rows)


def _short_id(id: str | None) -> str:
    return f"`{id}`" if id else "–"


def _title(header: Header) -> str:
    return f"Training sequences of {header.name}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(markdown_cell, row))} |"


def markdown_cell(text: str) -> str:
    """Return text for a table cell: one line, bars escaped."""
    return " ".join(text.replace("|", "\\|").split())
