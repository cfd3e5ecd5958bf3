"""Exclusions by name, and near-duplicates by shared lines, between the sources and a repository.

A line counts when it has 25 characters or more after stripping and is no commonplace (a line that
stands in more than one source package). A file is reported
when 30 % or more of at least eight such lines stand in one source document.
"""

from __future__ import annotations

import collections
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from catalogue import LANGUAGES

SHARE, LINES = 0.3, 8
LICENCE_WORDS = re.compile(r"copyright|licen[sc]e", re.I)


def excluded_names() -> frozenset[str]:
    """Lower-case repository names of the file `exclusions`, without their owners."""
    lines = (Path(__file__).parent / "exclusions").read_text().split("\n")
    return frozenset(line.strip().rsplit("/", 1)[-1].lower() for line in lines if line.strip() and line[0] != "#")


def excluded_segment(path: str) -> bool:
    """Whether a folder of the path (not the file) bears an excluded name, as a vendored copy would."""
    return any(part.lower() in excluded_names() for part in PurePosixPath(path).parts[:-1])


def line_hashes(text: str) -> set[int]:
    """64-bit hashes of the text's lines that are long enough to mean something."""
    return {
        int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big")
        for line in map(str.strip, text.split("\n"))
        if len(line) >= 25
    }


def without_licence(text: str) -> str:
    """Without a leading comment block that is about copyright (the notices stand in LICENSE-sources.md)."""
    block = re.match(r"\s*(/\*.*?\*/|(?:(?://|#)[^\n]*\n)+)\s*", text, re.S)
    if block and LICENCE_WORDS.search(block.group(1)) and not text.startswith("#!"):
        return text[block.end() :]
    return text


def tracked(repository: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of HEAD's source files, from a work tree or a bare repository."""
    git = ["git", "-C", str(repository)]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", "--name-only", "HEAD"], check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode(errors="replace").split("\0")):
        if PurePosixPath(name).suffix in LANGUAGES:
            shown = subprocess.run([*git, "cat-file", "blob", f"HEAD:{name}"], capture_output=True)
            yield name, shown.stdout.decode(errors="replace")


def repository_overlap(corpus: Path, repositories: list[Path]) -> int:
    """Print files of git repositories that resemble a source document; 1 if there are any, else 0."""
    owners: dict[int, list[int]] = collections.defaultdict(list)
    names, packages = [], []
    with open(corpus) as opened:
        for number, line in enumerate(opened):
            row = json.loads(line)
            names.append(f"{row['repository']}/{row['path']}")
            packages.append(row["repository"])
            for value in line_hashes(row["text"]):
                owners[value].append(number)
    found = 0
    for repository in repositories:
        checked, before = 0, found
        for name, text in tracked(repository):
            checked += 1
            hashes = {
                value
                for value in line_hashes(without_licence(text))
                if len({packages[n] for n in owners.get(value, ())}) < 2
            }
            votes = collections.Counter(owner for value in hashes for owner in owners.get(value, ()))
            if len(hashes) >= LINES and votes and votes.most_common(1)[0][1] >= SHARE * len(hashes):
                owner, shared = votes.most_common(1)[0]
                print(f"{repository}: {name}: {shared} of {len(hashes)} lines stand in {names[owner]}")
                found += 1
        print(f"{repository}: {checked} files checked, {found - before} resemble a source document", flush=True)
    return 1 if found else 0
