"""Changes as a model learns them: the file as it was, then its hunks in order; what is not learnt from is counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from git_helper import Made, commit_ids, git, make_repo
from small_packages import NAMES, history, module
from test_diff import applied
from whole import Case, prepared, shown, weighed

from longrepo.config.loader import load_settings
from longrepo.data.commits import CommitPacker, changed_rows, step_from
from longrepo.data.features import FeatureExtractor, StepJob, unpack_features
from longrepo.data.packing import Band
from longrepo.data.rows import SequenceRow
from longrepo.data.template import CommitStep, SequenceBuilder, TemplateSizes, write_step
from longrepo.data.text import path_tokens
from longrepo.data.tokenizer import RepoTokenizer

ReadStep = Callable[[str, str], CommitStep]
SECTION = re.compile(
    r"<\|FILE_START\|> (?P<path>.*?)\n(?P<code>.*?)(?=<\|[A-Ze])|<\|COMMIT_START\|>(?P<step>.*?)(?=<\|[A-Ze])", re.S
)
MUCH = ["data.commit_share=0.6", "data.question_share=0", "data.held_out_per_length=4"]
LATE = ["data.test_share=0.01", "data.validation_share=0.01"]  # no commits are held out


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, tokenizer: RepoTokenizer) -> Case:
    return prepared(
        make_repo(tmp_path_factory.mktemp("chains") / "r", history(40)), tokenizer, load_settings(None, MUCH)
    )


@pytest.fixture(scope="module")
def read_step(tokenizer: RepoTokenizer) -> ReadStep:
    def read(before: str, after: str) -> CommitStep:
        (result,) = FeatureExtractor(tokenizer, None, 0.1).extract([StepJob("a.py", "a" * 40, "Add", before, after)])
        found = unpack_features(result, "a.py", path_tokens(tokenizer, "a.py"))
        return CommitStep("a" * 40, found.text, found.facts["message"], "")

    return read


def chains(tokenizer: RepoTokenizer, row: SequenceRow) -> list[tuple[str, str, list[tuple[str, str, list[str]]]]]:
    """(path, file as it was, its steps as (id, message, hunks)) of a row; files without steps are left out."""
    found: list[tuple[str, str, list[tuple[str, str, list[str]]]]] = []
    for match in SECTION.finditer(shown(tokenizer, row)):
        if match["path"] is not None:
            found.append((match["path"], match["code"], []))
        else:
            head, *hunks = match["step"].split("\n")
            commit, _, message = head.removeprefix(" ").partition(" ")
            found[-1][2].append((commit, message, hunks[:-1]))
    return [one for one in found if one[2]]


def test_the_file_as_it_was_stands_before_its_hunks_and_they_apply_to_it(case: Case, tokenizer: RepoTokenizer) -> None:
    whole = 0
    for row in case.of("train", kind="commit_evolution"):
        for path, state, steps in chains(tokenizer, row):
            first = next(commit for commit in row.commits if commit.startswith(steps[0][0]))
            before = git(case.folder, "show", f"{first}^:{path}") + "\n"
            assert state.strip("\n") in before
            lines = before.split("\n")
            assert all(line[1:] in lines for line in steps[0][2] if line.startswith("-"))
            whole += applies(before, steps)
    assert whole > 20


def applies(before: str, steps: list[tuple[str, str, list[str]]]) -> bool:
    """Whether all steps apply, one after the other; False where one was cut and goes on in another sequence."""
    for _, _, rows in steps:
        try:
            before = applied(before, rows)
        except (AssertionError, IndexError, ValueError):
            return False
    return True


def test_a_chain_gives_the_file_that_git_has_after_it(case: Case, tokenizer: RepoTokenizer) -> None:
    right = total = 0
    for row in case.of("train", 3, "commit_evolution"):
        for path, _, steps in chains(tokenizer, row):
            full = [next(one for one in row.commits if one.startswith(commit)) for commit, _, _ in steps]
            text = git(case.folder, "show", f"{full[0]}^:{path}") + "\n"
            for (_, _, rows), commit in zip(steps, full, strict=True):
                total += 1
                if applies(text, [("", "", rows)]):
                    text = applied(text, rows)
                    right += text == git(case.folder, "show", f"{commit}:{path}") + "\n"
                else:
                    text = git(case.folder, "show", f"{commit}:{path}") + "\n"
    assert total > 10 and right >= 0.7 * total


def test_the_changes_of_a_file_stand_in_the_order_they_were_made(case: Case, tokenizer: RepoTokenizer) -> None:
    place = {commit[:8]: number for number, commit in enumerate(commit_ids(case.folder))}
    longest = 0
    for row in case.of("train", kind="commit_evolution"):
        for _, _, steps in chains(tokenizer, row):
            order = [place[commit] for commit, _, _ in steps]
            assert order == sorted(set(order))
            longest = max(longest, len(order))
        assert {commit[:8] for _, _, steps in chains(tokenizer, row) for commit, _, _ in steps} == {
            commit[:8] for commit in row.commits
        }
    assert longest >= 3


def test_each_change_is_learnt_once_a_phase_or_counted(case: Case, tokenizer: RepoTokenizer) -> None:
    for phase in (1, 2, 3):
        scored = "".join(weighed(tokenizer, row) for row in case.of("train", phase, "commit_evolution"))
        added = re.findall(r"^\+def (\w+)\(", scored, re.M)
        assert len(added) == len(set(added)) > 10
        account = case.prepared.header.accounts[str(phase)]
        assert account["tokenized"] == account["used"] + sum(account["dropped"].values())


def test_messages_and_added_rows_are_scored_and_the_rest_is_context(case: Case, tokenizer: RepoTokenizer) -> None:
    for row in case.of("train", 2, "commit_evolution"):
        scored, light = weighed(tokenizer, row), weighed(tokenizer, row, 0.1)
        assert "Add steps to" in scored and "\n+" in scored
        assert "@@ -" in light and "@@ -" not in scored and "<|COMMIT_START|>" not in scored
        assert not re.search(r"^ {4}[a-z]+_\d+_result = ", scored, re.M), "context rows are context"


def test_an_old_name_is_told_under_the_name_the_file_has_now(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    sizes = {size: module("amber", None, size) for size in (8, 9, 12)}
    commits = [
        Made({f"src/{name}.py": module(name, None, 8) for name in NAMES}),
        Made({"src/amber.py": sizes[9]}, "Nine"),
        Made({"src/amber.py": None, "library/amber.py": sizes[9]}, "Move amber"),
        Made({"library/amber.py": sizes[12]}, "Grow amber"),
    ]
    settings = load_settings(None, [*MUCH, *LATE])
    found = prepared(make_repo(tmp_path / "moved", commits), tokenizer, settings)
    told = [
        (path, step[1]) for row in found.of("train", 2) for path, _, steps in chains(tokenizer, row) for step in steps
    ]
    assert told == [("library/amber.py", "Nine"), ("library/amber.py", "Grow amber")]
    assert found.summary["history"]["changes_left_out"]["file moved, not changed"] == 1


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, tokenizer: RepoTokenizer) -> Case:
    """A history in which one commit of each kind is noise."""
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES}
    amber = [module("amber", None, size) for size in range(8, 15)]
    commits = [
        Made(files, "Begin"),
        Made({"src/amber.py": amber[1]}, "Ninth"),
        Made({"src/birch.py": module("birch", None, 8).replace("    ", "\t")}, "Tabs only"),
        Made({"src/amber.py": amber[2]}, 'Revert "Ninth"'),
        Made({"src/cedar.py": module("cedar", None, 9)}, "Bump it", author="dependabot[bot] <bot@example.com>"),
        Made({"src/amber.py": amber[3]}, "Side", branch="side", start="main"),
        Made({"src/amber.py": amber[3]}, "Merge side", merge="side"),
        Made({f"many/{n}.py": f"x_{n} = {n}\n" for n in range(40)}, "Import all of it"),
        Made({"src/drift.py": None}, "Drop drift"),
        *(Made({"src/amber.py": text}, f"Grow to {at}") for at, text in enumerate(amber[4:])),
        Made({"vendor/lib.py": "x = 1\n"}, "Vendor a library"),
    ]
    settings = load_settings(None, [*MUCH, *LATE, "data.max_changes_per_file=2"])
    return prepared(make_repo(tmp_path_factory.mktemp("noisy") / "r", commits), tokenizer, settings, phases=1)


def test_noise_is_counted_and_not_learnt_from(noisy: Case, tokenizer: RepoTokenizer) -> None:
    history = noisy.summary["history"]
    expected = {"bot": 1, "bulk": 1, "change: vendored": 1, "merge": 1, "no text change": 1, "revert": 1}
    assert history["commits_left_out"] == expected
    left_out = history["changes_left_out"]
    assert left_out["change: formatting"] == 1 and left_out["file deleted"] == 1
    assert left_out["file added"] + left_out["change of a held-out file"] == 10
    told = "".join(shown(tokenizer, row) for row in noisy.of("train", kind="commit_evolution"))
    for message in ("Revert", "Bump", "Merge side", "Tabs only", "Import all", "Drop drift", "Vendor"):
        assert f" {message}" not in told


def test_a_file_s_changes_beyond_the_cap_are_counted(noisy: Case, tokenizer: RepoTokenizer) -> None:
    history = noisy.summary["history"]
    assert history["changes_left_out"]["beyond data.max_changes_per_file"] == 3
    assert history["changes"] == 2 and history["changed_files"] == 1
    told = "".join(shown(tokenizer, row) for row in noisy.of("train", kind="commit_evolution"))
    assert "Grow to 2" in told and "Grow to 1" in told and "Grow to 0" not in told


def _values(number: int, rows: int) -> str:
    return "{\n" + ",\n".join(f'  "key_{at}": "{number} {at * 7919 % 997}"' for at in range(rows)) + "\n}\n"


def _table(number: int, rows: int) -> str:
    return "".join(f"{number},{at},{at * 7919 % 997},{at * 31 % 89}\n" for at in range(rows))


def test_what_the_snapshot_leaves_out_isn_t_learnt_from_its_changes(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    """Neither large files of values, still there or gone, nor copies of another file; small ones and the rest are."""
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES[:6]}
    big = {"data/big.json": _values(0, 1500), "db/dump.sql": _dump(0, 900), "data/gone.csv": _table(0, 2000)}
    made = [Made({**files, **big, "data/small.json": ""})]
    for number in range(1, 7):
        changed = {
            "data/big.json": _values(number, 1500), "db/dump.sql": _dump(number, 900),
            "data/gone.csv": _table(number, 2000), "data/small.json": _values(number, 12),
            "src/twin.py": module("twin", None, 12 + number),
            "zoo/twin.py": module("twin", None, 12 + number),
        }  # fmt: skip
        made.append(Made(changed, f"Change {number}"))
    made.append(Made({"data/gone.csv": None, "src/late.py": module("late", None, 4)}, "Remove the table"))
    made.append(Made({"src/late.py": None, "src/amber.py": module("amber", None, 11)}, "Remove it again"))
    settings = load_settings(None, [*MUCH, *LATE, "data.prose_share=1", "data.held_out_per_length=1"])
    case = prepared(make_repo(tmp_path / "r", made), tokenizer, settings, phases=1)
    files_shown = {path for row in case.of("train", kind="commit_evolution") for path in row.files}
    assert {"src/twin.py", "data/small.json"} <= files_shown
    assert not {"data/big.json", "db/dump.sql", "data/gone.csv", "zoo/twin.py"} & files_shown
    left_out = case.summary["history"]["changes_left_out"]  # type: ignore[index]
    assert left_out["change: large data file"] == 18
    assert left_out["change of a file nearly the same as another"] == 6


def _dump(seed: int, rows: int) -> str:
    values = ",\n".join(f"({seed + n}, 'row {n}', {n * 7919 % 1009})" for n in range(rows))
    return f"CREATE TABLE t (id int, name text, n int);\nINSERT INTO t VALUES\n{values};\n"


def test_changes_beyond_the_share_are_counted(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "r", history(30))
    found = [
        prepared(folder, tokenizer, load_settings(None, [f"data.commit_share={share}", *LATE]), phases=1).summary
        for share in (0.05, 0.6)
    ]
    counted = [
        one["history"]["changes"] + sum(one["history"]["changes_left_out"].values())  # type: ignore[index]
        for one in found
    ]
    assert counted[0] == counted[1] == 71, "eleven files added and two changed by each of thirty commits"


def test_a_program_without_a_suffix_is_no_prose_after_it_is_gone(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES[:4]}
    tool = "#!/usr/bin/env python3\n" + module("tool", None, 6)
    made = [Made({**files, "bin/tool": tool})]
    for n in range(5):
        changed = {f"src/{name}.py": module(name, None, 9 + n) for name in NAMES[1:4]}
        made.append(
            Made({"bin/tool": "#!/usr/bin/env python3\n" + module("tool", None, 7 + n), **changed}, f"Step {n}")
        )
    made += [Made({"bin/tool": None}, "Remove it"), Made({"src/amber.py": module("amber", None, 9)}, "Go on")]
    settings = load_settings(None, [*MUCH, *LATE, "data.prose_share=0"])
    case = prepared(make_repo(tmp_path / "r", made), tokenizer, settings, phases=1)
    assert "bin/tool" in {path for row in case.of("train", kind="commit_evolution") for path in row.files}


@pytest.mark.parametrize(("most", "share", "noted"), [(12, 0.6, True), (12, 0.01, False), (2000, 0.6, False)])
def test_a_history_cut_short_is_noted(
    most: int, share: float, noted: bool, tokenizer: RepoTokenizer, tmp_path: Path
) -> None:
    """Only if older commits are there and their changes are wanted."""
    settings = load_settings(None, [f"data.max_commits={most}", f"data.commit_share={share}", *LATE])
    case = prepared(make_repo(tmp_path / "r", history(30)), tokenizer, settings, phases=1)
    notes = [note for note in case.prepared.header.repositories[0].notes if "data.max_commits" in note]
    assert len(notes) == noted
    assert not noted or "the newest 12 usable commits" in notes[0]


HUNK_TITLE = re.compile(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@(?: .*)?")


def test_a_part_begins_at_a_hunk_s_head_and_its_state_shows_the_rows_it_changes(
    tokenizer: RepoTokenizer, tmp_path: Path
) -> None:
    before = {f"src/{name}.py": module(name, None, 40) for name in NAMES}
    later = {
        path: re.sub(r"(\w+_\d+_result = .*)", r"\1\n    print('a row that the change adds', 1)", text)
        for path, text in before.items()
    }
    commits = [Made(before), Made(later, "Print every result"), Made({"readme": "x\n"}, "Say so")]
    found = prepared(make_repo(tmp_path / "parts", commits), tokenizer, load_settings(None, [*MUCH, *LATE]))
    parts = 0
    for row in found.of("train", kind="commit_evolution"):
        for path, state, steps in chains(tokenizer, row):
            lines = before[path].split("\n")
            for _, message, rows in steps:
                assert message == "Print every result" and HUNK_TITLE.fullmatch(rows[0])
                hunks = "\n".join(rows).split("\n@@ ")
                whole, old = True, []
                for hunk in hunks:
                    title, *own = hunk.split("\n")
                    counts = HUNK_TITLE.fullmatch(title if title.startswith("@@ ") else f"@@ {title}")
                    assert counts is not None
                    first, size = int(counts[1]) - 1, int(counts[2])
                    shown = [line[1:] for line in own if line[:1] in (" ", "-")]
                    old += shown
                    assert shown == lines[first : first + len(shown)]
                    after = [line for line in own if line[:1] in (" ", "+")]
                    whole &= (len(shown), len(after)) == (size, int(counts[4]))
                assert whole and any(line in state.split("\n") for line in old if line.strip())
                parts += 1
        assert row.loss_weights[-1] == ("<|COMMIT_END|>" in shown_end(tokenizer, row))
    assert parts > 6


def shown_end(tokenizer: RepoTokenizer, row: SequenceRow) -> str:
    return shown(tokenizer, row)[-40:]


def test_rows_that_later_steps_change_are_found_in_the_file_before_the_first(read_step: ReadStep) -> None:
    texts = ["".join(f"line_{number} = {number}\n" for number in range(120))]
    texts.append(texts[0].replace("line_10 = 10\n", "line_10 = 10\nnew = 1\nnewer = 2\n"))
    texts.append(texts[1].replace("line_100 = 100\n", "line_100 = 101\n"))
    steps = [read_step(old, new) for old, new in pairwise(texts)]
    assert changed_rows(steps) == [(8, 14), (97, 104)]
    assert changed_rows(steps[1:]) == [(99, 106)]
    first = steps[0]
    part = step_from(first, first.of.row_token(4))
    assert part.title == "@@ -11,4 +11,6 @@\n" and changed_rows([part]) == [(10, 14)]
    head = step_from(first, first.of.row_token(1))
    assert head.title == "" and changed_rows([head]) == [(8, 14)]


def test_a_file_as_it_was_has_no_end_where_it_goes_on(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    """The change is near the end, but not at it, and there isn't room for all above it."""
    rows = ["def run():\n", *(f"    line_{number} = step({number}, 'some words')\n" for number in range(1, 120))]
    later = [*rows[:112], "    line_112 = changed\n", *rows[113:]]
    commits = [
        Made({"a.py": "".join(rows), "b.py": module("amber", None, 30)}),
        Made({"a.py": "".join(later)}, "Set it"),
    ]
    found = prepared(
        make_repo(tmp_path / "near", [*commits, Made({"readme": "x\n"}, "Say so")]),
        tokenizer,
        load_settings(None, [*MUCH, *LATE]),
    )
    seen = 0
    for row in found.of("train", kind="commit_evolution"):
        text = shown(tokenizer, row)
        for match in re.finditer(r"<\|FILE_START\|> a\.py\n(.*?)(<\|FILE_END\|>)?<\|COMMIT_START\|>", text, re.S):
            assert bool(match[2]) == ("line_119 " in match[1]), match[1][-80:]
            seen += "line_112 " in match[1]
    assert seen


