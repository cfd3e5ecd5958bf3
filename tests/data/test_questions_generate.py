"""Questions have one answer, read from the repository; where there could be two, nothing is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from git_helper import Made, commit_ids, make_repo
from question_repository import COMMITS, DRAWING, SHAPES, answers, ask

from longrepo.data.questions.generate import QUESTION_KINDS, make_questions
from longrepo.data.questions.sources import ChangedFile, SourceFile
from longrepo.repository.imports.graph import ImportGraph
from longrepo.repository.outline import build_outline


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("asked") / "repo", COMMITS)


def test_every_kind_is_asked_and_answered(repository: Path) -> None:
    made, _ = ask(repository)
    found = answers(made)
    _, second, third, last = (one[:8] for one in commit_ids(repository))
    expected = {
        "In which file is the function widen_outline defined?": "package/shapes.py, in {snippet}",
        "What is the signature of openSocket?": ("func openSocket(address string, retries int) error, in {snippet}"),
        "What is the default of the parameter unit of measured_length?": '"mm", in {snippet}',
        "Which type has the method measured_length?": "Outline, in {snippet}",
        "Which type has the method AcceptLoop?": "Listener, in {snippet}",
        "Which class does Circle extend?": "Outline, in {snippet}",
        "Which class extends Outline, and in which file?": "Circle in package/shapes.py, in {snippet}",
        "Which function calls widen_outline, and in which file?": (
            "draw_everything in package/drawing.py, in {snippet}"
        ),
        "Which test file calls the function draw_everything?": "tests/test_rendering.py, in {snippet}",
        "Which files import package/shapes.py?": "package/drawing.py",
        "Which files of the repository does package/drawing.py import?": "package/shapes.py",
        "Why was widen_outline changed?": f'{second} "End after widen_outline"',
        f'Which files did commit {third} "Draw on a canvas" change together with package/drawing.py?': (
            "tests/test_rendering.py"
        ),
        f'Which files did commit {last} "Say which version this is" change?': "package/drawing.py",
    }
    assert {text: found.get(text) for text in expected} == expected
    assert {one.kind for one in made} == {kind.name for kind in QUESTION_KINDS}


NOT_WORTH_ASKING = {
    "of tests": {"tests/test_a.py": "class BigFixture:\n    def plain_helper(self, amount): ...\n"},
    "of Java's tests": {
        "src/test/java/BigCase.java": "class BigCase {\n  int plainHelper(int amount) { return 1; }\n}\n"
    },
    "nested in a function": {
        "a.py": "def f(wrapped_call):\n    def plain_helper(amount):\n        return wrapped_call\n"
    },
}


@pytest.mark.parametrize("case", NOT_WORTH_ASKING)
def test_a_name_that_nobody_asks_about(case: str, tmp_path: Path) -> None:
    made, dropped = ask(make_repo(tmp_path / "repo", [NOT_WORTH_ASKING[case]]))
    assert not [one.text for one in made if "lain" in one.text or "Big" in one.text]
    assert dropped["a name nested in a function" if "nested" in case else "a name of tests"]


def test_a_method_is_shown_with_what_holds_it(repository: Path) -> None:
    (owner,) = (one for one in ask(repository)[0] if one.text == "Which type has the method measured_length?")
    assert owner.needs == (
        ("package/shapes.py", SHAPES.index("measured_length")),
        ("package/shapes.py", SHAPES.index("Outline:")),
    )


WHY = "def widen_outline():\n    return 1\n"


@pytest.mark.parametrize(
    ("subjects", "asked"),
    [
        (["Begin", "Let widen_outline stay"], True),
        (["Begin", "Let widen_outline stay", "Use widen_outline"], False),  # two say so
        (["Begin", "Let widen_outlines stay"], False),
        (["Begin with widen_outline", "Other"], True),
    ],
)
def test_why_is_asked_where_one_message_says_it(subjects: list[str], asked: bool, tmp_path: Path) -> None:
    history = [Made({"a.py": WHY + "#\n" * number}, subject) for number, subject in enumerate(subjects)]
    why = [one for one in ask(make_repo(tmp_path / "repo", history))[0] if one.kind == "why"]
    assert len(why) == asked


def test_why_is_not_asked_where_the_commit_changed_another_file(tmp_path: Path) -> None:
    history = [Made({"a.py": WHY}, "Begin"), Made({"b.md": "Text.\n"}, "Tell about widen_outline")]
    assert not [one for one in ask(make_repo(tmp_path / "repo", history))[0] if one.kind == "why"]


def test_what_must_be_shown_begins_with_where_the_answer_stands(repository: Path) -> None:
    made, _ = ask(repository)
    needs = {one.kind: one.needs for one in made if "widen_outline" in one.text}
    assert needs["where"] == (("package/shapes.py", SHAPES.index("widen_outline")),)
    assert needs["caller"][0] == ("package/drawing.py", DRAWING.index("widen_outline(canvas)"))
    assert needs["caller"][1][0] == "package/shapes.py"


ONE = "def plain_helper(amount):\n    return amount\n"
MORE_THAN_ONE = {
    "defined twice in a file": {"a.py": ONE + ONE},
    "defined for type checkers and again": {"a.py": "if TYPE_CHECKING:\n    plain_helper: object\n" + ONE},
    "defined in another file": {"a.py": ONE, "b.py": ONE},
    "overloaded": {"a.py": "@overload\ndef plain_helper(amount: int): ...\n" + ONE},
    "a property and its setter": {
        "a.py": "class Box:\n    @property\n    def plain_helper(self): ...\n"
        "    @plain_helper.setter\n    def plain_helper(self, value): ...\n"
    },
    "assigned elsewhere": {"a.py": ONE, "b.py": "plain_helper = None\n"},
    "assigned as an attribute": {"a.py": ONE, "b.py": "def f(box):\n    box.plain_helper = 1\n"},
    "a loop's variable": {"a.py": ONE, "b.py": "for plain_helper in (1, 2):\n    pass\n"},
    "unpacked into": {"a.py": ONE, "b.py": "(first, plain_helper) = 1, 2\n"},
    "imported under that name": {"a.py": ONE, "b.py": "from c import other as plain_helper\n"},
    "a stub that isn't read": {"a.py": ONE, "left_out.pyi": "def plain_helper(amount): ...\n"},
    "a file without a grammar": {"a.py": ONE, "b.pyx": "cdef int x\ndef plain_helper(amount): pass\n"},
    "prose that shows a definition": {"a.py": ONE, "guide.md": "Write `def plain_helper(x)` first.\n"},
    "a method of an object literal": {"a.js": "function plainHelper() {}\nplain_helper = {\n}\n", "b.py": ONE},
    "a Go interface asks for it": {
        "a.go": "package a\n\ntype S struct{}\n\nfunc (s S) plain_helper(n int) int {\n\treturn n\n}\n\n"
        "type I interface {\n\tplain_helper(n int) int\n}\n"
    },
}


@pytest.mark.parametrize("case", MORE_THAN_ONE)
def test_a_name_that_may_mean_two_things_is_not_asked_about(case: str, tmp_path: Path) -> None:
    made, dropped = ask(make_repo(tmp_path / "repo", [MORE_THAN_ONE[case]]), leave=frozenset({"left_out.pyi"}))
    assert not [one.text for one in made if "plain_helper" in one.text and one.kind != "change"]
    assert dropped


CALLERS = {
    "from two functions": DRAWING + "\n\ndef second_one():\n    return widen_outline(2)\n",
    "from the top level": DRAWING.replace("def draw_everything(canvas):\n    return ", ""),
    "from a function without a name": DRAWING.replace("widen_outline(canvas)", "lambda: widen_outline(canvas)"),
    "passed on elsewhere": DRAWING + "\n\nHANDLERS = [widen_outline]\n",
    "by a name in text": DRAWING + '\n\nHANDLER = "widen_outline"\n',
}


@pytest.mark.parametrize("case", CALLERS)
def test_a_caller_is_asked_for_only_where_it_is_the_only_mention(case: str, tmp_path: Path) -> None:
    made, _ = ask(make_repo(tmp_path / "repo", [COMMITS[0], Made({"package/drawing.py": CALLERS[case]})]))
    assert not [one for one in made if one.kind == "caller"]


def test_a_caller_in_a_file_that_is_left_out_counts(repository: Path, tmp_path: Path) -> None:
    files = {"package/other.py": "from package.shapes import *\n\n\ndef stretch():\n    return widen_outline(3)\n"}
    folder = make_repo(tmp_path / "repo", [*COMMITS, files])
    made, dropped = ask(folder, leave=frozenset(files))
    assert not [one.text for one in made if "widen_outline" in one.text and one.kind not in ("change", "together")]
    assert dropped["name stands in a file that is left out"]
    assert [one for one in ask(repository)[0] if one.kind == "caller"]


def test_imports_that_could_mean_another_file_are_not_asked_about(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [*COMMITS, {"other/shapes.py": "x = 1\n"}])
    found = answers(ask(folder)[0])
    assert "Which files import package/shapes.py?" not in found
    assert "Which files of the repository does package/drawing.py import?" not in found
    assert "Which files import package/drawing.py?" in found


def test_questions_that_answer_themselves_are_dropped(tmp_path: Path) -> None:
    files = {
        "session_store.py": "class SessionStore:\n    pass\n",
        "errors.py": "class Trouble:\n    pass\n\n\nclass DeepTrouble(Trouble):\n    pass\n",
    }
    made, dropped = ask(make_repo(tmp_path / "repo", [Made(files, "Add session_store and errors")]))
    assert {one.kind for one in made} == {"where", "subclass"}
    assert not [one.text for one in made if "SessionStore" in one.text]
    assert dropped["answered by the question itself"] == 4  # where, base, change, together


def test_a_commit_is_asked_about_only_where_all_of_its_files_are_known() -> None:
    source = SourceFile("a.py", "x = 1\n", "Python", build_outline("x = 1\n", "Python"))
    whole = ChangedFile("1" * 40, "a.py", "First\n\nBody", 1)
    part = ChangedFile("2" * 40, "a.py", "Second", 2)
    gone = ChangedFile("3" * 40, "b.py", "Third", 1)
    made, dropped = make_questions([source], ImportGraph({"a.py": ()}, {"a.py": ()}), [whole, part, gone], 1)
    assert [(one.text, one.answer) for one in made] == [('Which files did commit 11111111 "First" change?', "a.py")]
    assert dropped["commit changed files that are gone or left out"] == 2


def test_an_answer_with_a_placeholder_is_dropped() -> None:
    text = 'def connect_somewhere(address, password="<PASSWORD>"):\n    return 1\n'
    source = SourceFile("a.py", text, "Python", build_outline(text, "Python"))
    made, dropped = make_questions([source], ImportGraph({"a.py": ()}, {"a.py": ()}), [], 1)
    assert [one.kind for one in made] == ["where"]
    assert dropped["answer holds what was redacted"] == 2


def test_the_same_questions_in_the_same_order_whatever_order_files_come_in(repository: Path) -> None:
    assert ask(repository) == ask(repository, reverse=True)


def test_a_limit_bounds_each_kind_and_chooses_from_the_same_order(repository: Path) -> None:
    everything, _ = ask(repository)
    some, _ = ask(repository, limit=1)
    assert len({one.kind for one in some}) == len(some) == len(QUESTION_KINDS)
    for one in some:
        assert next(other for other in everything if other.kind == one.kind) == one


def test_reading_what_is_left_out_runs_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = make_repo(tmp_path / "repo", [*COMMITS, {".gitattributes": "*.py diff=trap filter=trap\n"}])
    for key in ("diff.trap.textconv", "filter.trap.smudge", "core.fsmonitor", "diff.external"):
        subprocess.run(["git", "config", key, f"touch {ran};"], cwd=folder, check=True)
    ask(folder, leave=frozenset({"package/shapes.py"}))
    assert not ran.exists()
