"""Where `prepare` puts what it made: the sequences' folder and the summary beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from longrepo.config.files import write_text
from longrepo.errors import InputError
from longrepo.sequences.assembly import Prepared
from longrepo.sequences.header import Header
from longrepo.sequences.store import placed, write_sequences
from longrepo.sequences.watch import Unwatched, Watch

SEQUENCES = "sequences"
SUMMARY = "preparation_summary.json"
REDACTIONS = "redactions.tsv"


def check_writable(folder: Path) -> None:
    """Raise InputError now, not after the work, where `folder` can't be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror or error}); give another folder") from None


def write_prepared(folder: Path, prepared: Prepared, watch: Watch | None = None) -> Header:
    """Write `sequences/`, `preparation_summary.json` and `redactions.tsv` (where something was hidden and of what kind,
    never what) into a folder; returns the header as written.

    Raises InputError or RunError as `write_sequences` does.
    """
    sequences, finished = folder / SEQUENCES, prepared.finished
    if finished and finished.known:
        header, texts = finished.header, finished.texts
        if not finished.stands_in(sequences):
            with placed(sequences) as beside:
                finished.write(beside)
    else:
        with (watch or Unwatched()).count("writing sequences", len(prepared.sequences)) as done:
            header = write_sequences(sequences, prepared.rows(done), prepared.header)
        summary = {**prepared.summary, "sequences_sha256": header.content_sha256}
        lines = [f"{where}\t{line}\t{kind}" for where, line, kind in prepared.redacted]
        texts = {
            SUMMARY: json.dumps(summary, indent=2) + "\n",
            REDACTIONS: "\n".join(["where\tline\tkind", *lines]) + "\n",
        }
        if finished:
            finished.keep(sequences, header, prepared.summary, texts)
    for name, text in texts.items():
        write_text(folder / name, text)
    return header
