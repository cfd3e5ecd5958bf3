"""A run of the fake engine in a process of its own, which is killed in mid-step: RUN whole|memory|person.

`memory`: by the kernel, for the memory that its steps take while they keep everything in memory. `person`: by SIGKILL.
A RUN that is there is resumed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fake_engine import FakeEngine
from small_runs import Told, run
from test_step_down import DISK, MEMORY, SMALLER, planned

TOO_MUCH = 2 * 2**30


class Dying(FakeEngine):
    def __init__(self, dies_of: str) -> None:
        super().__init__()
        self.dies_of = dies_of

    def accumulate(self, batch, normalizer, key):  # type: ignore[no-untyped-def]
        if len(self.accumulated) == 9:  # in the middle of update 5
            if self.dies_of == "person":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.dies_of == "memory" and self.method.store == "memory":
                bytearray(b"x") * TOO_MUCH
        return super().accumulate(batch, normalizer, key)


def main() -> None:
    output, dies_of = Path(sys.argv[1]), sys.argv[2]
    resume = "auto" if output.exists() else None
    told, engine = Told(), Dying(dies_of)
    run(output, resume=resume, engine=engine, told=told, memory=planned(MEMORY, SMALLER, DISK))
    print("\n".join([*told.notes, f"used {engine.used}"]))


if __name__ == "__main__":
    main()
