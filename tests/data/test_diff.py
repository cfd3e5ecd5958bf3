"""Hunks say what changed: applied to the old text they give the new one, and git finds the same lines added."""

from __future__ import annotations

import random
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from git_helper import environment
from small_packages import module

from longrepo.data import diff
from longrepo.data.diff import added_row_ranges


def hunk_rows(before: str, after: str) -> list[str]:
    """The hunks as the rows of a unified diff."""
    return [row for hunk in diff.diff_hunks(before, after) for row in (hunk.title, *hunk.rows)]


def applied(before: str, rows: list[str]) -> str:
    """The text after, checked row by row against the text before."""
    old, new, at = before.split("\n"), list[str](), 0
    for row in rows:
        if row.startswith("@@"):
            start = int(row[4:].split(",")[0]) - 1
            new += old[at:start]
            at = start
        elif row[0] == "+":
            new.append(row[1:])
        else:
            assert row[0] in " -" and old[at] == row[1:]
            new += [row[1:]] * (row[0] == " ")
            at += 1
    return "\n".join([*new, *old[at:]])


def changed(seed: int) -> tuple[str, str]:
    """A text of many equal lines and what some edits made of it."""
    draw = random.Random(seed)
    words = ["a", "b", "", "  ", "c d", "@@ -1,2 +3,4 @@", "-minus", "+plus", *(f"x{n}" for n in range(30))]
    before = [draw.choice(words) for _ in range(draw.randrange(60))]
    after = list(before)
    for _ in range(draw.randrange(7)):
        at = draw.randrange(len(after) + 1)
        if draw.random() < 0.5:
            after[at:at] = [draw.choice([*words, f"new{seed}"]) for _ in range(draw.randrange(1, 4))]
        else:
            del after[at : at + draw.randrange(4)]
    return "\n".join(before), "\n".join(after)


def test_applied_to_the_text_before_they_give_the_text_after() -> None:
    for seed in range(1500):
        before, after = changed(seed)
        rows = hunk_rows(before, after)
        assert applied(before, rows) == after, seed
        assert bool(rows) == (before != after)


@pytest.mark.parametrize("cells", [0, 40])
def test_so_they_do_where_too_much_differs_to_compare_each_line(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "_MAX_MATCHER_CELLS", cells)
    for seed in range(300):
        before, after = changed(seed)
        assert applied(before, hunk_rows(before, after)) == after, seed


def test_a_hunk_holds_three_rows_around_what_changed_and_says_where() -> None:
    before = [f"line {number}" for number in range(40)]
    after = [*before[:10], "new", *before[11:30], *before[31:]]
    rows = hunk_rows("\n".join(before), "\n".join(after))
    assert [row for row in rows if row.startswith("@@")] == ["@@ -8,7 +8,7 @@", "@@ -28,7 +28,6 @@"]
    assert rows[4:6] == ["-line 10", "+new"]
    assert len(rows) == 2 + 8 + 7


def test_added_rows_are_those_with_a_plus() -> None:
    for seed in range(500):
        before, after = changed(seed)
        new = after.split("\n")
        runs = added_row_ranges(before, after)
        said = [row[1:] for row in hunk_rows(before, after) if row.startswith("+")]
        assert [line for first, last in runs for line in new[first:last]] == said
        assert all(first < last for first, last in runs)
        assert all(one[1] < other[0] for one, other in pairwise(runs))
    assert added_row_ranges("", "a\nb\n") == [(0, 2)]
    assert added_row_ranges("x\n", "x\n") == []


def edits() -> dict[str, tuple[str, str]]:
    text = module("amber", None, 6)
    lines = text.split("\n")
    return {
        "a function more": (text, text + module("amber", None, 8)[len(text) :]),
        "one line": (text, text.replace("amber_3_input: int", "amber_3_input: float")),
        "a block gone": (text, "\n".join([*lines[:20], *lines[30:]])),
        "two far apart": (text, text.replace("Step 0", "Pace 0").replace("Step 5", "Pace 5")),
        "all of it": ("a\nb\nc\n", "d\ne\n"),
        "repeated lines": ("}\n}\n}\nx\n}\n", "}\n}\ny\n}\nx\n}\n"),
        "carriage returns": ("a\r\nb\r\nc\r\n", "a\r\nB\r\nc\r\n"),
    }


@pytest.mark.parametrize("case", edits())
def test_git_finds_the_same_lines_added(case: str, tmp_path: Path) -> None:
    before, after = edits()[case]
    for name, text in (("before", before), ("after", after)):
        (tmp_path / name).write_bytes(text.encode())
    command = ["git", "diff", "--no-index", "-U3", "--no-color", "--patience", "--", "before", "after"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True)
    rows = done.stdout.decode().split("\n")
    by_git = {sign: [row[1:] for row in rows if row[:1] == sign and row[:3] != 3 * sign] for sign in "+-"}
    assert by_git["+"] or by_git["-"]
    ours = {sign: [row[1:] for row in hunk_rows(before, after) if row[0] == sign] for sign in "+-"}
    new = after.split("\n")
    assert ours["+"] == [line for first, last in added_row_ranges(before, after) for line in new[first:last]]
    for sign in "+-":  # of blank lines it doesn't matter which one is new
        assert list(filter(str.strip, ours[sign])) == list(filter(str.strip, by_git[sign]))


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        (["def f():", "    total = 0", "    for one in all():", "        a()"], "def f():"),
        (["class A {", "public:", "  int f() {", "    int n = 1;", "    if (n) {", "      a();"], "  int f() {"),
        (["function f() {", "  let x = 1", "  if (x) {", "  } else {", "    a()"], "function f() {"),
        (["def f(", "    a,", ") -> int:", "    n = 1", "    with a as b:", "        b()"], "def f("),
        (["kinds = {", "    1: 2,"], "kinds = {"),
    ],
)
def test_the_line_that_encloses_a_hunk_isn_t_a_statement_beside_a_block(above: list[str], expected: str) -> None:
    depth = len(above[-1]) - len(above[-1].lstrip())
    rows = [*above, " " * depth + "one", " " * depth + "two"]
    hunk = diff.Hunk(len(above), len(above), (f"-{rows[-2]}", f"+{rows[-2]}s", f" {rows[-1]}"))
    found = diff.enclosing_row(rows, hunk)
    assert found is not None and rows[found] == expected
