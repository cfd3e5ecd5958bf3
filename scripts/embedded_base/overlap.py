"""Exclusions by name, and near-duplicates by shared lines, between the sources and a repository.

A line counts when it has 25 characters or more after stripping and is not in the repository's
own list of commonplaces (a line that stands in more than one source package). A file is reported
when 30 % or more of at least eight such lines stand in one source document.
"""

from __future__ import annotations

import collections
import hashlib
import json
import subprocess
from pathlib import Path, PurePosixPath

from catalogue import LANGUAGES

SHARE, LINES = 0.3, 8


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
        for line in map(str.strip, text.split("\n")) if len(line) >= 25
    }


def repository_overlap(corpus: Path, repository: Path) -> int:
    """Print files of a git repository that resemble a source document; 1 if there are any, else 0."""
    owners: dict[int, list[int]] = collections.defaultdict(list)
    packages: dict[int, set[str]] = collections.defaultdict(set)
    names = []
    with open(corpus) as opened:
        for number, line in enumerate(opened):
            row = json.loads(line)
            names.append(f"{row['repository']}/{row['path']}")
            for value in line_hashes(row["text"]):
                owners[value].append(number)
                packages[value].add(row["repository"])
    listed = subprocess.run(["git", "-C", str(repository), "ls-files", "-z"], check=True, capture_output=True)
    found = checked = 0
    for name in filter(None, listed.stdout.decode(errors="replace").split("\0")):
        path = repository / name
        if path.suffix not in LANGUAGES or not path.is_file():
            continue
        checked += 1
        hashes = {value for value in line_hashes(path.read_text(errors="replace")) if len(packages.get(value, ())) < 2}
        votes = collections.Counter(owner for value in hashes for owner in owners.get(value, ()))
        if len(hashes) >= LINES and votes and votes.most_common(1)[0][1] >= SHARE * len(hashes):
            owner, shared = votes.most_common(1)[0]
            print(f"{name}: {shared} of {len(hashes)} lines stand in {names[owner]}")
            found += 1
    print(f"{repository.name}: {checked} files checked, {found} resemble a source document")
    return 1 if found else 0
