"""Kill a training run again and again, resume it each time, and compare its end bit for bit with a run left alone.

    python benchmarks/kill_and_resume.py --kills 50 --work /tmp/kills

Makes a small git repository, tokenizes it, trains on it with the embedded model (on the CPU, dropout on) once without
interruption, then with SIGKILLs: a third aimed at a save being written, some at the start of the process, the rest at
random moments. A run that ends before all kills are spent is compared, and another is begun. Stopped itself, it goes
on where it was with the same --work. Exit status 0 only if every run ended with the same adapter, the same optimizer
state and the same metrics.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (
    "long_context.phase1_max_length=128", "long_context.phase1_epochs=2", "long_context.phase2_min_length=192",
    "long_context.phase2_max_length=256", "long_context.phase2_epochs=2", "long_context.phase3_min_length=384",
    "long_context.phase3_max_length=512", "long_context.phase3_epochs=1", "long_context.phase3_enabled=true",
    "data.overlap=16", "lora.r=4", "lora.alpha=8", "lora.dropout=0.1", "training.base_learning_rate=0.001",
    "training.gradient_accumulation_steps=2", "training.max_tokens_per_epoch=2000", "training.save_every_steps=1",
    "training.max_validation_sequences=3",
)  # fmt: skip
WORDS = (
    "parse", "render", "load", "store", "index", "merge", "split", "count", "token", "chunk", "graph", "node", "edge",
    "queue", "frame", "batch",
)  # fmt: skip
PATIENCE = 1800  # seconds one process may take until it shows progress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("kill_and_resume"), help="where everything is kept")
    parser.add_argument("--engine", choices=["torch", "mlx"], default="torch")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    bench = Bench(arguments.work.resolve(), arguments.seed, arguments.engine, arguments.overrides)
    bench.copy_code()
    bench.make_data()
    bench.train_undisturbed()
    while bench.kills < arguments.kills:
        bench.one_life()
    bench.finish()
    return bench.report()


class Bench:
    """The work folder: data, the undisturbed run, the killed runs, and a record of every kill."""

    def __init__(self, work: Path, seed: int, engine: str, overrides: list[str]) -> None:
        self.work, self.seed, self.engine, self.overrides = work, seed, engine, overrides
        work.mkdir(parents=True, exist_ok=True)
        self._lock = (work / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"{work}: another benchmark is at work there; wait for it or give another --work")
        self.record = work / "kills.json"
        self.done: dict[str, Any] = {"kills": [], "rounds": []}
        if self.record.exists():
            self.done = json.loads(self.record.read_text())

    @property
    def kills(self) -> int:
        return len(self.done["kills"])

    @property
    def killed_run(self) -> Path:
        return self.work / f"killed-{len(self.done['rounds']) + 1}"

    def copy_code(self) -> None:
        """Run a copy of the code and its model: an edit between two lives would look like a broken resume."""
        self.code = self.work / "code"
        if not self.code.exists():
            beside = self.work / "code.writing"
            shutil.rmtree(beside, ignore_errors=True)
            for folder in ("src", "training", "tokenizers"):
                shutil.copytree(ROOT / folder, beside / folder, ignore=shutil.ignore_patterns("__pycache__"))
            beside.rename(self.code)

    def make_data(self) -> None:
        self.sequences = self.work / "sequences.jsonl"
        if self.sequences.exists():
            return
        repository = self.work / "repository"
        make_repository(repository, random.Random(self.seed))
        self._longrepo(
            "tokenizers/git_tokenizer_rich.py", "--repo", str(repository), "--model", "embedded",
            "--output", str(self.sequences), "--sequence-length", "512", "--overlap", "16", *self._sets(),
        ).wait()  # fmt: skip
        if not self.sequences.exists():
            sys.exit(f"no sequences were made; see {self.work / 'log.txt'}")

    def train_undisturbed(self) -> None:
        run = self.work / "undisturbed"
        if not (run / "adapter").exists():
            began = time.monotonic()
            if self._trainer(run).wait() != 0:
                sys.exit(f"the undisturbed run failed; see {self.work / 'log.txt'}")
            self.done["undisturbed_seconds"] = time.monotonic() - began
            self._write()

    def one_life(self) -> None:
        """Start or resume the killed run, let it make progress, kill it, and note where it was hit."""
        chance = random.Random(f"{self.seed}/{self.kills}/{len(self.done['rounds'])}")
        aim = chance.choices(("a save", "a start", "any moment"), (6, 1, 9))[0]
        run = self.killed_run
        process = self._trainer(run)
        if not wait_for_moment(process, run, aim, chance):
            if process.wait() != 0:
                sys.exit(f"a resumed run failed; see {self.work / 'log.txt'}")
            self._compare(run)
            return
        process.send_signal(signal.SIGKILL)
        process.wait()
        writing = sorted(path for path in (run / "checkpoints").glob(".writing-*")) if run.exists() else []
        hit = "in a save" if writing else "at the start" if aim == "a start" else "between saves"
        files = sorted(path.name for path in writing[0].rglob("*") if path.is_file()) if writing else []
        self.done["kills"].append({"aimed at": aim, "hit": hit, "files": files, "update": updates_of(run)})
        print(f"kill {self.kills}: {hit}, update {updates_of(run)} of round {len(self.done['rounds']) + 1}", flush=True)
        self._write()

    def finish(self) -> None:
        """Let the last killed run come to its end."""
        if self.killed_run.exists():
            if self._trainer(self.killed_run).wait() != 0:
                sys.exit(f"the last resumed run failed; see {self.work / 'log.txt'}")
            self._compare(self.killed_run)

    def report(self) -> int:
        """Print the table; 0 only if every run ended as the undisturbed one."""
        hits = Counter(kill["hit"] for kill in self.done["kills"])
        print(f"\n{'moment of the kill':<24}{'kills':>6}")
        for moment, count in sorted(hits.items()):
            print(f"{moment:<24}{count:>6}")
        print(f"\n{'run':<16}{'kills':>6}  {'adapter':<11}{'optimizer':<11}{'metrics':<11}")
        for number, one in enumerate(self.done["rounds"], 1):
            same = [("identical" if one[key] else "DIFFERS") for key in ("adapter", "optimizer", "metrics")]
            print(f"{f'killed-{number}':<16}{one['kills']:>6}  " + "".join(f"{word:<11}" for word in same))
        good = all(one[key] for one in self.done["rounds"] for key in ("adapter", "optimizer", "metrics"))
        good = good and bool(self.done["rounds"])
        print(f"\n{self.kills} kills: every run ended the same" if good else f"\n{self.kills} kills: NOT the same")
        return 0 if good else 1

    def _compare(self, run: Path) -> None:
        one, other = fingerprint(self.work / "undisturbed"), fingerprint(run)
        before = sum(round_["kills"] for round_ in self.done["rounds"])
        self.done["rounds"].append({key: one[key] == other[key] for key in one} | {"kills": self.kills - before})
        print(f"{run.name} ended after {self.kills - before} kills: {self.done['rounds'][-1]}", flush=True)
        self._write()

    def _trainer(self, run: Path) -> subprocess.Popen[bytes]:
        resume = ["--resume", "auto"] if run.exists() else []
        return self._longrepo(
            "training/model_trainer_unified.py", "--sequences", str(self.sequences), "--output", str(run),
            "--model", "embedded", "--device", "cpu", "--engine", self.engine, *self._sets(), *resume,
        )  # fmt: skip

    def _sets(self) -> list[str]:
        return [word for override in (*SETTINGS, *self.overrides) for word in ("--set", override)]

    def _longrepo(self, door: str, *words: str) -> subprocess.Popen[bytes]:
        # One thread: the same bits are promised for the same number of threads.
        environment = os.environ | {
            "PYTHONPATH": str(self.code / "src"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with (self.work / "log.txt").open("a") as log:
            log.write(f"\n== {door} {' '.join(words)}\n")
            log.flush()
            return subprocess.Popen(
                [sys.executable, str(self.code / door), *words], stdout=log, stderr=log, env=environment
            )

    def _write(self) -> None:
        beside = self.record.with_suffix(".writing")
        beside.write_text(json.dumps(self.done, indent=1))
        beside.replace(self.record)


def wait_for_moment(process: subprocess.Popen[bytes], run: Path, aim: str, chance: random.Random) -> bool:
    """Wait for a moment to kill at; False if the process ended first. But for kills at the start, a life makes at
    least one new checkpoint, so that the run comes to its end."""
    began = time.monotonic()
    if aim == "a start":
        return _sleep(process, chance.uniform(0, 3))
    known = checkpoints_of(run)
    while process.poll() is None and checkpoints_of(run) <= known:
        if time.monotonic() - began > PATIENCE:
            process.kill()
            sys.exit(f"no new checkpoint in {PATIENCE} s: see the log")
        time.sleep(0.002)
    if aim == "a save":
        skip = chance.randrange(2)
        for _ in range(skip):
            _until_writing(process, run, False)
            _until_writing(process, run, True)
        _until_writing(process, run, False)
        return _until_writing(process, run, True) and _sleep(process, chance.uniform(0, 0.01))
    return _sleep(process, chance.uniform(0, max(0.2, (time.monotonic() - began) / 4)))


def _until_writing(process: subprocess.Popen[bytes], run: Path, writing: bool) -> bool:
    while process.poll() is None:
        if any((run / "checkpoints").glob(".writing-*")) == writing:
            return True
        time.sleep(0.0005)
    return False


def _sleep(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def checkpoints_of(run: Path) -> set[str]:
    return {path.parent.name for path in (run / "checkpoints").glob("[!.]*/manifest.json")}


def updates_of(run: Path) -> int:
    """Updates in the metrics: a few more than the last checkpoint holds, perhaps."""
    file = run / "metrics.jsonl"
    return file.read_text().count('"record": "update"') if file.exists() else 0


def fingerprint(run: Path) -> dict[str, Any]:
    """What must be the same: the final adapter, the last optimizer state, and every record but for the clock's."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("seconds", "tokens_per_second", "peak_memory", "memory")
    return {
        "adapter": hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest(),
        "optimizer": hashlib.sha256((run / "last" / "optimizer.safetensors").read_bytes()).hexdigest(),
        "metrics": [{k: v for k, v in record.items() if k not in measured} for record in records],
    }


