"""The measurements of prepare.py: each gives the figures of one part on one repository."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measured_run import Measured, run, wait_until_quiet

from longrepo.data.dataset import read_sequences

ROOT = Path(__file__).parents[2]
NEW_COMMITS = 10
MANY = "data.max_commits=100000"
# What must not matter. Where the locale isn't installed, Python and git fall back to C, and the rest still differs.
SURROUNDINGS = {
    "C, cold cache": {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    "UTF-8, other clone, warm cache": {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"},
    "en_US, no cache": {"LC_ALL": "en_US.UTF-8", "TZ": "America/New_York", "LONGREPO_CACHE": "off"},
    "one core, other clone, cold cache": {"LC_ALL": "C", "PYTHONHASHSEED": "2"},
    "same again, warm cache": {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "3"},
}


class Bench:
    """The work folder and the figures so far: {"machine", "parts": {part: {repository: figures}}}."""

    def __init__(self, work: Path, rounds: int, patience: float) -> None:
        self.work, self.rounds, self.patience = work, rounds, patience
        work.mkdir(parents=True, exist_ok=True)
        self._record = work / "prepare.json"
        self.done: dict[str, Any] = {"machine": machine(), "parts": {}}
        if self._record.exists():
            self.done["parts"] = json.loads(self._record.read_text())["parts"]

    def wanted(self, part: str, name: str, only: Sequence[str], again: Sequence[str]) -> bool:
        """Whether it is still to be measured, or anew."""
        ways = {part, f"{part}/{name}"}
        if only and not ways & set(only):
            return False
        return bool(ways & set(again)) or name not in self.done["parts"].get(part, {})

    def keep(self, part: str, name: str, figures: dict[str, Any]) -> None:
        """Write them down at once."""
        self.done["parts"].setdefault(part, {})[name] = figures
        beside = self._record.with_suffix(".writing")
        beside.write_text(json.dumps(self.done, indent=1) + "\n")
        beside.replace(self._record)

    def output(self, name: str) -> Path:
        """Where a repository's sequences are left for other parts."""
        return self.work / "prepared" / name

    def cache(self, name: str, cold: bool = True) -> Path:
        """A cache folder, emptied where it is to be cold."""
        folder = self.work / "caches" / name
        if cold:
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def prepare(
        self,
        repository: Path,
        output: Path,
        cache: Path,
        extra: Sequence[str] = (),
        surroundings: dict[str, str] | None = None,
        **how: Any,
    ) -> Measured:
        """One run of prepare_long_context.py; `how` goes to `measured_run.run`."""
        command: list[str | Path] = [sys.executable, ROOT / "prepare_long_context.py", "--model", "embedded"]
        environment = (
            os.environ | {"PYTHONPATH": str(ROOT / "src"), "LONGREPO_CACHE": str(cache)} | (surroundings or {})
        )
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        return run(
            [*command, "--repo", repository, "--output-dir", output, *extra], environment, self.work / "log.txt", **how
        )

    def encode(self, sequences: Path, threads: int) -> dict[str, float]:
        """What tokenizer_rate.py says, on so many cores."""
        wait_until_quiet(self.patience)
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "RAYON_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__).with_name("tokenizer_rate.py")), str(sequences)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))


