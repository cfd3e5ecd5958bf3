"""`in_flight.json`: what a process is at. There while one trains, gone at every clean end; found at a resume, the
process before died uncleanly. (The run folder's lock says that no live process owns it.)"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from longrepo.config.files import write_text
from longrepo.errors import InputError, RunError
from longrepo.training.evidence import boot_id, kill_counts, killed_for_memory
from longrepo.training.state import MemoryState

NAME = "in_flight.json"
EVERY = 5.0  # seconds between two writes that only renew the update and the sample


@dataclass(frozen=True)
class Death:
    """What a process that died was at; `memory` is what memory had taught it, `why` the evidence that it was killed
    for memory (None: none)."""

    phase: int
    method: str
    memory: MemoryState
    why: str | None


class InFlight:
    """The file of this process; the guard's thread may hand it samples."""

    def __init__(self, run: Path) -> None:
        self._file = run / NAME
        self._lock = threading.Lock()
        self._content: dict[str, Any] | None = None
        self._sample: dict[str, Any] | None = None
        self._written = 0.0
        self._machine = {"pid": os.getpid(), "boot": boot_id(), "kills": kill_counts()}

    def death(self) -> Death | None:
        """What the process before died at, if it died. Call it before the first `write`."""
        try:
            tree = json.loads(self._file.read_text(encoding="utf-8"))
            why = killed_for_memory(tree["kills"], tree["boot"], tree["sample"])
            memory = MemoryState.from_json(tree["memory"])
            return Death(tree["phase"], tree["method"], memory, why)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, phase: int, update: int, method: str, length: int, planned: int, memory: MemoryState) -> None:
        """Say what is begun; atomic and synced. `length` in tokens, `planned` in bytes (0: not planned)."""
        with self._lock:
            self._content = {"phase": phase, "update": update, "method": method, "length": length, "planned": planned}
            self._content["memory"] = asdict(memory)
            self._put()

    def renew(self, update: int | None = None, sample: Mapping[str, Any] | None = None) -> None:
        """Note the update in progress or the guard's sample; written every few seconds at most."""
        with self._lock:
            if self._content is None:
                return
            if update is not None:
                self._content["update"] = update
            if sample is not None:
                self._sample = dict(sample)
            if time.monotonic() - self._written >= EVERY:
                with suppress(InputError, RunError):  # a full disk is the next checkpoint's to say
                    self._put()

    def __enter__(self) -> InFlight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Every end that this code sees is a clean one; what stands for a kill in tests isn't an `Exception`."""
        if kind is None or issubclass(kind, Exception | KeyboardInterrupt):
            with self._lock:
                self._content = None
                self._file.unlink(missing_ok=True)

    def _put(self) -> None:
        write_text(self._file, json.dumps({**self._machine, **(self._content or {}), "sample": self._sample}) + "\n")
        self._written = time.monotonic()
