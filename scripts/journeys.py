"""Follow a command through the package: which files it visits, in which order, and where it comes back to one.

    python scripts/journeys.py prepare --repo PATH [--list]
    python scripts/journeys.py train --sequences FOLDER [--list]

`prepare` goes from a repository to its sequences written; `train` from the command to the first optimizer update.
Three figures: `files` (of the package) in which a function was called; `crossings`, the distinct pairs (calling file,
called file); and `returns`, those of them that lead into a file that waits for this very call further down the stack:
callbacks and rings, which a reader has to hold in mind. Imports and other processes aren't followed. To compare two
checkouts run it with each one's `src` as PYTHONPATH; `--list` prints the files in order of their first call, with the
function.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import longrepo

PACKAGE = Path(longrepo.__file__).resolve().parent
STEP = {
    "prepare": (),
    "train": ("apply_update",),
}  # the function whose end ends the journey; none: the command's own end


class _Arrived(BaseException):
    """The journey's last call has returned."""


class Journey:
    """Calls between the package's files, as `sys.setprofile` reports them."""

    def __init__(self, last: tuple[str, ...]) -> None:
        self.first: dict[str, str] = {}  # file -> the function called first in it
        self.crossings: dict[tuple[str, str], bool] = {}  # -> whether the called file waits further down
        self._last = last
        self._files: dict[str, str | None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """A profile function."""
        if event not in ("call", "return"):
            return
        file, name = self._file(frame), frame.f_code.co_name
        if file is None or name == "<module>":
            return
        if event == "return":
            if name in self._last and file.startswith("engines"):
                sys.setprofile(None)
                raise _Arrived
            return
        callers = self._callers(frame)
        if callers is None:
            return
        self.first.setdefault(file, name)
        if callers and callers[0] != file:
            waits = file in callers
            self.crossings[callers[0], file] = self.crossings.get((callers[0], file), False) or waits

    def _callers(self, frame: FrameType) -> list[str] | None:
        """The package's files below on the stack, nearest first; None while one of them is imported."""
        found: list[str] = []
        below = frame.f_back
        while below is not None:
            file = self._file(below)
            if file is not None:
                if below.f_code.co_name == "<module>":
                    return None
                found.append(file)
            below = below.f_back
        return found

    def _file(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        if name not in self._files:
            path = Path(name)
            self._files[name] = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else None
        return self._files[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journey", choices=STEP)
    parser.add_argument("--repo", type=Path, help="for prepare")
    parser.add_argument("--sequences", type=Path, help="for train: what prepare wrote with --model embedded")
    parser.add_argument("--list", action="store_true", help="also the files, in order of their first call")
    given = parser.parse_args()
    needed = given.repo if given.journey == "prepare" else given.sequences
    if needed is None or not needed.exists():
        parser.error("prepare needs --repo PATH, train needs --sequences FOLDER, and it must be there")
    os.environ["LONGREPO_CACHE"] = "off"
    journey = Journey(STEP[given.journey])
    with tempfile.TemporaryDirectory() as scratch:
        words = {
            "prepare": ["prepare", "--repo", str(given.repo), "--model", "embedded", "--output-dir", f"{scratch}/out"],
            "train": [
                "train", "--sequences", str(given.sequences), "--model", "embedded", "--output", f"{scratch}/run",
                "--set", "model.quantization=none", "--engine", "torch",
            ],
        }[given.journey]  # fmt: skip
        _run(words, journey)
    if given.list:
        for file, name in journey.first.items():
            print(f"{file}: {name}")
    returns = sum(journey.crossings.values())
    print(f"{given.journey}: {len(journey.first)} files, {len(journey.crossings)} crossings, {returns} returns")


def _run(words: list[str], journey: Journey) -> None:
    try:
        from longrepo.cli.app import app
    except ImportError:  # a checkout from before the package was laid out anew
        from longrepo.commands.app import app  # type: ignore[import-not-found,no-redef]
    sys.setprofile(journey)
    try:
        app(words, standalone_mode=False)
    except _Arrived:
        pass
    except SystemExit as stopped:
        if stopped.code:
            raise
    finally:
        sys.setprofile(None)


if __name__ == "__main__":
    main()
