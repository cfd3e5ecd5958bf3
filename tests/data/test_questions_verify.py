"""The check confirms what is right and nothing else, by git and Python's own parser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from git_helper import commit_ids, git, make_repo
from question_repository import COMMITS, answers, ask

from longrepo.data.dataset import read_sequences, write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.questions.verify import AnswerChecker, AnswerVerdict
from longrepo.data.questions.write import read_questions
from longrepo.data.rows import SequenceRow
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.errors import InputError

HERE = ", in <|SNIPPET_0|>"
NO_ROUTE = (  # Go, and imports
    "In which file is the function openSocket defined?",
    "In which file is the method AcceptLoop defined?",
    "In which file is the type Listener defined?",
    "What is the signature of AcceptLoop?",
    "What is the signature of openSocket?",
    "Which type has the method AcceptLoop?",
    "Which files import package/drawing.py?",
    "Which files import package/shapes.py?",
    "Which files of the repository does package/drawing.py import?",
    "Which files of the repository does tests/test_rendering.py import?",
)


def check_answer(
    question: str, answer: str, repository: Path, commit: str, snippets: dict[int, tuple[str, str]] | None = None
) -> AnswerVerdict:
    with AnswerChecker(repository, commit) as checker:
        return checker.check(question, answer, snippets)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("checked") / "repo", COMMITS)


@pytest.fixture(scope="module")
def head(repository: Path) -> str:
    return commit_ids(repository)[-1]


def test_all_that_the_generator_asks_is_confirmed_if_there_is_a_route(repository: Path, head: str) -> None:
    made, _ = ask(repository)
    with AnswerChecker(repository, head) as checker:
        verdicts = [checker.check(one.text, one.answer.replace(", in {snippet}", HERE)) for one in made]
    results = {one.text: verdict.result for one, verdict in zip(made, verdicts, strict=True)}
    assert {text for text, result in results.items() if result == "not checked"} == set(NO_ROUTE)
    assert set(results.values()) == {"confirmed", "not checked"}
    assert [one.kind for one in made] == [verdict.kind for verdict in verdicts]
    assert all(verdict.why for verdict in verdicts if verdict.result == "not checked")


WRONG = {
    "In which file is the function widen_outline defined?": "package/drawing.py",
    "What is the signature of widen_outline?": "def widen_outline(amount, factor=3)",
    "What is the default of the parameter unit of measured_length?": '"cm"',
    "What is the default of the parameter scale of measured_length?": '"mm"',
    "Which type has the method measured_length?": "Circle",
    "Which class does Circle extend?": "Shape",
    "Which class extends Outline, and in which file?": "Circle in package/drawing.py",
    "Which function calls widen_outline, and in which file?": "draw_something in package/drawing.py",
    "Which test file calls the function draw_everything?": "tests/test_drawing.py",
    "Which files import package/shapes.py?": "package/drawing.py, tests/test_rendering.py",
    "Which files of the repository does package/drawing.py import?": "package/nowhere.py",
    "In which file is the function nowhere_at_all defined?": "package/shapes.py",
    "How many files are there?": "four",
}


@pytest.mark.parametrize("question", WRONG)
def test_a_wrong_answer_is_refuted(question: str, repository: Path, head: str) -> None:
    verdict = check_answer(question, WRONG[question] + HERE, repository, head)
    assert verdict.result == "refuted"
    assert verdict.why


@pytest.mark.parametrize(
    ("commit", "answer"),
    [("the last", "package/shapes.py"), ("the last", "go/server.go, package/drawing.py"), ("unknown", "go/server.go")],
)
def test_a_wrong_answer_on_a_commit_is_refuted(commit: str, answer: str, repository: Path, head: str) -> None:
    id = head[:8] if commit == "the last" else "00000000"
    question = f'Which files did commit {id} "Say which version this is" change?'
    assert not check_answer(question, answer, repository, head).confirmed
    right = check_answer(question.replace(id, head[:8]), "package/drawing.py", repository, head)
    assert right.confirmed
    assert not check_answer(question.replace("Say", "Ask"), "package/drawing.py", repository, head).confirmed


AMBIGUOUS = {
    "another function": {"more.py": "def widen_outline(x): ...\n"},
    "another, under a condition": {"more.py": "if True:\n    def widen_outline(x): ...\n"},
    "a file without a suffix": {"bin/tool": "#!/usr/bin/env python3\ndef widen_outline(x): ...\n"},
    "a stub": {"package/shapes.pyi": "def widen_outline(amount, factor=...): ...\n"},
    "a name for it": {"more.py": "import package.shapes as widen_outline\n"},
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_is_true_of_two_places_is_refuted(case: str, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [*COMMITS, AMBIGUOUS[case]])
    first, last = commit_ids(folder)[-2:]
    question, answer = "In which file is the function widen_outline defined?", "package/shapes.py" + HERE
    assert check_answer(question, answer, folder, first).confirmed
    verdict = check_answer(question, answer, folder, last)
    assert verdict.result == "refuted"
    assert next(iter(AMBIGUOUS[case])) in verdict.why


UNREAD = {
    "another language": {"more.rs": "pub fn widen_outline(x: u8) {}\n"},
    "a call in Java": {"A.java": "class A {\n  int f() {\n    return widen_outline(2);\n  }\n}\n"},
    "a file of no known language": {"bin/tool": "widen_outline 2\n"},
    "Python that doesn't parse": {"old.py": "print widen_outline(2)\n"},
}


@pytest.mark.parametrize("case", UNREAD)
def test_a_mention_that_no_parser_reads_leaves_an_answer_unchecked(case: str, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [*COMMITS, UNREAD[case]])
    last = commit_ids(folder)[-1]
    for question, right, wrong in (
        ("In which file is the function widen_outline defined?", "package/shapes.py", "package/drawing.py"),
        ("What is the signature of widen_outline?", "def widen_outline(amount, factor=2)", "def widen_outline()"),
        (
            "Which function calls widen_outline, and in which file?",
            "draw_everything in package/drawing.py",
            "f in A.py",
        ),
    ):
        verdict = check_answer(question, right + HERE, folder, last)
        assert verdict.result == "not checked"
        assert next(iter(UNREAD[case])) in verdict.why
        assert check_answer(question, wrong + HERE, folder, last).result == "refuted"


NO_DEFINITION = {
    "a call": {"more.py": "from package.shapes import widen_outline\n\nprint(widen_outline(2))\n"},
    "prose": {"guide.md": "Call `widen_outline(2)` to widen.\n"},
}


@pytest.mark.parametrize("case", NO_DEFINITION)
def test_a_mention_is_no_second_definition(case: str, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [*COMMITS, NO_DEFINITION[case]])
    question, answer = "In which file is the function widen_outline defined?", "package/shapes.py" + HERE
    assert check_answer(question, answer, folder, commit_ids(folder)[-1]).confirmed


def test_the_snippet_pointed_to_has_to_hold_what_was_asked(repository: Path, head: str) -> None:
    question, answer = "In which file is the function widen_outline defined?", "package/shapes.py, in <|SNIPPET_1|>"
    right = {0: ("a.py", "x = 1"), 1: ("shapes.py", "def widen_outline(amount): ...")}
    assert check_answer(question, answer, repository, head, right).confirmed
    for wrong in ({1: right[0]}, {1: ("shapes.py", "x = 1")}, {0: right[1]}, {1: ("a.py", right[1][1])}):
        assert not check_answer(question, answer, repository, head, wrong).confirmed
    assert not check_answer(question, "package/shapes.py", repository, head, right).confirmed


def test_files_that_git_takes_for_binary_are_read(tmp_path: Path) -> None:
    """In UTF-16 and UTF-32; and a second definition in one speaks against an answer."""
    code = "def area_{}(width, height=3):\n    return width\n"
    encodings = ("utf-8", "utf-16", "utf-32", "utf-16-le")
    files = {f"src/{name.replace('-', '')}.py": code.format(at).encode(name) for at, name in enumerate(encodings)}
    files["src/twice.py"] = b"def area_1(width):\n    return 1\n"
    folder = make_repo(tmp_path / "repo", [files])
    commit = git(folder, "rev-parse", "HEAD")
    with AnswerChecker(folder, commit) as checker:
        for number, name in ((0, "utf8"), (2, "utf32"), (3, "utf16le")):
            where = checker.check(f"In which file is the function area_{number} defined?", f"src/{name}.py")
            default = checker.check(f"What is the default of the parameter height of area_{number}?", "3")
            assert where.confirmed and default.confirmed, name
        assert checker.check("In which file is the function area_1 defined?", "src/utf16.py").result == "refuted"


def test_a_commit_that_is_not_there_is_said(repository: Path) -> None:
    with pytest.raises(InputError, match=r"doesn't contain the commit 1111111111; give the prepared repository"):
        AnswerChecker(repository, "1" * 40)


def test_nothing_that_the_repository_says_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = make_repo(tmp_path / "repo", [*COMMITS, {".gitattributes": "*.py diff=trap filter=trap textconv\n"}])
    for key in ("diff.trap.textconv", "diff.trap.command", "filter.trap.smudge", "core.fsmonitor", "diff.external"):
        subprocess.run(["git", "config", key, f"touch {ran};"], cwd=folder, check=True)
    made, _ = ask(folder)
    with AnswerChecker(folder, commit_ids(folder)[-1]) as checker:
        verdicts = [checker.check(one.text, one.answer.replace("{snippet}", "<|SNIPPET_0|>")) for one in made]
    assert {one.text for one, verdict in zip(made, verdicts, strict=True) if not verdict.confirmed} == set(NO_ROUTE)
    assert not ran.exists()


def sequences(folder: Path, out: Path, tokenizer: RepoTokenizer, wrong: bool = False) -> Path:
    """A file of sequences that ask all questions of a repository, one of them with a wrong answer if so asked."""
    made, _ = ask(folder)
    rows = []
    for number, (question, answer) in enumerate(answers(made).items()):
        path = next(one.needs[0][0] for one in made if one.text == question)
        text = (folder / path).read_text()
        said, mark, _ = answer.partition("{snippet}")
        said = "nowhere.py, in " if wrong and not number else said
        ids = [
            *tokenizer.marks.at("<|SNIPPET_0|>"), *tokenizer.encode(" other.py\nQUESTION: is it?\nANSWER: no\n"),
            *tokenizer.marks.at("<|SNIPPET_1|>"), *tokenizer.encode(f" {path}\n{text}\nQUESTION: {question}\nANSWER:"),
            *tokenizer.encode(f" {said.rstrip()}"), *(tokenizer.marks.at("<|SNIPPET_1|>") if mark else ()),
            tokenizer.end_id,
        ]  # fmt: skip
        weights = np.ones(len(ids), np.float32)
        ids = np.array(ids, np.int32)
        rows.append(SequenceRow(ids, weights, "qa", "easy", 0.0, {}, [path], [], "Python", "train", "repo"))
    facts = RepositoryFacts("repo", commit_ids(folder)[-1])
    write_sequences(out, rows, Header(TokenizerFacts.of(tokenizer), [facts]))
    return out


@pytest.fixture(scope="module")
def embedded() -> RepoTokenizer:
    return load_tokenizer("embedded")


def test_a_row_is_read_as_the_model_sees_it(repository: Path, tmp_path: Path, embedded: RepoTokenizer) -> None:
    made, _ = ask(repository)
    file = read_sequences(sequences(repository, tmp_path / "rows", embedded))
    asked = [one for row in range(len(file)) for one in read_questions(file, row, embedded)]
    assert {one.question: one.answer for one in asked} == {
        one.text: one.answer.replace("{snippet}", "<|SNIPPET_1|>") for one in made
    }
    where = next(one for one in asked if "where" not in one.question and "widen_outline defined" in one.question)
    assert where.snippets[0] == ("other.py", "QUESTION: is it?\nANSWER: no\n")
    assert where.snippets[1] == ("package/shapes.py", (repository / "package/shapes.py").read_text())


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longrepo", "check-questions", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_confirms_refutes_and_counts_what_is_not_checked(
    repository: Path, tmp_path: Path, embedded: RepoTokenizer
) -> None:
    right = run(sequences(repository, tmp_path / "right", embedded), "--repo", repository)
    assert right.returncode == 0, right.stderr
    asked = len(ask(repository)[0])
    assert right.stdout.splitlines()[0].split() == ["questions", "asked", "confirmed", "refuted", "not", "checked"]
    counts = [str(n) for n in (asked, asked - len(NO_ROUTE), 0, len(NO_ROUTE))]
    assert right.stdout.splitlines()[-1].split() == ["all", *counts]
    wrong = run(sequences(repository, tmp_path / "wrong", embedded, wrong=True), "--repo", repository)
    assert wrong.returncode == 1
    assert f"1 of {asked} answers refuted" in wrong.stderr
    assert "row 0: " in wrong.stdout
    assert "refuted: " in wrong.stdout


def test_the_command_says_what_it_lacks(repository: Path, tmp_path: Path, embedded: RepoTokenizer) -> None:
    file = sequences(repository, tmp_path / "rows", embedded)
    other = make_repo(tmp_path / "other", [{"a.py": "x = 1\n"}])
    out = run(file, "--repo", other)
    assert out.returncode == 2
    assert "no --repo contains the commit" in out.stderr
    assert "Traceback" not in out.stderr