@pytest.mark.parametrize("room", [220, 260, 400])
def test_the_head_of_a_hunk_cut_below_counts_the_rows_that_are_left(
    read_step: ReadStep, tokenizer: RepoTokenizer, room: int
) -> None:
    before = "".join(f"line_{number} = {number}\n" for number in range(60))
    after = before.replace("line_9 = 9\n", "line_9 = 9\n" + "".join(f"new_{n} = {n}\n" for n in range(120)))
    sizes = TemplateSizes(tokenizer)
    packs = CommitPacker(sizes, lambda _: 5).pack({"a.py": [read_step(before, after)]}, Band(1, 0, room, room))
    steps = [step for pack in packs for step in pack.steps]
    assert len(steps) > 3
    added = 0
    for step in steps:
        builder = SequenceBuilder(tokenizer)
        write_step(builder, step, 0.1)
        assert len(builder) == sizes.step(step) <= room
        assert builder.roles["target"] == step.stop - step.start
        ids, _ = builder.arrays()
        _, title, *rows = tokenizer.decode(ids.tolist()).removesuffix("<|COMMIT_END|>").strip("\n").split("\n")
        counts = HUNK_TITLE.fullmatch(title)
        assert counts is not None and int(counts[1]) - 1 == before.split("\n").index("line_7 = 7") + 3 * (added > 0)
        assert int(counts[3]) == int(counts[1]) + added
        assert int(counts[2]) == sum(row[:1] != "+" for row in rows)
        assert int(counts[4]) == sum(row[:1] != "-" for row in rows)
        added += sum(row[:1] == "+" for row in rows)
    assert added == 120