def throughput(bench: Bench, name: str, path: Path) -> dict[str, Any]:
    """Rates in tokens a second, a value for each round, and the runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rates: dict[str, list[float]] = {"preparing": [], "tokenizer, all cores": [], "tokenizer, one core": []}
    runs = []
    encoded: dict[str, float] = {}
    for _ in range(bench.rounds):
        once = bench.prepare(path, bench.output(name), bench.cache(name), patience=bench.patience)
        for row, threads in (("tokenizer, all cores", cores), ("tokenizer, one core", 1)):
            encoded = bench.encode(bench.output(name) / "sequences", threads)
            rates[row].append(encoded["encoded"] / encoded["seconds"])
        rates["preparing"].append(encoded["emitted"] / once.seconds)
        runs.append(once.as_dict())
    return of(path) | {"tokens": encoded["emitted"], "tokens_per_second": rates, "runs": runs}


def second_run(bench: Bench, name: str, path: Path) -> dict[str, Any]:
    """Seconds of the runs before and after ten commits, and of one with nothing new, a value for each round."""
    runs: dict[str, list[dict[str, Any]]] = {"first": [], "after 10 commits": [], "nothing new": []}
    output = bench.work / "second" / name
    for _ in range(bench.rounds):
        cache = bench.cache(name)
        for what in runs:
            revision = f"HEAD~{NEW_COMMITS}" if what == "first" else "HEAD"
            measured = bench.prepare(path, output, cache, ["--revision", revision], patience=bench.patience)
            runs[what].append(measured.as_dict())
    new = int(git(path, "rev-list", "--count", f"HEAD~{NEW_COMMITS}..HEAD"))
    return of(path) | {"new commits": new, "runs": runs}


def memory(bench: Bench, name: str, path: Path, extra: str = "") -> dict[str, Any]:
    """Of one run: bytes, seconds, changes read, tokens. The one with the default settings leaves its sequences."""
    output = bench.work / "many commits" / name if extra else bench.output(name)
    sets = ["--set", extra] if extra else []
    measured = bench.prepare(path, output, bench.cache(name), sets, memory=True).as_dict()
    summary = json.loads((output / "preparation_summary.json").read_text())
    changes = summary["repositories"][0]["history"]["changes"]
    tokens = sum(cell["tokens"] for phases in summary["sequences"].values() for cell in phases.values())
    figures = {"settings": extra or "default settings", "changes": changes, "tokens": tokens}
    return of(path) | figures | {"run": measured}


def fill(bench: Bench, name: str, path: Path) -> dict[str, Any]:
    """By phase, of training sequences: how many, mean of length / cap, share within the range; and the account."""
    output = bench.output(name)
    if not (output / "sequences").exists():
        bench.prepare(path, output, bench.cache(name))
    file = read_sequences(output / "sequences")
    summary = json.loads((output / "preparation_summary.json").read_text())
    pairs = zip(file.column("split"), file.lengths().tolist(), strict=True)
    lengths = [length for split, length in pairs if split == "train"]
    figures: dict[str, Any] = {}
    for band in file.header.bands:
        here = [length for length in lengths if band["floor"] < length <= band["cap"]]
        account = summary["accounts"][str(band["phase"])]
        dropped = sum(account["dropped"].values())
        figures[str(band["phase"])] = {
            "cap": band["cap"],
            "sequences": len(here),
            "fill": statistics.fmean(here) / band["cap"] if here else 0.0,
            "within": sum(band["low"] <= length for length in here) / max(len(here), 1),
            "tokenized": account["tokenized"],
            "used": account["used"],
            "dropped": account["dropped"],
            "without a reason": account["tokenized"] - account["used"] - dropped,
        }
    assert sum(one["sequences"] for one in figures.values()) == len(lengths), "a sequence of no phase"
    files = summary["repositories"][0]["files"]["count"]
    return of(path) | {"head": summary["repositories"][0]["head"], "text files": files, "phases": figures}


def identical(bench: Bench, name: str, path: Path) -> dict[str, Any]:
    """SHA-256 over all files of the output folder, by surroundings."""
    base = bench.work / "identical" / name
    shutil.rmtree(base, ignore_errors=True)
    clones = [base / folder / f"{name}.git" for folder in ("one", "another place")]
    for clone in clones:
        shutil.copytree(path, clone, symlinks=True)  # a partial clone can't be cloned
    caches = {"cold": bench.cache(name), "other": bench.cache(f"{name}-other")}
    found: dict[str, str] = {}
    for number, (what, surroundings) in enumerate(SURROUNDINGS.items()):
        output, cwd = base / f"output {number}", base / f"cwd {number}"
        cwd.mkdir()
        cache = caches["other" if "one core" in what else "cold"]
        clone = clones["other clone" in what]
        bench.prepare(clone, output, cache, (), surroundings, cwd=cwd, one_core="one core" in what)
        found[what] = folder_sha256(output)
    shutil.rmtree(base)
    return of(path) | {"sha256": found}


def folder_sha256(folder: Path) -> str:
    """Of all files' paths in it and bytes."""
    total = hashlib.sha256()
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        total.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()


def of(path: Path) -> dict[str, Any]:
    """What was measured, with which code, when."""
    return {
        "head": git(path, "rev-parse", "HEAD"),
        "commits": int(git(path, "rev-list", "--count", "HEAD")),
        "longrepo": git(ROOT, "describe", "--always", "--dirty") if (ROOT / ".git").exists() else "",
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def machine() -> dict[str, Any]:
    """Where it runs, with which versions and command."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "versions": {"Python": platform.python_version(), "git": git(ROOT, "--version").split()[-1]}
        | {one: version(one) for one in ("tokenizers", "tree-sitter", "datasets", "numpy")},
        "command": " ".join(["python", *sys.argv]),
    }


def git(path: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=path, capture_output=True, text=True, check=True).stdout.strip()
