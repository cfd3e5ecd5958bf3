"""Read the input of `pretrain --input`: a text file, cut into windows of one length, or sequences made before."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from longrepo.data.dataset import SequenceFile, read_sequences, write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts, check_tokenizer
from longrepo.data.rows import SequenceRow
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.redaction.redactor import Redactor

MIN_WINDOW_TOKENS = 2  # windows: one is held out for validation


def text_windows(file: Path, tokenizer: RepoTokenizer, length: int, redact: bool) -> tuple[list[SequenceRow], Header]:
    """Cut the file's tokens and an end token into windows of `length` tokens, each beginning with the last token of the
    one before, so that every token but the first is scored once.

    Raises InputError for a file that isn't text, or is too short.
    """
    text, redactions = _read_text(file), Counter[str]()
    if redact:
        redacted = Redactor(()).text(text)
        text, redactions = redacted.text, Counter(finding.kind for finding in redacted.findings)
    ids = np.array([*tokenizer.encode(text), tokenizer.end_id], np.int32)
    rows = list(_cut_windows(ids, length, file.name))
    if len(rows) < MIN_WINDOW_TOKENS:
        raise InputError(
            f"--input {file}: {len(ids):,} tokens make {len(rows)} window of {length:,}, and {MIN_WINDOW_TOKENS} are "
            f"needed; give more text or a preset with a shorter context"
        )
    header = Header(
        replace(TokenizerFacts.of(tokenizer), begins=False),  # a window begins anywhere in the text
        [RepositoryFacts(file.name, "")],
        made_by=f"pretrain, windows of {length}",
        redactions=dict(redactions),
    )
    return rows, header


def _cut_windows(ids: np.ndarray, length: int, name: str) -> Iterator[SequenceRow]:
    for start in range(0, len(ids) - 1, length - 1):
        window = ids[start : start + length]
        weights = np.full(len(window), TARGET_WEIGHT, np.float32)
        weights[0] = 0
        yield SequenceRow(window, weights, "window", "easy", 0.0, {}, (name,), (), "Text", "train", name)


def _read_text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"--input {file}: no such file; give a text file or sequences") from None
    except UnicodeDecodeError:
        raise InputError(
            f"--input {file}: isn't UTF-8 text; give a text file, or sequences from longrepo prepare"
        ) from None
    except OSError as error:
        raise InputError(f"--input {file}: can't be read ({error.strerror}); give a text file or sequences") from None
    if not text.strip():
        raise InputError(f"--input {file}: has no text; give a file that does")
    return text


SEQUENCE_SUFFIXES = (".json", ".jsonl", ".parquet")


def write_inputs(output: Path, given: Path, tokenizer: RepoTokenizer, length: int, redact: bool) -> None:
    """Write the sequences of `given` to `output`, none longer than `length` tokens.

    Raises InputError unless it has enough sequences of this tokenizer, or is a text file that is long enough.
    """
    if not given.is_dir() and given.suffix not in SEQUENCE_SUFFIXES:
        write_sequences(output, *text_windows(given, tokenizer, length, redact))
        return
    file = read_sequences(given)
    check_tokenizer(file.header, tokenizer)
    fit = [index for index, tokens in enumerate(file.lengths()) if tokens <= length]
    if not fit:
        raise InputError(f"--input {given}: every sequence has more than {length:,} tokens; prepare shorter ones")
    longer = len(file) - len(fit)
    noted = f"{longer} of {len(file)} sequences are longer than {length:,} tokens: left out"
    first = file.header.repositories[0]
    repositories = [replace(first, notes=[*first.notes, noted]), *file.header.repositories[1:]]
    header = replace(file.header, repositories=repositories) if longer else file.header
    write_sequences(output, _read_rows(file, fit), header)


def _read_rows(file: SequenceFile, indices: list[int]) -> Iterator[SequenceRow]:
    for index in indices:
        row = file.row(index)
        parts = row.pop("difficulty_parts")
        row |= {
            "input_ids": np.asarray(row["input_ids"], np.int32),
            "loss_weights": np.asarray(row["loss_weights"], np.float32),
            "difficulty_parts": json.loads(parts) if isinstance(parts, str) else parts,
        }
        yield SequenceRow(**row)
