"""A file for what a step keeps on disk: without a name, so that nothing is left of it after a kill."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from longrepo.errors import RunError


class ScratchFile:
    """Bytes written one after the other in `folder`, read from where they were put. A full disk is a RunError."""

    def __init__(self, folder: Path) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # as long as the store
        except OSError as error:
            raise RunError(f"{folder}: no file for a step's store can be made there ({error.strerror})") from None
        self._folder = folder
        self._end = 0
        self.written = 0  # bytes, ever

    def append(self, data: memoryview) -> int:
        """Write the bytes; return the place to read them from."""
        place, count = self._end, data.nbytes
        try:
            while data:
                done = os.pwrite(self._file.fileno(), data, self._end)
                data, self._end = data[done:], self._end + done
        except OSError as error:
            raise RunError(
                f"{self._folder}: the step's store can't be written ({error.strerror}) after {self._end / 2**30:.1f} "
                "GiB; free some space, or set memory.store=recompute, and go on with --resume auto"
            ) from None
        self.written += count
        return place

    def read(self, place: int, into: memoryview) -> None:
        while into:
            count = os.preadv(self._file.fileno(), [into], place)
            if not count:
                raise RunError(f"{self._folder}: the step's store is shorter than what was written to it")
            into, place = into[count:], place + count

    def rewind(self) -> None:
        """What was written is not asked for any more: begin at the file's start again."""
        self._end = 0
