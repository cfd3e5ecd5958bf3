"""Everything in benchmarks/data, one after the other, and the one table at the end.

    python benchmarks/data/reproduce.py --folder CLONES [--work /tmp/data_benchmarks] [--rounds 3]

CLONES holds bare clones by name (rich.git, scrapy.git, …); what is missing is said, with the commands that get it at
the commit that was measured, and left out. Each script's figures are kept in the work folder as JSON, and what it
printed as text beside it: run again, only what isn't there yet is done; --again STEP does a step anew. Exit status 1 if
a script failed or a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from prepare import PARTS
from prepare_parts import git, machine
from table import all_rows, show

HERE = Path(__file__).parent
EDGES = HERE / "import_edges.json"
COMMITS = {
    "ansible": ("ansible/ansible", "c9ac477e53a99e95781f333eec3329a935c1bf95"),
    "axios": ("axios/axios", "23a25af0688d1db2c396deb09229d2271cc24f6c"),
    "curl": ("curl/curl", "5c61e168698a72b87437d58ed728bcdea6d5db42"),
    "fastapi": ("fastapi/fastapi", "6d9dc39fcb3eb3bcd9c2a693683d68311d1618e0"),
    "flask": ("pallets/flask", "2ac89889f4cc330eabd50f295dcef02828522c69"),
    "gin": ("gin-gonic/gin", "dcaa4296d111981ffb31ac3eba90bb63e1eb5ab9"),
    "gson": ("google/gson", "9835b6f90192f79cdf5300c528fc6212455fb6c1"),
    "rich": ("Textualize/rich", "42899d8a0a96b121a514516f4be9db44ff7aeaf3"),
    "ripgrep": ("BurntSushi/ripgrep", "3fce3b5bb0236da2df6d99672afb8a719642eca7"),
    "scrapy": ("scrapy/scrapy", "11079cb1c85b9e75a39a7269943c69d1a975d485"),
}
OF_HISTORY = ("rich", "scrapy")
OF_CODE = ("rich", "flask", "scrapy", "ripgrep", "gin", "axios", "gson")
OF_QUESTIONS = ("scrapy", "ripgrep", "gin", "axios", "gson", "curl")
OF_PREPARING = ("rich", "scrapy", "fastapi")
LARGE = ("ansible",)
STEPS = ("history", "outlines", "import_edges", "redaction", "questions", "prepare", "leaks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, metavar="CLONES")
    parser.add_argument("--work", type=Path, default=Path("data_benchmarks"), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3, help="of what prepare.py times")
    parser.add_argument("--again", action="append", default=[], choices=STEPS)
    given = parser.parse_args()
    run = Reproduction(given.folder.resolve(), given.work.resolve(), given.rounds, given.again)
    run.look()
    failed = [step for step in STEPS if not run.step(step)]
    rows = all_rows(run.work)
    show(rows, run.machine)
    if failed:
        print(f"failed: {', '.join(failed)}; see the .txt of each in {run.work}", file=sys.stderr)
    return int(bool(failed) or any(row.met is False for row in rows))


class Reproduction:
    """Which clones there are, and what of the work is done."""

    def __init__(self, folder: Path, work: Path, rounds: int, again: Sequence[str]) -> None:
        self.folder, self.work, self._rounds, self._again = folder, work, rounds, again
        work.mkdir(parents=True, exist_ok=True)
        self.machine = machine()
        (work / "machine.json").write_text(json.dumps(self.machine, indent=1) + "\n")

    def look(self) -> None:
        """Note the HEAD of each clone; say what is missing or at another commit, and how to get it."""
        edges = json.loads(EDGES.read_text())["samples"]
        wanted = dict(COMMITS)
        for sample in edges:
            wanted.setdefault(sample["repository"].split("/")[1], (sample["repository"], sample["commit"]))
        heads = {}
        for name, (full_name, commit) in sorted(wanted.items()):
            clone = self.folder / f"{name}.git"
            if not clone.exists():
                get = f"git clone --bare https://github.com/{full_name} {clone}"
                print(f"missing, left out: {name}\n  {get} && git -C {clone} update-ref HEAD {commit}")
                continue
            heads[name] = git(clone, "rev-parse", "HEAD")
            if heads[name] != commit:
                print(f"{name} is at {heads[name][:10]}, measured before was {commit[:10]}")
        (self.work / "repositories.json").write_text(json.dumps(heads, indent=1) + "\n")
        self.full_names = {name: full_name for name, (full_name, _) in wanted.items() if name in heads}

    def step(self, step: str) -> bool:
        """Run a script if its figures aren't there yet; whether they are there now."""
        output = self.work / f"{step}.json"
        if output.exists() and step not in self._again and step != "prepare":
            return True
        output.unlink(missing_ok=True)
        arguments = self._arguments()[step]
        if arguments:
            self._run(step, [*arguments, "--output", output])
        return output.exists() or not arguments

    def _run(self, step: str, arguments: Sequence[str | Path]) -> None:
        command = [sys.executable, HERE / f"{step}.py", *arguments]
        print(f"\n{step}: {' '.join(map(str, command))}", flush=True)
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src"), "COLUMNS": "150"}
        with (
            (self.work / f"{step}.txt").open("w") as text,
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                text.write(line)

    def _there(self, names: Iterable[str]) -> dict[str, Path]:
        return {name: self.folder / f"{name}.git" for name in names if name in self.full_names}

    def _named(self, names: Iterable[str], option: str = "--repository") -> list[str | Path]:
        return [word for name, path in self._there(names).items() for word in (option, f"{name}={path}")]

    def _arguments(self) -> dict[str, list[str | Path]]:
        """Of each script; none where no clone is there for it."""
        samples = json.loads(EDGES.read_text())["samples"]
        edges = self._there(dict.fromkeys(sample["repository"].split("/")[1] for sample in samples))
        prepare = [*self._named(OF_PREPARING), *self._named(LARGE, "--large")]
        how: list[str | Path] = ["--work", self.work / "prepare", "--rounds", str(self._rounds)]
        anew = [word for part in PARTS for word in ("--again", part)] if "prepare" in self._again else []
        prepared = [self.work / "prepare" / "prepared" / name / "sequences" for name in (*OF_PREPARING, *LARGE)]
        return {
            "history": self._named(OF_HISTORY),
            "outlines": self._named((*OF_CODE, "curl")),
            "import_edges": [
                word for name, path in edges.items() for word in ("--repository", f"{self.full_names[name]}={path}")
            ],
            "redaction": self._named(OF_CODE),
            "questions": list(self._there(OF_QUESTIONS).values()),
            "prepare": [*prepare, *how, *anew] if prepare else [],
            "leaks": [folder for folder in prepared if folder.exists()],
        }


if __name__ == "__main__":
    sys.exit(main())
