"""Repositories of one file, of tests, of prose, of one large file, of one large package: prepared, and what is missing
said in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_helper import Made, make_repo
from small_packages import module
from whole import Case, prepared

from longrepo.config.loader import load_settings
from longrepo.data.tokenizer import RepoTokenizer

PROSE = "".join(
    f"Paragraph {n} says how lever {n * 7} opens room {n * n % 97}, and what is in it.\n" for n in range(80)
)
NO_VALIDATION = "validation: no targets, so there are no figures: training holds out some of its own sequences instead"
NO_TEST = "test: no targets, so there are no figures: whether tuning helped can't be measured"
CASES = {
    "one file": (
        {"main.py": module("main", None, 12)},
        ["main.py is the only file: no sequence shows another, and none can be held out", NO_VALIDATION, NO_TEST],
    ),
    "one large file": (
        {"large.py": module("large", None, 90), "a.py": module("a", None, 2)},
        ["large.py holds 98% of the text: most sequences have few other files to show"],
    ),
    "tests": (
        {f"tests/test_{name}.py": module(name, None, 8) for name in ("ash", "bay")} | {"README.md": "Tests.\n"},
        ["all code is tests: what they test isn't among the files, so it can't be shown"],
    ),
    "prose": (
        {"README.md": PROSE, "docs/guide.rst": PROSE.replace("lever", "wheel")},
        ["no file is code: nothing of definitions, calls and imports is taught or measured"],
    ),
    "code and its tests": ({"src/ash.py": module("ash", None, 8), "tests/test_ash.py": module("bay", None, 8)}, []),
}
ABOUT = ("only file", "of the text", "all code is tests", "no file is code")


def case(files: dict[str, str], tokenizer: RepoTokenizer, folder: Path) -> Case:
    settings = load_settings(None, ["data.held_out_per_length=4"])
    return prepared(make_repo(folder / "repo", [Made(files)]), tokenizer, settings, phases=1)


@pytest.mark.parametrize("name", CASES)
def test_what_a_narrow_repository_lacks_is_said(name: str, tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    files, expected = CASES[name]
    made = case(files, tokenizer, tmp_path)
    notes = made.prepared.header.notes
    assert made.of("train") and [note for note in expected if note not in notes] == []
    assert sum(any(part in note for part in ABOUT) for note in notes) == (1 if expected else 0)


def test_a_package_of_hundreds_of_files_is_prepared(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    files = {
        f"p/C{n:04}.java": f"package p;\n\nclass C{n:04} {{\n  C{n * 7 % 300:04} next{n}() {{ return null; }}\n}}\n"
        for n in range(300)
    }
    made = case(files, tokenizer, tmp_path)
    used = {path for row in made.of("train") for path in row.files}
    held = sum(map(len, made.prepared.header.repositories[0].held_out_files.values()))
    assert len(used) == 300 - held > 200