def make_repository(folder: Path, chance: random.Random) -> None:
    """Twelve commits over eight small modules that import each other."""
    environment = os.environ | dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "bench")
    environment |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "bench@example.org")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "-q", "-b", "main", "."], cwd=folder, check=True, env=environment)
    for commit in range(12):
        for _ in range(3):
            name = chance.choice(WORDS[:8])
            body = "".join(_function(chance) for _ in range(chance.randint(4, 10)))
            (folder / f"{name}.py").write_text(
                f'"""The {name} module."""\n\nimport {chance.choice(WORDS[:8])}\n\n{body}'
            )
        when = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"{1700000000 + commit * 86400} +0000")
        subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
        subprocess.run(
            ["git", "commit", "-q", "--allow-empty", "-m", f"Change {commit}"],
            cwd=folder, check=True, env=environment | when,
        )  # fmt: skip


def _function(chance: random.Random) -> str:
    one, two, three = chance.sample(WORDS, 3)
    return (
        f"def {one}_{two}_{chance.randrange(100)}({three}s, limit={chance.randrange(1, 9)}):\n"
        f"    found = []\n    for {three} in {three}s:\n        if len(found) < limit and {three}.{two}():\n"
        f"            found.append({three}.{one}({chance.randrange(50)}))\n    return found\n\n\n"
    )


if __name__ == "__main__":
    sys.exit(main())
