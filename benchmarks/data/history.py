"""How fast all commits' changes are read (the old and the new text of every changed file), beside git itself,
GitPython and PyDriller.

    pip install pydriller
    python benchmarks/data/history.py --repository rich=../rich --repository scrapy=../scrapy [--output history.json]

"bare git" is `git log --raw -z -M --no-merges` and then `git cat-file --batch --buffer` of the object ids that
longrepo reads, each once, into nothing; "both at once" runs the two side by side. Each is run `--repeats` times, in
turn, and the fastest counts. GitPython and PyDriller read `--sample` commits spread evenly over the same ones. Rates
are of commits that longrepo reads (no merges, no bots, no reverts, at most 30 files).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longrepo.repository.repository import Repository

LARGEST = 1_000_000  # bytes of a file, as longrepo reads them
LOG = ("log", "--raw", "-z", "-M", "--no-merges", "--no-abbrev", "--format=%H%n%P%n%an%n%ae%n%B")
ROWS = ("longrepo", "bare git, one after the other", "bare git, both at once", "GitPython", "PyDriller")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=300)
    options = parser.parse_args()
    found = {}
    for each in options.repository:
        name, _, path = each.partition("=")
        found[name] = measure(Path(path).resolve(), options.repeats, options.sample)
        show(name, found[name])
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def measure(path: Path, repeats: int, sample: int) -> dict[str, object]:
    """Commits, objects and, by row, commits a second."""
    with Repository.open(path) as repository:
        records = list(repository.log("HEAD"))
        blobs = dict.fromkeys(b for record in records for one in record.changes for b in (one.before, one.after) if b)
        sizes = list(git(path, "cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=blobs))
        read = [words[0] for words in map(str.split, sizes) if words[1].isdigit() and int(words[1]) <= LARGEST]
        ids = [record.id for record in records]
        times: dict[str, list[float]] = {row: [] for row in ROWS}
        for _ in range(repeats):
            times["longrepo"].append(timed(lambda: sum(1 for _ in repository.commits("HEAD"))))
            log, texts = timed(lambda: bare(path, read, log=True)), timed(lambda: bare(path, read, texts=True))
            times["bare git, one after the other"].append(log + texts)
            times["bare git, both at once"].append(timed(lambda: bare(path, read, log=True, texts=True)))
    spread = ids[:: max(1, len(ids) // sample)][:sample]
    times["GitPython"].append(timed(lambda: gitpython(path, spread)))
    times["PyDriller"].append(timed(lambda: pydriller(path, spread)))
    counts = {row: len(spread) if row in ("GitPython", "PyDriller") else len(ids) for row in ROWS}
    return {
        "commits": len(ids),
        "objects": len(read),
        "bytes": sum(int(words[1]) for words in map(str.split, sizes) if words[0] in set(read)),
        "versions": {"git": next(iter(git(path, "version"))), **{name: version(name) for name in ROWS[3:]}},
        "cores": os.cpu_count(),
        "commits_per_second": {row: counts[row] / min(times[row]) for row in ROWS},
        "seconds": times,
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def git(path: Path, *arguments: str, stdin: Iterable[str] = ()) -> list[str]:
    lines = "".join(f"{line}\n" for line in stdin)
    done = subprocess.run(["git", *arguments], cwd=path, input=lines, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def bare(path: Path, blobs: list[str], log: bool = False, texts: bool = False) -> None:
    with tempfile.TemporaryFile("w+") as ids:
        ids.write("".join(f"{one}\n" for one in blobs))
        ids.seek(0)
        commands = [LOG] * log + [("cat-file", "--batch", "--buffer")] * texts
        running = [subprocess.Popen(["git", *one], cwd=path, stdin=ids, stdout=subprocess.DEVNULL) for one in commands]
        if any(process.wait() for process in running):
            raise SystemExit(f"git failed in {path}")


def gitpython(path: Path, ids: list[str]) -> None:
    from git import NULL_TREE, Repo

    repo = Repo(path)
    for one in ids:
        commit = repo.commit(one)
        for diff in commit.parents[0].diff(commit) if commit.parents else commit.diff(NULL_TREE):
            for blob, mode in ((diff.a_blob, diff.a_mode), (diff.b_blob, diff.b_mode)):
                if blob and mode and mode & 0o170000 == 0o100000:
                    blob.data_stream.read().decode("utf-8", "replace")


def pydriller(path: Path, ids: list[str]) -> None:
    from pydriller import Git

    reader = Git(str(path))
    for one in ids:
        for file in reader.get_commit(one).modified_files:
            assert file.source_code != file.source_code_before or file.source_code is None or file.old_path


def show(name: str, found: dict[str, object]) -> None:
    rates: dict[str, float] = found["commits_per_second"]  # type: ignore[assignment]
    versions: dict[str, str] = found["versions"]  # type: ignore[assignment]
    title = f"{name}: {found['commits']} commits, {found['objects']} texts, {int(str(found['bytes'])) / 1e6:.0f} MB"
    table = Table(title=title, caption=f"{', '.join(versions.values())}, {found['cores']} cores")
    for column in ("reader", "commits/s", "longrepo is, ×"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    for row in ROWS:
        table.add_row(row, f"{rates[row]:.0f}", f"{rates['longrepo'] / rates[row]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
