"""Tokenize repository text: the base's tokenizer with its marks, and never a special token read from text.

Added marks (`longrepo.data.marks`) join the vocabulary as special tokens: as plain text each would take StarCoder2 7-8
tokens. A new row of the embedding starts as the row of the nearest token the base knows, and is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt

from longrepo.data.dialects import (
    ADDED_FIM,
    DIALECT_TOKENS,
    Dialect,
    FimIds,
    find_dialect,
    missing_fim_note,
)
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
from longrepo.data.tokenizer_files import write_tokenizer_files
from longrepo.data.tokenizer_rules import begin_token, drop_implied_space
from longrepo.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from longrepo.config.schema import FimSetting, StructureTokens


END_OF_TEXT = "<|endoftext|>"
# In tokenizer_config.json: the kind of marks that a base was trained with, whether fill-in-the-middle tokens were added
# to it, and whether its sequences began with the begin token.
MARKS_KEY, FIM_KEY, BEGIN_KEY = "structure_tokens", "fim", "begins"

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
INITIAL_WORDS = dict(zip(ADDED_FIM.marks, (" prefix", " suffix", " middle"), strict=True))


Offsets = npt.NDArray[np.int32]


class RepoTokenizer:
    """A byte-level tokenizer (the `tokenizers` library's) with the structure tokens as special tokens.

    `config` is the base's `tokenizer_config.json`, which names its end and padding tokens; `folder` is the base's.
    `structure_tokens`: the kind of its marks, as the setting has it; `fim`: as `data.fim` has it. `begin_id` is what
    begins a document, if its own files put something there; `fim_added`: whether its fill-in-the-middle tokens are
    added ones.
    """

    def __init__(
        self,
        backend: Tokenizer,
        name: str,
        structure_tokens: StructureTokens = "auto",
        config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        fim: FimSetting = "auto",
    ) -> None:
        """Raises InputError if it has no end token."""
        from tokenizers import Tokenizer, processors

        self.name = name
        self._config, self._folder = dict(config or {}), folder
        # A private copy: `encode_special_tokens` makes "<|FILE_START|>" in a source file plain text, and offsets must
        # cover the spaces that ByteLevel's default post-processor trims off. Only the placeholders of redacted text
        # are read from text as tokens.
        file_text = backend.to_str()
        state = json.loads(file_text)
        self._rules = (state["normalizer"], state["pre_tokenizer"])
        self._made_special = {
            t["content"] for t in state["added_tokens"] if t["content"] in DIALECT_TOKENS and not t["special"]
        }
        for token in state["added_tokens"]:
            special = token["special"] or token["content"] in DIALECT_TOKENS  # Qwen's are plain added tokens
            token["special"] = special and token["content"] not in PLACEHOLDERS
        begin = begin_token(state, self._config)
        self._dropped_space = drop_implied_space(state)
        self._text = Tokenizer.from_str(json.dumps(state))
        vocabulary = self._text.get_vocab(with_added_tokens=True)
        kind = choose_marks(structure_tokens, vocabulary, self._config)
        self.kind: MarksKind = kind
        self._choose_dialect(vocabulary, fim)
        self._add_tokens(self._text)
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
        self._begin = vocabulary.get(begin or "")
        # Files that longrepo wrote before it recorded this were trained without.
        begins = self._config.get(BEGIN_KEY, FILE_START not in vocabulary)
        self.begin_id: int | None = self._begin if begins else None
        self._made_from = (file_text, name, kind, self._config, folder, fim)
        marked = () if kind == "native" else STRUCTURE_TOKENS
        self.structure_ids: dict[str, int] = {
            token: self._vocabulary[token]
            for token in (*marked, *(ADDED_FIM.marks if self.fim_added else ()))
            if token in self._vocabulary
        }

    def _choose_dialect(self, vocabulary: Mapping[str, int], fim: FimSetting) -> None:
        recorded = self._config.get(FIM_KEY) == "added"
        dialect = find_dialect(vocabulary.keys() - ADDED_FIM.marks if recorded else vocabulary)
        self._fim_asked = fim == "add"
        self.fim_added: bool = recorded or (self._fim_asked and dialect.fim is None)
        self.dialect: Dialect = replace(dialect, fim=ADDED_FIM) if self.fim_added else dialect

    def _add_tokens(self, to: Tokenizer) -> None:
        from tokenizers import AddedToken

        added = (STRUCTURE_TOKENS if self.kind == "added" else ()) + (ADDED_FIM.marks if self.fim_added else ())
        to.add_special_tokens([AddedToken(token, special=True) for token in added])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle for another process."""
        return _rebuild, self._made_from, {"begin_id": self.begin_id}

    @cached_property
    def _file(self) -> Tokenizer:
        """The base's `tokenizer.json` with the structure tokens."""
        from tokenizers import Tokenizer

        text: str = self._made_from[0]
        if self._dropped_space:
            drop_implied_space(state := json.loads(text))
            text = json.dumps(state)
        file = Tokenizer.from_str(text)
        self._add_tokens(file)
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
        config = {name: value for name, value in self._config.items() if name not in (MARKS_KEY, FIM_KEY, BEGIN_KEY)}
        own: dict[str, Any] = {FIM_KEY: "added"} if self.fim_added else {}
        if own or choose_marks("auto", self._vocabulary, {}) != self.kind:
            own[MARKS_KEY] = self.kind
        own |= {"add_prefix_space": False} if self._dropped_space else {}
        own |= {} if self._begin is None else {BEGIN_KEY: self.begin_id is not None}
        return config | {"eos_token": self._config.get("eos_token") or END_OF_TEXT} | own

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write `tokenizer.json` and what goes with it into a model's or an adapter's folder; return notes for its
        README. config.json must be there already, if the folder gets one. Imports transformers, which takes seconds."""
        return write_tokenizer_files(folder, self.file_text, self.file_config, self._folder)

    def encode_marked(self, text: str) -> list[int]:
        """Return the token ids of text in which the names of special tokens stand for them."""
        return list(self._marked_text.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _marked_text(self) -> Tokenizer:
        from tokenizers import Tokenizer

        marked = Tokenizer.from_str(self._text.to_str())
        marked.encode_special_tokens = False
        return marked

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(self._vocabulary.values()) + 1

    @cached_property
    def initial_from(self) -> dict[int, int]:
        """Structure token id → id of the token whose embedding row it starts from."""
        return {id: self._initial_id(token) for token, id in self.structure_ids.items()}

    def _initial_id(self, token: str) -> int:
        """A fill-in-the-middle token starts from the word for it, so that the three differ."""
        if token in INITIAL_WORDS:
            return self.encode(INITIAL_WORDS[token])[-1]
        return next(
            (self._vocabulary[known] for known in INITIAL_TOKENS[token] if known in self._vocabulary), self.end_id
        )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens, the base's included; the placeholders of redacted text aren't special."""
        return frozenset(id for id, token in self._text.get_added_tokens_decoder().items() if token.special)

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

    @property
    def fim_note(self) -> str | None:
        """A line on what fill-in-the-middle comes to, or None if the base has its own tokens, as most do."""
        own = self.dialect.fim
        if self.fim_added:
            return (
                f"data.fim=add: {', '.join(ADDED_FIM.marks)} are added to {self.name}, which has no such tokens; what "
                "they mean is learnt from these sequences alone"
            )
        if own is None:
            lack = missing_fim_note(self._vocabulary, self._config)
            return (
                f"the tokenizer of {self.name} {lack}: text is continued, and never filled in before other text; "
                "data.fim=add teaches it, with three added tokens"
            )
        if self._fim_asked:
            return f"data.fim=add: nothing is added, as {self.name} has {', '.join(own.marks)}"
        return None

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides ids: vocabulary, merges, normaliser, pre-tokenizer, added tokens."""
        return self._hash(None)

    def has_hash(self, sha256: str) -> bool:
        """Return whether its hash is this one, or was when a text still got a space at its beginning."""
        return sha256 == self.sha256 or (self._dropped_space and sha256 == self._hash(self._rules))

    def _hash(self, rules: tuple[Any, Any] | None) -> str:
        state = json.loads(self._text.to_str())
        rules = rules or (state["normalizer"], state["pre_tokenizer"])
        model = state["model"]
        merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges", [])]
        added = sorted(
            (one["id"], one["content"], one["special"] and one["content"] not in self._made_special)
            for one in state["added_tokens"]
        )
        decides = [sorted(self._vocabulary.items()), merges, *rules, added]
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

    def has(self, id: int) -> bool:
        """Return whether an id is a token's."""
        return self._text.id_to_token(id) is not None

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


def choose_marks(asked: StructureTokens, vocabulary: Container[str], config: Mapping[str, Any]) -> MarksKind:
    """Return the kind of marks: the one asked for, or for `auto` what the tokenizer's configuration records, then
    `added` if the vocabulary has the added tokens or StarCoder2's, and `native` for any other."""
    if asked != "auto":
        return asked
    recorded = config.get(MARKS_KEY)
    if recorded in get_args(MarksKind):
        return cast(MarksKind, recorded)
    return "added" if FILE_START in vocabulary or find_dialect(vocabulary).added_marks else "native"


def _token_text(given: Any) -> str | None:
    return given.get("content") if isinstance(given, dict) else given
