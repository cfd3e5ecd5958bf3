"""Which changes of white space are formatting, and which say something else than before."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_helper import Made, make_repo
from small_packages import module
from whole import prepared, shown

from longrepo.config.loader import load_settings
from longrepo.data.diff import diff_hunks, is_formatting
from longrepo.data.tokenizer import RepoTokenizer

MEANT = {
    "a return out of a loop": (
        "Python",
        "for x in y:\n    go(x)\n    return x\n",
        "for x in y:\n    go(x)\nreturn x\n",
    ),
    "an else of another if": (
        "Python",
        "if a:\n    if b:\n        c()\n    else:\n        d()\n",
        "if a:\n    if b:\n        c()\nelse:\n        d()\n",
    ),
    "Python 2": ("Python", "if a:\n    print 'x'\n    b()\n", "if a:\n    print 'x'\nb()\n"),
    "a word of a string": ("Python", 'm = "Helo world"\n', 'm = "Helow orld"\n'),
    "a string's blanks": ("JavaScript", 'const a = "a  b"\n', 'const a = "a b"\n'),
    "a template's blanks": ("JavaScript", "const a = `a  ${b}`\n", "const a = `a ${b}`\n"),
    "a key moved under another": ("YAML", "a:\n  b: 1\nc: 2\n", "a:\n  b: 1\n  c: 2\n"),
    "a folder removed": ("Shell", "rm -rf / tmp/x\n", "rm -rf /tmp/x\n"),
    "a recipe's tab": ("Makefile", "a:\n    echo\n", "a:\n\techo\n"),
    "a joined word": ("C", "elseif(x)\n", "else if(x)\n"),
    "a format string": ("C", 'f("%d %d");\n', 'f("%d%d");\n'),
    "a literal of SQL": ("SQL", "SELECT 'a b';\n", "SELECT 'ab';\n"),
    "a selector": ("CSS", "a .b { color: red }\n", "a.b { color: red }\n"),
    "a guard's indent": ("Haskell", "f x = do\n  a\n  where b = 1\n", "f x = do\n  a\nwhere b = 1\n"),
    "a block of CoffeeScript": ("CoffeeScript", "if a\n  b()\n  c()\n", "if a\n  b()\nc()\n"),
    "a word of prose": ("Text", "to day\n", "today\n"),
    "words without a grammar": ("Other", "MOVE A TO B\n", "MOVE ATO B\n"),
    "a string without a grammar": ("Other", "DISPLAY 'A B'\n", "DISPLAY 'AB'\n"),
}
LAID_OUT = {
    "another indent": ("JavaScript", "if (a) {\nb()\n}\n", "if (a) {\n  b()\n}\n"),
    "two blanks to four, a docstring too": (
        "Python",
        'def f():\n  """One.\n\n  Two.\n  """\n  return 1\n',
        'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n',
    ),
    "a wrapped call": ("Python", "f(a, b)\n", "f(\n    a,\n    b\n)\n"),
    "blanks around a sign": ("Python", "x=1\n", "x = 1\n"),
    "blanks in a comment": ("Python", "x = 1 #one\n", "x = 1  # one\n"),
    "a blank line": ("Python", "a()\nb()\n", "a()\n\n\nb()\n"),
    "tabs": ("Go", "func f() {\n    a()\n}\n", "func f() {\n\ta()\n}\n"),
    "a brace on its own line": (
        "Java",
        "class A { int f() { return 1; } }\n",
        "class A\n{\n  int f()\n  { return 1; }\n}\n",
    ),
    "a deeper mapping": ("YAML", "a:\n  b: 1\n", "a:\n    b: 1\n"),
    "a value": ("JSON", '{"a":1,"b":[1,2]}\n', '{\n  "a": 1,\n  "b": [1, 2]\n}\n'),
    "a rule": ("CSS", "a{color:red}\n", "a {\n  color: red\n}\n"),
    "a match": (
        "Rust",
        "fn f(){match a{1=>2,_=>3}}\n",
        "fn f() {\n    match a {\n        1 => 2,\n        _ => 3\n    }\n}\n",
    ),
    "a method": ("Ruby", "def a\nb\nend\n", "def a\n  b\nend\n"),
    "carriage returns": ("C#", "class A\r\n{\r\n}\r\n", "class A\n{\n}\n"),
    "prose wrapped": ("Text", "one two\nthree\n", "one\ntwo three\n"),
    "without a grammar": ("Other", "IF A\nMOVE B TO C\n", "IF A\n    MOVE B TO C\n"),
    "a block of CoffeeScript": ("CoffeeScript", "if a\n  b()\n", "if a\n    b()\n"),
}


@pytest.mark.parametrize("case", MEANT)
def test_white_space_that_says_something_is_no_formatting(case: str) -> None:
    language, before, after = MEANT[case]
    assert "".join(before.split()) == "".join(after.split())
    assert not is_formatting(before, after, diff_hunks(before, after), language)


@pytest.mark.parametrize("case", LAID_OUT)
def test_white_space_that_lays_out_is(case: str) -> None:
    language, before, after = LAID_OUT[case]
    assert is_formatting(before, after, diff_hunks(before, after), language)


def test_a_repair_of_the_indent_is_learnt_and_a_new_layout_isn_t(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    names = ("amber", "birch", "cedar")
    loop = (
        "def first_even(numbers):\n    for number in numbers:\n        if number % 2 == 0:\n            return number\n"
    )
    wrong = loop + "        return None\n"
    files = {f"src/{name}.py": module(name, None, 6) for name in names}
    commits = [
        Made({**files, "src/even.py": wrong, "src/wide.js": "function wide(a) {\nreturn a\n}\n"}, "Begin"),
        Made({"src/even.py": loop + "    return None\n"}, "Look at every number"),
        Made({"src/wide.js": "function wide(a) {\n  return a\n}\n"}, "Indent"),
        *(Made({f"src/{name}.py": module(name, None, 8)}, f"Add to {name}") for name in names),
    ]
    settings = load_settings(None, ["data.commit_share=0.6", "data.question_share=0", "data.held_out_per_length=1"])
    case = prepared(make_repo(tmp_path / "r", commits), tokenizer, settings, phases=1)
    told = "".join(shown(tokenizer, row) for row in case.of("train", kind="commit_evolution"))
    assert "Look at every number" in told and "-        return None\n+    return None" in told
    assert " Indent\n" not in told
    assert case.summary["history"]["changes_left_out"]["change: formatting"] == 1  # type: ignore[index]
