"""Freed blocks that the C library keeps for reuse on a CPU: faster, but the process holds more than was planned.

A step's blocks of many sizes leave gaps, up to twice the plan and more. They are kept only while there is room for
them: as soon as the process holds a share of what the budget leaves beside the plan, they are returned for good.
"""

from __future__ import annotations

from collections.abc import Callable

from longrepo.memory.budget import process_memory
from longrepo.utils.process import freed_bytes, return_freed_memory

WATCH_SECONDS = 0.1  # between two looks: by then a process can't have filled the rest of the budget
SLACK_SHARE = 0.25  # of what the budget leaves beside the plan
RETURN_LOOKS = 10  # from one return of blocks to the next, while the process still holds that much


class FreedBlocks:
    """Watches what this process holds beside its plan, and has freed blocks returned in time.

    Since `reset_peak`: `at_peak`, bytes of freed blocks when the process held most, and `in_use`, the most that it held
    without such blocks, as far as looks ten times a second tell.
    """

    def __init__(
        self,
        resident: Callable[[], int] = lambda: process_memory().resident,
        kept: Callable[[], int] = freed_bytes,
        give_back: Callable[[], bool] = return_freed_memory,
    ) -> None:
        self._resident, self._kept, self._give_back = resident, kept, give_back
        self._peak = self.at_peak = self.in_use = 0
        self._returned, self._looks = False, 0

    def reset_peak(self) -> None:
        """Begin a new peak, as the process's own is begun."""
        self._peak = self.at_peak = self.in_use = 0

    def look(self, planned: int, allowed: int) -> int:
        """Return the bytes the process holds if its freed blocks had to be returned now, else 0. `planned`: bytes of
        the current method (0: not planned); `allowed`: bytes the process may hold."""
        held = self._resident()
        kept = 0 if self._returned else self._kept()  # the C library goes on counting blocks that it has returned
        self.in_use = max(self.in_use, held - kept)
        if held > self._peak:
            self._peak, self.at_peak = held, kept
        if not planned or held <= planned + SLACK_SHARE * max(0, allowed - planned):
            return 0
        if self._returned:  # blocks that were in use then may have left gaps since
            self._looks += 1
            if self._looks % RETURN_LOOKS == 0:
                self._give_back()
            return 0
        self._returned = True
        return held if self._give_back() else 0
