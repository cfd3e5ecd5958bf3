"""Planted secrets that survive redaction (aim: 0), and false redactions in 10,000 lines of real code (aim: 1 at most).

python benchmarks/data/redaction.py --repository rich=rich.git --repository flask=flask.git [--output figures.json]

(a) Secrets made by chance, of every kind in every form, go into the files, the old versions and the messages of a git
repository made here; then each version and message is redacted, and what is left is searched for each secret.
Authors' names are planted likewise, in many scripts and spellings.
(b) HEAD of each repository given is redacted. E-mail addresses and git's authors' names are what they are; every other
redaction was read once: those that replace what a scanner would have to report stand in redaction_reviewed.json, as
hashes of repository, path and line, and any other counts as false. --review writes them all with their lines, to read.

The file is not called secrets.py because numpy imports the standard library's module of that name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from redaction_planted import NAMES, Planted, planted
from rich.console import Console
from rich.table import Table

from longrepo.redaction.redactor import RedactedText, Redactor
from longrepo.repository.languages import language_of
from longrepo.repository.repository import Repository

REVIEWED = Path(__file__).with_name("redaction_reviewed.json")
OF_PEOPLE = {"email", "name"}
AUTHORS = (("Henrietta Marlow", "henrietta@marlow-harbour.net"), ("Tomás Quiroga Ibarra", "tq@quiroga.io"))
WHOLE_NAMES = {".env", ".netrc", ".npmrc", ".pgpass", ".pypirc", "Dockerfile"}
FILLER = (
    "def total(rows):",
    "    return sum(row.amount for row in rows)",
    "",
    "for item in items:",
    "    handle(item)",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", action="append", default=[], metavar="NAME=PATH", help="real code, (b)")
    parser.add_argument("--rounds", type=int, default=2, help="how many times each kind and form is planted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--review", type=Path, help="write each redaction of (b) with its line here")
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    figures = {"planted": plant_and_look(planted(given.seed, given.rounds), given.seed), "names": plant_names()}
    if given.repository:
        repositories = dict(one.split("=", 1) for one in given.repository)
        figures["real code"] = on_real_code({name: Path(path) for name, path in repositories.items()}, given.review)
    show(figures)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=2) + "\n")


def plant_and_look(secrets: list[Planted], seed: int) -> dict[str, dict[str, int]]:
    """Per kind: how many secrets were read from the repository before redaction, and how many after it."""
    kinds = Counter[str]()
    for one in secrets:
        kinds[one.kind] += 1
    with tempfile.TemporaryDirectory() as folder:
        make_repository(Path(folder), secrets, random.Random(seed))
        before, after = read_all(Path(folder))
    seen = Counter(one.kind for one in secrets if all(value in before for value in one.values))
    left = Counter(one.kind for one in secrets if any(value in after for value in one.values))
    people = [name for name, _ in AUTHORS]
    figures = {kind: {"planted": n, "read": seen[kind], "left": left[kind]} for kind, n in sorted(kinds.items())}
    figures["author's name"] = {
        "planted": len(people),
        "read": sum(name in before for name in people),
        "left": sum(name in after for name in people),
    }
    return figures


def plant_names() -> dict[str, dict[str, int]]:
    """Per script: how many spellings of an author's name, composed and decomposed, are left in comments, prose, data,
    messages and paths."""
    figures: dict[str, dict[str, int]] = {}
    for script, (author, spellings) in NAMES.items():
        redactor = Redactor([(author, "someone@corp.invalid")])
        forms = {unicodedata.normalize(form, one) for one in spellings for form in ("NFC", "NFD")}
        left = 0
        for one in forms:
            texts = [
                redactor.text(f"# {one} wrote this\n", "Python").text,
                redactor.text(f"Thanks to {one}.\n", "Markdown").text,
                redactor.text(f'{{"author": "{one}"}}\n', "JSON").text,
                redactor.message(f"Change it\n\nAs {one} asked.").text,
                redactor.path(f"people/{one}/a.py"),
            ]
            left += sum(one in text for text in texts)
        figures[script] = {"planted": 5 * len(forms), "left": left}
    return figures


def make_repository(folder: Path, secrets: list[Planted], chance: random.Random) -> None:
    """Half of the secrets, then the other half in their place, then none: so most stand in old versions alone. Each in
    several commits, as one of more than 30 files is left out as bulk; a message's secrets stand in a message."""
    git(folder, "init", "-q", "-b", "main")
    for half in (secrets[: len(secrets) // 2], secrets[len(secrets) // 2 :], []):
        by_name: dict[str, list[Planted]] = {path.name: [] for path in folder.iterdir() if path.is_file()}
        for one in half:
            if one.suffix != "message":
                by_name.setdefault(one.suffix if one.suffix in WHOLE_NAMES else f"code{one.suffix}", []).append(one)
        messages = [one.lines for one in half if one.suffix == "message"]
        for number, names in enumerate(batched(sorted(by_name), 20)):
            for name in names:
                parts = [text for one in by_name[name] for text in (*chance.sample(FILLER, 2), one.lines)]
                (folder / name).write_text("\n".join([f"# {AUTHORS[1][0]}", *parts, ""]))
            paragraphs = [f"Change {number}", f"With help from {AUTHORS[0][0]}.", *messages]
            git(folder, "add", "-A")
            git(folder, "commit", "-q", "--allow-empty", "-m", "\n\n".join(paragraphs), author=AUTHORS[number % 2])
            messages = []


def batched(names: list[str], size: int) -> Iterator[list[str]]:
    return (names[at : at + size] for at in range(0, len(names), size))


def read_all(folder: Path) -> tuple[str, str]:
    """Everything that a dataset could hold of this repository, as it is and redacted."""
    redactor = Redactor(AUTHORS)
    before, after = [], []
    with Repository.open(folder) as repository:
        tip = repository.resolve()
        texts = [(file.path, file.text) for file in repository.snapshot(tip).files]
        for commit in repository.commits(tip):
            before.append(commit.message)
            after.append(redactor.message(commit.message).text)
            texts += [(c.path, text) for c in commit.changes for text in (c.before, c.after) if text is not None]
    for path, text in texts:
        redacted = redactor.text(text, language_of(path, text))
        assert redacted.text.count("\n") == text.count("\n"), f"{path}: lines were lost"
        before.append(text)
        after.append(redacted.text)
    return "\0".join(before), "\0".join(after)


def on_real_code(repositories: dict[str, Path], review: Path | None) -> dict[str, dict[str, object]]:
    """Per repository: lines, redactions by kind, how many of them are false, and characters redacted in a second."""
    reviewed = set(json.loads(REVIEWED.read_text())["true"])
    notes: list[str] = []
    figures: dict[str, dict[str, object]] = {}
    for name, path in repositories.items():
        with Repository.open(path) as repository:
            snapshot = repository.snapshot(repository.resolve())
        redactor = Redactor(people_of(path))
        start = time.process_time()
        results = [(file, redactor.text(file.text, file.language)) for file in snapshot.files]
        seconds = time.process_time() - start
        kinds: Counter[str] = Counter()
        false = 0
        for file, result in results:
            for line, kind in {(finding.line, finding.kind) for finding in result.findings}:
                kinds[kind] += 1
                mark = hashlib.sha256(f"{name}:{file.path}:{line}".encode()).hexdigest()[:16]
                false += kind not in OF_PEOPLE and mark not in reviewed
                notes.append(f"{mark} {kind} {name} {file.path}:{line} | {excerpt(file.text, result, line)}")
        figures[name] = {
            "commit": snapshot.commit,
            "lines": sum(file.text.count("\n") + 1 for file in snapshot.files),
            "redacted lines": dict(kinds.most_common()),
            "false": false,
            "MB/s": sum(len(file.text) for file in snapshot.files) / 1e6 / seconds,
        }
    if review:
        review.write_text("\n".join(sorted(notes)) + "\n")
    return figures


def excerpt(text: str, result: RedactedText, line: int) -> str:
    return f"{text.split(chr(10))[line - 1].strip()[:160]} => {result.text.split(chr(10))[line - 1].strip()[:160]}"


def people_of(path: Path) -> set[tuple[str, str]]:
    """(name, e-mail) of every author and committer."""
    lines = git(path, "log", "--format=%an%x00%ae%n%cn%x00%ce").split("\n")
    return {(name, email) for name, _, email in (line.partition("\0") for line in lines) if name}


def git(folder: Path, *arguments: str, author: tuple[str, str] = AUTHORS[0]) -> str:
    name, email = author
    people = {f"GIT_{role}_NAME": name for role in ("AUTHOR", "COMMITTER")}
    people |= {f"GIT_{role}_EMAIL": email for role in ("AUTHOR", "COMMITTER")}
    env = os.environ | people | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=folder, env=env, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "replace")


def show(figures: dict[str, dict[str, dict[str, object]]]) -> None:
    console = Console()
    table = Table(title="planted secrets")
    for column in ("kind", "planted", "read from git", "left after redaction"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    rows = figures["planted"]
    for kind, row in rows.items():
        table.add_row(kind, *(str(row[column]) for column in ("planted", "read", "left")))
    table.add_row("together", *(str(sum(int(str(r[c])) for r in rows.values())) for c in ("planted", "read", "left")))
    console.print(table)
    names = figures["names"].values()
    total, left = (sum(int(str(row[column])) for row in names) for column in ("planted", "left"))
    console.print(f"names of authors in {len(names)} scripts and spellings: {total:,} planted, {left} left")
    if "real code" not in figures:
        return
    table = Table(title="false redactions on real code")
    for column in ("repository", "lines", "redacted lines by kind", "false", "per 10,000 lines", "MB/s"):
        table.add_column(column, justify="left" if column in ("repository", "redacted lines by kind") else "right")
    lines = false = 0
    for name, row in figures["real code"].items():
        here, wrong, kinds = int(str(row["lines"])), int(str(row["false"])), row["redacted lines"]
        lines, false = lines + here, false + wrong
        assert isinstance(kinds, dict)
        said = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        table.add_row(
            name, f"{here:,}", said, str(wrong), f"{wrong / here * 1e4:.2f}", f"{float(str(row['MB/s'])):.1f}"
        )
    table.add_row("together", f"{lines:,}", "", str(false), f"{false / lines * 1e4:.2f}", "")
    console.print(table)


if __name__ == "__main__":
    main()
