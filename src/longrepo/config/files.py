"""Small files, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from longrepo.errors import InputError, RunError

WRITING = ".writing-"  # what such a prefix names was never finished


def write_text(file: Path, text: str) -> None:
    """Write beside, sync, rename. Raises InputError where the folder can't be written, RunError on a full disk."""
    beside = file.with_name(WRITING + file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except PermissionError:
        raise InputError(f"{file.parent}: can't be written to; choose another folder") from None
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"{file}: can't be written ({error.strerror}); free some space and run again") from None
