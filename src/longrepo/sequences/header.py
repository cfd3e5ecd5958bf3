"""What stands at the head of a file of sequences: enough to refuse it where it doesn't belong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from longrepo.errors import InputError
from longrepo.sequences.licence import all_of
from longrepo.sequences.tokenizer import RepoTokenizer, load_tokenizer

FORMAT_VERSION = 2


@dataclass
class TokenizerFacts:
    """Which tokenizer the ids are of. `structure_tokens` is name → id, `initial_from` new id → id it starts from."""

    name: str
    sha256: str
    vocabulary_size: int
    structure_tokens: dict[str, int] = field(default_factory=dict)
    initial_from: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(tokenizer: RepoTokenizer) -> TokenizerFacts:
        """Of a loaded tokenizer."""
        return TokenizerFacts(
            tokenizer.name,
            tokenizer.sha256,
            tokenizer.vocabulary_size,
            dict(tokenizer.structure_ids),
            dict(tokenizer.initial_from),
        )


@dataclass
class RepositoryFacts:
    """Which repository: HEAD and where validation and test begin (full commit ids), and what was noted on the way.

    `licence` is an SPDX expression, or empty where none was recognised; `weight` its share beside other repositories.
    """

    name: str
    head: str
    validation_from: str | None = None  # training is what this commit reaches; validation comes after it
    test_from: str | None = None  # validation is what this commit reaches beyond that; test comes after it
    held_out_files: dict[str, list[str]] = field(default_factory=dict)  # split -> paths
    notes: list[str] = field(default_factory=list)
    licence: str = ""
    weight: float = 1.0


@dataclass
class Header:
    """The head of a file of sequences. `write_sequences` fills `rows` and `content_sha256`.

    `counts`: split → phase → {sequences, tokens, target_tokens, kinds, difficulties, languages}.
    `accounts`: phase → {tokenized, used, dropped: {reason: tokens}, context, structure}, in tokens.
    `thresholds`: phase → the difficulty scores at 25, 50, 75 % of its training sequences.
    `redactions`: kind of secret or personal detail → how many were replaced.
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

    @property
    def name(self) -> str:
        """The repositories' names, for display."""
        return ", ".join(one.name for one in self.repositories)

    @property
    def licence(self) -> str:
        """The repositories' licences as one SPDX expression; empty where one of them has none that was recognised."""
        return all_of(one.licence for one in self.repositories)

    @property
    def notes(self) -> list[str]:
        """What was noted of every repository, with its name where there are several."""
        several = len(self.repositories) > 1
        return [f"{one.name}: {note}" if several else note for one in self.repositories for note in one.notes]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it (keys of `initial_from` become text)."""
        tree = asdict(self)
        tree["tokenizer"]["initial_from"] = {str(new): old for new, old in self.tokenizer.initial_from.items()}
        return tree

    @staticmethod
    def from_dict(tree: Any, where: str) -> Header:
        """Read back what `as_dict` gave. Raises InputError naming `where` for another version or a broken header."""
        if not isinstance(tree, dict) or "format_version" not in tree:
            raise InputError(f"{where}: no sequences header; make the file again with prepare_long_context.py")
        if tree["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{where}: sequences of format {tree['format_version']}, this version reads {FORMAT_VERSION}; "
                "make the sequences again with prepare_long_context.py"
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


def check_tokenizer(header: Header, tokenizer: RepoTokenizer) -> None:
    """Raise InputError where the sequences were made with another tokenizer than the given one."""
    made = header.tokenizer
    if made.sha256 != tokenizer.sha256:
        raise InputError(
            f"the sequences were made with the tokenizer of {made.name} (sha256 {made.sha256[:12]}), the model has "
            f"that of {tokenizer.name} ({tokenizer.sha256[:12]}); prepare them again with --model {tokenizer.name}"
        )


def tokenizer_of(header: Header, model: str | None = None) -> RepoTokenizer:
    """The tokenizer that the sequences were made with: of `model`, or of the model that the header names.

    Raises InputError where it can't be had, or is another one.
    """
    made = header.tokenizer
    tokenizer = load_tokenizer(model or made.name, structure_tokens=bool(made.structure_tokens))
    if tokenizer.sha256 != made.sha256:
        raise InputError(
            f"--model {tokenizer.name}: its tokenizer (sha256 {tokenizer.sha256[:12]}) is not the one that the "
            f"sequences were made with ({made.name}, {made.sha256[:12]}); give the model they were made with"
        )
    return tokenizer
