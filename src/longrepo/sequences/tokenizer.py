"""The tokenizer as this project uses it: structure tokens added, repository text never read as a special token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longrepo.errors import InputError
from longrepo.sequences.tokens import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, NEAREST, STRUCTURE_TOKENS

Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Fim:
    """Ids of the fill-in-the-middle tokens."""

    prefix: int
    suffix: int
    middle: int


class RepoTokenizer:
    """A fast (Rust-backed) transformers tokenizer with the structure tokens as special tokens.

    `source` is that transformers tokenizer, with the added tokens (to save beside a model). Raises InputError where
    it has no Rust backend or no end token.
    """

    def __init__(self, source: Any, name: str | None = None, structure_tokens: bool = True) -> None:
        from tokenizers import Tokenizer, processors

        self.name: str = name or str(getattr(source, "name_or_path", "") or type(source).__name__)
        if not hasattr(source, "backend_tokenizer"):
            raise InputError(f"{self.name}: its tokenizer has no tokenizer.json (a fast one); use a model that has")
        if structure_tokens:
            source.add_special_tokens(
                {"additional_special_tokens": list(STRUCTURE_TOKENS)}, replace_extra_special_tokens=False
            )
        self.source = source
        # A copy of its own: `encode_special_tokens` makes "<|FILE_START|>" inside a source file plain text, and
        # offsets must cover the spaces that ByteLevel's default post-processor trims off.
        self._text = Tokenizer.from_str(source.backend_tokenizer.to_str())
        self._text.no_truncation()
        self._text.no_padding()
        self._text.encode_special_tokens = True
        self._text.post_processor = processors.ByteLevel(trim_offsets=False)
        self._vocabulary: dict[str, int] = self._text.get_vocab(with_added_tokens=True)
        end = source.eos_token_id if source.eos_token_id is not None else self._vocabulary.get(END)
        if end is None:
            raise InputError(f"{self.name}: its tokenizer has no end token; use a model that has one")
        self.end_id: int = int(end)
        pad = source.pad_token_id
        self.pad_id: int = self.end_id if pad is None else int(pad)
        self.structure_ids: dict[str, int] = {
            token: self._vocabulary[token] for token in STRUCTURE_TOKENS if token in self._vocabulary
        }

    @cached_property
    def vocabulary_size(self) -> int:
        """Ids reach from 0 to below this, added tokens included."""
        return max(self._vocabulary.values()) + 1

    @cached_property
    def initial_from(self) -> dict[int, int]:
        """Structure token id → id of the known token whose embedding row it starts from."""
        return {
            id: next((self._vocabulary[known] for known in NEAREST[token] if known in self._vocabulary), self.end_id)
            for token, id in self.structure_ids.items()
        }

    @cached_property
    def fim(self) -> Fim | None:
        """The fill-in-the-middle ids, or None where the tokenizer lacks one of them."""
        ids = [self._vocabulary.get(token) for token in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)]
        return Fim(*[id for id in ids if id is not None]) if None not in ids else None

    @cached_property
    def sha256(self) -> str:
        """Of everything that decides ids: vocabulary, merges, normaliser, pre-tokenizer, added tokens."""
        state = json.loads(self._text.to_str())
        model = state["model"]
        merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges", [])]
        added = sorted((one["id"], one["content"], one["special"]) for one in state["added_tokens"])
        decides = [sorted(self._vocabulary.items()), merges, state["normalizer"], state["pre_tokenizer"], added]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _shared(self) -> list[int]:
        return list(range(self.vocabulary_size))  # one int object per id: 8 bytes a token in place of 36

    def id(self, token: str) -> int:
        """The id of a special token. Raises KeyError where the tokenizer has none of that name."""
        return self._vocabulary[token]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; the names of special tokens in it are text like any other."""
        return list(map(self._shared.__getitem__, self._text.encode(text, add_special_tokens=False).ids))

    def encode_many(self, texts: Iterable[str], block: int = 256) -> list[tuple[list[int], Offsets]]:
        """For each text its ids and the character each token begins at, `[tokens]`; on all free cores."""
        todo = list(texts)
        found: list[tuple[list[int], Offsets]] = []
        for first in range(0, len(todo), block):  # an Encoding takes ~150 bytes a token: not all at once
            for encoding in self._text.encode_batch(todo[first : first + block], add_special_tokens=False):
                starts = np.array([start for start, _ in encoding.offsets], dtype=np.int32)
                found.append((list(map(self._shared.__getitem__, encoding.ids)), starts))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelled out."""
        return str(self._text.decode(list(ids), skip_special_tokens=False))


def load_tokenizer(name: str, revision: str | None = None, structure_tokens: bool = True) -> RepoTokenizer:
    """The tokenizer of "embedded", of a local model folder, or of a model on the Hugging Face hub.

    Raises InputError where it can't be had: no such folder or model, offline and not yet downloaded, not a tokenizer.
    """
    place = name
    if name == "embedded":
        from longrepo import embedded

        place = str(embedded.path())
    local = Path(place).expanduser()
    looks_local = place.startswith((".", "~", "/")) or local.exists()
    if looks_local and not (local / "tokenizer.json").is_file():
        missing = "holds no tokenizer.json" if local.is_dir() else "no such folder"
        raise InputError(f"--model {name}: {missing}; give a model folder, a hub name, or `embedded`")
    from transformers import AutoTokenizer

    try:
        source = AutoTokenizer.from_pretrained(str(local) if looks_local else place, revision=revision)
    except Exception as error:  # the hub raises a dozen kinds; each means the same to the user
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"--model {name}: its tokenizer can't be had ({first[:160]}); connect once to download it, "
            "give a local model folder, or use `--model embedded`"
        ) from None
    return RepoTokenizer(source, name, structure_tokens)


def as_repo_tokenizer(tokenizer: Any) -> RepoTokenizer:
    """The tokenizer itself if it is one of ours, else a plain transformers tokenizer wrapped (tokens are added)."""
    return tokenizer if isinstance(tokenizer, RepoTokenizer) else RepoTokenizer(tokenizer)
