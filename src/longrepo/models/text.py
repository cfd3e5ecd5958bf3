"""A text file as windows of one length: what `pretrain --input FILE` trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from longrepo.errors import InputError
from longrepo.redaction.redactor import Redactor
from longrepo.sequences.header import Header, RepositoryFacts, TokenizerFacts
from longrepo.sequences.rows import Row
from longrepo.sequences.sequence import TARGET_WEIGHT
from longrepo.sequences.tokenizer import RepoTokenizer

LEAST = 2  # windows: one is held out to validate on


def text_windows(file: Path, tokenizer: RepoTokenizer, length: int, redact: bool) -> tuple[list[Row], Header]:
    """The file's tokens and an end token in windows of `length` tokens, each beginning with the last token of the one
    before, so that every token but the first is scored once.

    Raises InputError for a file that isn't text, or has too little of it.
    """
    text, redactions = _read(file), Counter[str]()
    if redact:
        redacted = Redactor(()).text(text)
        text, redactions = redacted.text, Counter(finding.kind for finding in redacted.findings)
    ids = np.array([*tokenizer.encode(text), tokenizer.end_id], np.int32)
    rows = list(_windows(ids, length, file.name))
    if len(rows) < LEAST:
        raise InputError(
            f"--input {file}: {len(ids):,} tokens make {len(rows)} window of {length:,}, and {LEAST} are needed; give "
            "more text or a preset of a shorter context"
        )
    header = Header(
        TokenizerFacts.of(tokenizer),
        [RepositoryFacts(file.name, "")],
        made_by=f"pretrain, windows of {length}",
        redactions=dict(redactions),
    )
    return rows, header


def _windows(ids: np.ndarray, length: int, name: str) -> Iterator[Row]:
    for start in range(0, len(ids) - 1, length - 1):
        window = ids[start : start + length]
        weights = np.full(len(window), TARGET_WEIGHT, np.float32)
        weights[0] = 0
        yield Row(window, weights, "window", "easy", 0.0, {}, (name,), (), "Text", "train", name)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"--input {file}: no such file; give a text file or sequences") from None
    except UnicodeDecodeError:
        raise InputError(
            f"--input {file}: isn't UTF-8 text; give a text file, or sequences that prepare made"
        ) from None
    except OSError as error:
        raise InputError(f"--input {file}: can't be read ({error.strerror}); give a text file or sequences") from None
    if not text.strip():
        raise InputError(f"--input {file}: holds no text; give a file that does")
    return text
