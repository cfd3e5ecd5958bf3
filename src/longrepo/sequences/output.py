"""Where `prepare` puts what it made: the sequences' folder and the summary beside it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from longrepo.errors import InputError, RunError
from longrepo.sequences.header import Header
from longrepo.sequences.prepare import Prepared
from longrepo.sequences.store import write_sequences

SEQUENCES = "sequences"
SUMMARY = "preparation_summary.json"


def check_writable(folder: Path) -> None:
    """Raise InputError now, not after the work, where `folder` can't be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror or error}); give another folder") from None


def write_prepared(folder: Path, prepared: Prepared) -> Header:
    """Write `sequences/` and `preparation_summary.json` into a folder; returns the header as written.

    Raises InputError or RunError as `write_sequences` does.
    """
    header = write_sequences(folder / SEQUENCES, prepared.sequences, prepared.header)
    summary = {**prepared.summary, "sequences_sha256": header.content_sha256}
    beside = folder / f".{SUMMARY}.{os.getpid()}.part"
    try:
        beside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        beside.replace(folder / SUMMARY)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"{folder / SUMMARY}: can't be written ({error.strerror or error}); free some space") from None
    return header
