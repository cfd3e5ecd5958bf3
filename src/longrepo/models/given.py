"""What `pretrain --input` is given, as sequences to train on: some made before, or a text file's windows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from longrepo.errors import InputError
from longrepo.models.text import text_windows
from longrepo.sequences.header import check_tokenizer
from longrepo.sequences.rows import Row
from longrepo.sequences.store import SequenceFile, read_sequences, write_sequences
from longrepo.sequences.tokenizer import RepoTokenizer

SUFFIXES = (".json", ".jsonl", ".parquet")


def write_given(output: Path, given: Path, tokenizer: RepoTokenizer, length: int, redact: bool) -> None:
    """Write what `given` holds to `output`, no sequence of more than `length` tokens.

    Raises InputError for what is neither sequences of this tokenizer nor a text file, or has too little.
    """
    if not given.is_dir() and given.suffix not in SUFFIXES:
        write_sequences(output, *text_windows(given, tokenizer, length, redact))
        return
    file = read_sequences(given)
    check_tokenizer(file.header, tokenizer)
    fit = [index for index, tokens in enumerate(file.lengths()) if tokens <= length]
    if not fit:
        raise InputError(f"--input {given}: no sequence has at most {length:,} tokens; make some of that length")
    longer = len(file) - len(fit)
    noted = f"{longer} of {len(file)} sequences are longer than {length:,} tokens: left out"
    first = file.header.repositories[0]
    repositories = [replace(first, notes=[*first.notes, noted]), *file.header.repositories[1:]]
    header = replace(file.header, repositories=repositories) if longer else file.header
    write_sequences(output, _rows(file, fit), header)


def _rows(file: SequenceFile, indices: list[int]) -> Iterator[Row]:
    for index in indices:
        row = file.row(index)
        parts = row.pop("difficulty_parts")
        row |= {
            "input_ids": np.asarray(row["input_ids"], np.int32),
            "loss_weights": np.asarray(row["loss_weights"], np.float32),
            "difficulty_parts": json.loads(parts) if isinstance(parts, str) else parts,
        }
        yield Row(**row)
