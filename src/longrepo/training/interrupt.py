"""Ctrl-C once: finish the update, save, stop. Twice: stop now. SIGTERM counts like the first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 130


class Interrupt:
    """While entered (in the main thread), signals set `requested`; a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self.requested = False
        self._told = told
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            self._told("stopping after this update, then saving; Ctrl-C again stops at once without saving")
