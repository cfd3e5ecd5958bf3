"""Tokenize repository text: the base's tokenizer with its marks, and never a special token read from text.

Added marks (`longrepo.data.marks`) join the vocabulary as special tokens: as plain text each would take StarCoder2 7-8
tokens. A new row of the embedding starts as the row of the nearest token the base knows, and is trained.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt

from longrepo.data.dialects import DIALECT_TOKENS, Dialect, FimMark, FimOrder, FimText, find_dialect
from longrepo.data.marks import (
    COMMIT_END,
    COMMIT_START,
    FILE_END,
    FILE_START,
    NAMED_LAYOUT,
    SNIPPET_TOKENS,
    STRUCTURE_TOKENS,
    Ids,
    Marks,
    MarksKind,
    native_layout,
)
from longrepo.data.tokenizer_files import TOKENIZER_CONFIG, write_tokenizer_files
from longrepo.errors import InputError
from longrepo.utils.hub import check_not_misspelled, local_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from longrepo.config.schema import Settings, StructureTokens


END_OF_TEXT = "<|endoftext|>"
MARKS_KEY = "structure_tokens"  # in tokenizer_config.json: the kind of marks that a base was trained with

# Replacements for redacted text. StarCoder2's tokenizer has a token for each; elsewhere they are plain text.
PLACEHOLDERS = ("<NAME>", "<EMAIL>", "<KEY>", "<PASSWORD>")

# The first of these that the base tokenizer has is used; if it has none, its end token is.
INITIAL_TOKENS: dict[str, tuple[str, ...]] = {
    FILE_START: ("<file_sep>",),
    FILE_END: (END_OF_TEXT,),
    COMMIT_START: ("<pr_base>", "<commit_before>", "<file_sep>"),
    COMMIT_END: (END_OF_TEXT,),
    **dict.fromkeys(SNIPPET_TOKENS, ("<pr_diff_hunk>", "<file_sep>")),
}


Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FimIds:
    """Ids of the fill-in-the-middle tokens; `middle` and `end` are None if the base has none of its own. `orders` are
    those that the base was pretrained with; prompts are in the first."""

    prefix: int
    suffix: int
    middle: int | None
    orders: tuple[FimOrder, ...] = (FimOrder.PSM,)
    end: int | None = None

    @property
    def marks(self) -> tuple[int, ...]:
        """All of these ids."""
        return tuple(id for id in (self.prefix, self.suffix, self.middle, self.end) if id is not None)

    def steps(self, order: FimOrder) -> tuple[tuple[int, FimText | None], ...]:
        """Return the marks in an order, and the text that follows each; the middle comes after all of them."""
        ids: dict[FimMark, int | None] = {"prefix": self.prefix, "suffix": self.suffix, "middle": self.middle}
        return tuple((id, text) for mark, text in order.layout if (id := ids[mark]) is not None)

    @property
    def size(self) -> int:
        """The tokens that it takes beside the text."""
        return len(self.marks)

    def prompt(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """Return the ids of a prompt whose completion comes between two texts."""
        texts: dict[FimText | None, Sequence[int]] = {"prefix": before, "suffix": after, None: ()}
        return [one for id, text in self.steps(self.orders[0]) for one in (id, *texts[text])]

    def asked_in(self, ids: Sequence[int]) -> bool:
        """Return whether ids are such a prompt, by its last mark."""
        return self.steps(self.orders[0])[-1][0] in ids


class RepoTokenizer:
    """A byte-level tokenizer (the `tokenizers` library's) with the structure tokens as special tokens.

    `config` is the base's `tokenizer_config.json`, which names its end and padding tokens; `folder` is the base's.
    `structure_tokens`: the kind of its marks, as the setting has it.
    """

    def __init__(
        self,
        backend: Tokenizer,
        name: str,
        structure_tokens: StructureTokens = "auto",
        config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Raises InputError if it has no end token."""
        from tokenizers import AddedToken, Tokenizer, processors

        self.name = name
        self._config, self._folder = dict(config or {}), folder
        # A private copy: `encode_special_tokens` makes "<|FILE_START|>" in a source file plain text, and offsets must
        # cover the spaces that ByteLevel's default post-processor trims off. Only the placeholders of redacted text
        # are read from text as tokens.
        state = json.loads(backend.to_str())
        self._made_special = {
            t["content"] for t in state["added_tokens"] if t["content"] in DIALECT_TOKENS and not t["special"]
        }
        for token in state["added_tokens"]:
            special = token["special"] or token["content"] in DIALECT_TOKENS  # Qwen's are plain added tokens
            token["special"] = special and token["content"] not in PLACEHOLDERS
        self._text = Tokenizer.from_str(json.dumps(state))
        kind = choose_marks(structure_tokens, self._text.get_vocab(with_added_tokens=True), self._config)
        self.kind: MarksKind = kind
        if kind == "added":
            self._text.add_special_tokens([AddedToken(token, special=True) for token in STRUCTURE_TOKENS])
        self._text.no_truncation()
        self._text.no_padding()
        self._text.encode_special_tokens = True
        self._text.post_processor = processors.ByteLevel(trim_offsets=False)
        self._vocabulary: dict[str, int] = self._text.get_vocab(with_added_tokens=True)
        found = self._vocabulary.get(_token_text(self._config.get("eos_token")) or END_OF_TEXT)
        if found is None:
            raise InputError(f"{name}: its tokenizer has no end token; use a model that has one")
        self.end_id: int = found
        self.pad_id: int = self._vocabulary.get(_token_text(self._config.get("pad_token")) or "", found)
        self._made_from = (backend.to_str(), name, kind, self._config, folder)
        self.structure_ids: dict[str, int] = {
            token: self._vocabulary[token]
            for token in STRUCTURE_TOKENS
            if kind != "native" and token in self._vocabulary
        }

    def __reduce__(self) -> tuple[Callable[..., RepoTokenizer], tuple[Any, ...]]:
        """Pickle for another process."""
        return _rebuild, self._made_from

    @cached_property
    def _file(self) -> Tokenizer:
        """The base's `tokenizer.json` with the structure tokens."""
        from tokenizers import AddedToken, Tokenizer

        file = Tokenizer.from_str(self._made_from[0])
        if self.kind == "added":
            file.add_special_tokens([AddedToken(token, special=True) for token in STRUCTURE_TOKENS])
        file.no_truncation()
        file.no_padding()
        return file

    @property
    def file_text(self) -> str:
        """The text of a `tokenizer.json` that gives these ids."""
        return self._file.to_str(pretty=True)

    @property
    def file_config(self) -> dict[str, Any]:
        """The base's `tokenizer_config.json`, with the end token even if the base has none, and with the kind of marks
        if a tokenizer of these files would have another."""
        config = {name: value for name, value in self._config.items() if name != MARKS_KEY}
        own = {} if choose_marks("auto", self._vocabulary, {}) == self.kind else {MARKS_KEY: self.kind}
        return config | {"eos_token": self._config.get("eos_token") or END_OF_TEXT} | own

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write `tokenizer.json` and what goes with it into a model's or an adapter's folder; return notes for its
        README. config.json must be there already, if the folder gets one. Imports transformers, which takes seconds."""
        return write_tokenizer_files(folder, self.file_text, self.file_config, self._folder)

    def encode_marked(self, text: str) -> list[int]:
        """Return the token ids of text in which the names of special tokens stand for them."""
        return list(self._file.encode(text, add_special_tokens=False).ids)

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(self._vocabulary.values()) + 1

    @cached_property
    def initial_from(self) -> dict[int, int]:
        """Structure token id → id of the token whose embedding row it starts from."""
        return {
            id: next(
                (self._vocabulary[known] for known in INITIAL_TOKENS[token] if known in self._vocabulary), self.end_id
            )
            for token, id in self.structure_ids.items()
        }

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens, the base's included; the placeholders of redacted text aren't special."""
        return frozenset(id for id, token in self._text.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def dialect(self) -> Dialect:
        """The tokens of the base's pretraining, by what its vocabulary has; NO_DIALECT if none of them is known."""
        return find_dialect(self._vocabulary)

    @cached_property
    def marks(self) -> Marks:
        """How texts show where repositories, files, changes and snippets begin."""
        layout = native_layout(self.dialect) if self.kind == "native" else NAMED_LAYOUT
        special = {one.content: id for id, one in self._text.get_added_tokens_decoder().items() if one.special}
        return Marks(self.kind, layout, self.encode, special)

    @cached_property
    def fim(self) -> FimIds | None:
        """The fill-in-the-middle ids of the base's dialect, or None if it has none."""
        names, known = self.dialect.fim, self._vocabulary
        if names is None:
            return None
        middle = None if names.middle is None else known[names.middle]
        end = None if names.end is None else known[names.end]
        return FimIds(known[names.prefix], known[names.suffix], middle, names.orders, end)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides ids: vocabulary, merges, normaliser, pre-tokenizer, added tokens."""
        state = json.loads(self._text.to_str())
        model = state["model"]
        merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges", [])]
        added = sorted(
            (one["id"], one["content"], one["special"] and one["content"] not in self._made_special)
            for one in state["added_tokens"]
        )
        decides = [sorted(self._vocabulary.items()), merges, state["normalizer"], state["pre_tokenizer"], added]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _bytes(self) -> npt.NDArray[np.int32]:
        """Number of bytes of text of each id: a character of a byte-level token's name is one byte."""
        sizes = np.zeros(self.vocabulary_size, np.int32)
        for token, id in self._vocabulary.items():
            sizes[id] = len(token)
        for id, added in self._text.get_added_tokens_decoder().items():
            sizes[id] = len(added.content.encode())
        return sizes

    @cached_property
    def end_ids(self) -> Ids:
        """The end token's id, `[1]`."""
        return np.array([self.end_id], np.int32)

    def id(self, token: str) -> int:
        """Return the id of a special token. Raises KeyError if the tokenizer has none of that name."""
        return self._vocabulary[token]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of plain text; names of special tokens in it are text like any other."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Iterable[str], block: int = 256) -> list[tuple[Ids, Offsets]]:
        """Return the ids of each text and the character each token begins at, `[tokens]`; uses all free cores."""
        todo = list(texts)
        found: list[tuple[Ids, Offsets]] = []
        for first in range(0, len(todo), block):  # an Encoding takes ~150 bytes a token: not all at once
            some = todo[first : first + block]
            for text, encoding in zip(some, self._text.encode_batch_fast(some, add_special_tokens=False), strict=True):
                ids = np.array(encoding.ids, dtype=np.int32)
                found.append((ids, self._starts(text, ids)))
        return found

    def _starts(self, text: str, ids: Ids) -> Offsets:
        """Return where each token begins, from its bytes, or the library's offsets if a normaliser alters the text."""
        ends = np.cumsum(self._bytes[ids], dtype=np.int32)
        starts = ends - self._bytes[ids]
        data = text.encode("utf-8", "surrogatepass")
        if (int(ends[-1]) if len(ends) else 0) != len(data):
            encoding = self._text.encode(text, add_special_tokens=False)
            return np.array([start for start, _ in encoding.offsets], dtype=np.int32)
        if len(data) == len(text):
            return starts
        characters = np.cumsum((np.frombuffer(data, np.uint8) & 0xC0) != 0x80, dtype=np.int32) - 1
        return np.asarray(characters[starts], np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens spelled out."""
        return str(self._text.decode(list(ids), skip_special_tokens=False))


def _rebuild(state: str, *rest: Any) -> RepoTokenizer:
    from tokenizers import Tokenizer

    return RepoTokenizer(Tokenizer.from_str(state), *rest)


def recorded_marks(folder: Path) -> MarksKind | None:
    """Return the kind of marks that the tokenizer's files in a folder record; None if they record none."""
    try:
        config = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    recorded = config.get(MARKS_KEY) if isinstance(config, dict) else None
    return cast(MarksKind, recorded) if recorded in get_args(MarksKind) else None


def choose_marks(asked: StructureTokens, vocabulary: Container[str], config: Mapping[str, Any]) -> MarksKind:
    """Return the kind of marks: the one asked for, or for `auto` what the tokenizer's configuration records, then
    `added` if the vocabulary has the added tokens or StarCoder2's, and `native` for any other."""
    if asked != "auto":
        return asked
    recorded = config.get(MARKS_KEY)
    if recorded in get_args(MarksKind):
        return cast(MarksKind, recorded)
    return "added" if FILE_START in vocabulary or find_dialect(vocabulary).added_marks else "native"


def load_tokenizer(name: str, revision: str | None = None, structure_tokens: StructureTokens = "auto") -> RepoTokenizer:
    """Load the tokenizer of "embedded", of a model's folder or GGUF file, or of a model on the Hugging Face hub.

    It is read from `tokenizer.json` itself, without importing transformers. Raises InputError if that fails: no such
    folder or model, offline and not yet downloaded, not a tokenizer.
    """
    from tokenizers import Tokenizer

    file, config = _local_files(name) or _from_hub(name, revision)
    try:
        backend = Tokenizer.from_file(str(file))
        tree = json.loads(config.read_text("utf-8")) if config else {}
    except Exception as error:  # the Rust library raises Exception itself
        raise InputError(f"--model {name}: {file} can't be read as a tokenizer ({_first_line(error)})") from None

    return RepoTokenizer(backend, name, structure_tokens, tree, file.parent)


def marks_of_base(settings: Settings) -> MarksKind:
    """Return the kind of marks that the settings come to; `added`, which takes more, if only the base's tokenizer could
    tell and there is none."""
    model, asked = settings.model, settings.data.structure_tokens
    if asked != "auto":
        return asked
    try:
        return load_tokenizer(model.name, model.revision).kind
    except InputError:
        return "added"


def with_marks(settings: Settings, kind: MarksKind) -> Settings:
    """Return the settings with the kind of marks that they came to."""
    return settings.model_copy(update={"data": settings.data.model_copy(update={"structure_tokens": kind})})


def new_token_rows(tokenizer: RepoTokenizer, base: str, revision: str | None) -> dict[int, int]:
    """Return `initial_from` of the structure tokens that the base's own tokenizer lacks.

    A base that has them was trained with them, and keeps their rows. A base without a tokenizer lacks all."""
    try:
        known = load_tokenizer(base, revision, "none").structure_ids.values()
    except InputError:
        return tokenizer.initial_from
    return {new: source for new, source in tokenizer.initial_from.items() if new not in known}


def as_repo_tokenizer(tokenizer: Any, structure_tokens: StructureTokens = "added") -> RepoTokenizer:
    """Return a RepoTokenizer as it is, or wrap a transformers tokenizer; added marks are added to it.

    Raises InputError if it isn't a fast one.
    """
    if isinstance(tokenizer, RepoTokenizer):
        return tokenizer
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(f"{name}: its tokenizer has no tokenizer.json (a fast one); use a model that has")
    config = {f"{part}_token": getattr(tokenizer, f"{part}_token", None) for part in ("bos", "eos", "unk", "pad")}
    wrapped = RepoTokenizer(
        tokenizer.backend_tokenizer, name, structure_tokens, {key: token for key, token in config.items() if token}
    )
    if wrapped.kind == "added":
        added: dict[str, Any] = {"additional_special_tokens": list(STRUCTURE_TOKENS)}
        tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
    for token, id in wrapped.structure_ids.items():
        if tokenizer.convert_tokens_to_ids(token) != id:
            raise ValueError(f"{name}: transformers gives {token} another id than its tokenizer.json ({id})")
    return wrapped


def _local_files(name: str) -> tuple[Path, Path | None] | None:
    """Return `tokenizer.json` and the configuration beside it if `name` is a folder on this machine, else None."""
    own = local_folder(name)
    folder = own or Path(name).expanduser()
    check_not_misspelled(name)
    if own is None and not (name.startswith((".", "~", "/")) or folder.exists()):
        return None
    if not (folder / "tokenizer.json").is_file():
        missing = "holds no tokenizer.json" if folder.is_dir() else "no such folder"
        raise InputError(f"--model {name}: {missing}; give a model folder, a hub name, or `embedded`")
    config = folder / "tokenizer_config.json"
    return folder / "tokenizer.json", config if config.is_file() else None


def _from_hub(name: str, revision: str | None) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download

    try:
        file, config = (
            Path(hf_hub_download(name, one, revision=revision)) for one in ("tokenizer.json", "tokenizer_config.json")
        )
    except Exception as error:  # the hub raises a dozen classes; they mean the same to the user
        raise InputError(
            f"--model {name}: its tokenizer can't be loaded ({_first_line(error)}); connect once to download it, "
            "give a local model folder, or use `--model embedded`"
        ) from None
    return file, config


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 160, placeholder=" …")


def _token_text(given: Any) -> str | None:
    return given.get("content") if isinstance(given, dict) else given
