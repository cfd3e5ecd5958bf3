"""A request's file is the one it names, else the one whose own lines it has; line ends are git's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from git_helper import make_repo

from longrepo.config.loader import load_settings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.serve.prompts import PromptBuilder
from longrepo.serve.working_tree import WorkingTree, newline_of, read_position, with_newlines

HEADER = "".join(
    f"# {line}\n"
    for line in (
        "Copyright 2024 Umber Works",
        "All rights of this depot software are kept by Umber Works",
        "You may read this file where your contract says so",
        "It comes without any promise that it will do a thing.",
        "The text of the contract lies in CONTRACT.txt beside this file.",
    )
)


def module(name: str, start: int = 1) -> str:
    functions = (f"\ndef {name}_{row}(depot):\n    return depot.{name} * {row + start}\n" for row in range(8))
    return f"{HEADER}\nimport math\n{''.join(functions)}"


def edited(name: str, new: int) -> str:
    """A file with so many lines that none has."""
    return module(name) + "".join(f"    quite_new_{row} = something_else({row * 7})\n" for row in range(new))


FILES = {
    f"{folder}/{folder}{number}.py": module(f"{folder}{number}") for folder in ("admin", "web") for number in (0, 1)
}
FILES |= {
    "web/__init__.py": f"{HEADER}\nWEB = 'the web folder'\nNAME = 'web depot'\nPLACE = 'in the north'\n",
    "admin/__init__.py": f"{HEADER}\nADMIN = 'the admin folder'\nNAME = 'admin depot'\nPLACE = 'in the south'\n",
    "copies/a.py": module("copied"),
    "copies/b.py": module("copied"),
    "copies/near1.py": module("near") + "\nONE = 'only in the first of them'\n",
    "copies/near2.py": module("near") + "\nTWO = 'only in the second of them'\n",
    "deep/down/settings.py": module("settings"),
}
NEW = f"{HEADER}\nimport json\n\ndef zebra_count(herd):\n    return "


@pytest.fixture(scope="module")
def tokenizer() -> RepoTokenizer:
    return load_tokenizer("embedded")


def read_tree(folder: Path, files: Mapping[str, str | bytes], tokenizer: RepoTokenizer) -> WorkingTree:
    return WorkingTree.read(make_repo(folder, [files]), tokenizer, load_settings(None, []))  # type: ignore[list-item]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, tokenizer: RepoTokenizer) -> WorkingTree:
    return read_tree(tmp_path_factory.mktemp("tree") / "depot", FILES, tokenizer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (module("web1"), "web/web1.py"),
        (module("web1")[len(HEADER) :], "web/web1.py"),
        (module("web1")[:-120] + "def quite_new(depot):\n", "web/web1.py"),
        (edited("web1", new=12), "web/web1.py"),
        (edited("web1", new=90), None),  # nearly all lines are new
        (module("web1") + module("admin1"), None),  # of two files
        (NEW, None),
        (HEADER, None),
        (f"{HEADER}\nimport math\n", None),
        ("WEB = 'the web folder'\n", None),  # a line isn't enough
        (module("copied"), "copies/a.py"),  # either will do
        (module("near"), None),
        (module("near") + "\nTWO = 'only in the second of them'\n", "copies/near2.py"),
        ("fn main() {\n    println!(nothing of the depot);\n}\n", None),
        ("", None),
        (module("web1").replace("\n", "\r\n"), "web/web1.py"),
    ],
)
def test_a_file_is_recognized_by_the_lines_that_only_it_has(tree: WorkingTree, text: str, expected: str | None) -> None:
    assert tree.path_of(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("web/web1.py", "", "web/web1.py"),
        ("web/web1.py", module("admin0"), "web/web1.py"),  # the name wins
        ("./web/new_zebra.py", NEW, "web/new_zebra.py"),
        ("web\\new_zebra.py", NEW, "web/new_zebra.py"),
        ("new_zebra.py", NEW, "new_zebra.py"),
        ("web1.py", module("web1"), "web/web1.py"),
        ("__init__.py", FILES["admin/__init__.py"], "admin/__init__.py"),
        ("__init__.py", NEW, "__init__.py"),  # a new one: none has a line of it
        ("down/settings.py", module("settings"), "deep/down/settings.py"),
        ("{folder}/web/new_zebra.py", NEW, "web/new_zebra.py"),
        ("file://{folder}/web/a%20b.py", NEW, "web/a b.py"),
        ("vscode-remote://ssh-remote%2Bbox{folder}/web/web0.py", "", "web/web0.py"),
        ("vscode-notebook-cell:{folder}/web/a.ipynb#W3sZmlsZQ%3D%3D", NEW, "web/a.ipynb"),
        ("git:{folder}/web/web0.py?%7B%22ref%22%3A%22~%22%7D", "", "web/web0.py"),
        ("untitled:Untitled-1", NEW, None),
        ("untitled:Untitled-1", module("web1"), "web/web1.py"),
        ("web\\100%25.py", NEW, "web/100%25.py"),
        ("/workspaces/depot/web/web1.py", module("web1"), "web/web1.py"),
        ("file:///c%3A/Users/me/depot/web/web1.py", module("web1"), "web/web1.py"),
        ("C:\\depot\\web\\web1.py", module("web1"), "web/web1.py"),
        ("/home/me/other/web1.py", "import sys\n\nprint('of another project altogether')\n", None),
        ("../other/web1.py", module("web1"), None),
        (".", NEW, None),
    ],
)
def test_the_name_that_an_editor_states_is_found(tree: WorkingTree, name: str, text: str, expected: str | None) -> None:
    assert tree.path_named(name.replace("{folder}", tree.folder.as_posix()), text) == expected


@pytest.mark.parametrize(
    ("header", "text", "expected"),
    [
        ("<|FILE_START|> web/new_zebra.py\n", NEW, "web/new_zebra.py"),
        ("<|FILE_START|> admin/admin0.py\n", module("web1"), "admin/admin0.py"),
        ("", module("web1"), "web/web1.py"),
        ("", NEW, None),
    ],
)
def test_a_template_s_file_is_the_prompt_s(
    tree: WorkingTree, tokenizer: RepoTokenizer, header: str, text: str, expected: str | None
) -> None:
    prompts = PromptBuilder(tokenizer, 2048, tree)
    for asked in (f"{header}<fim_prefix>{text}<fim_suffix>\n<fim_middle>", f"{header}{text}"):
        if not header and "<fim" not in asked:
            continue
        shown = tokenizer.decode(prompts.asked(asked, None, 64).ids)
        own = shown.rpartition("<|FILE_START|>")[2].partition("\n")[0].strip() if "<|FILE_START|>" in shown else None
        assert own == expected
        assert text in shown


CRLF = {
    "dos.py": module("dos").replace("\n", "\r\n"),
    "dos.bat": b"@echo off\r\necho one depot\r\n",
    "mixed.py": "a = 1\r\nb = 2\nc = 3\n",
    **{f"unix{number}.py": module(f"unix{number}") for number in range(3)},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("dos.py", "\r\n"),
        ("unix0.py", "\n"),
        ("mixed.py", "\n"),
        ("new.py", "\n"),
        ("new.bat", "\r\n"),
        ("new.zig", "\n"),
        (None, "\n"),
    ],
)
def test_line_ends_are_those_of_the_file_at_head_or_of_files_like_it(
    tmp_path: Path, tokenizer: RepoTokenizer, path: str | None, expected: str
) -> None:
    assert read_tree(tmp_path / "repo", CRLF, tokenizer).newline(path) == expected


def test_a_prompt_has_the_line_ends_that_git_stores(tmp_path: Path, tokenizer: RepoTokenizer) -> None:
    tree = read_tree(tmp_path / "repo", CRLF, tokenizer)
    prompts = PromptBuilder(tokenizer, 1024, tree)
    for path, newline in (("unix1.py", "\n"), ("dos.py", "\r\n"), ("new.py", "\n")):
        text = module(path.removesuffix(".py"))
        for ends in ("\n", "\r\n"):
            before, after = (with_newlines(part, ends) for part in (text[:300], text[300:]))
            at = prompts.at(path, before, after, 32)
            own = tokenizer.decode(at.ids).rpartition("<|FILE_START|>")[2].partition("\n")[2]
            assert at.newline == newline == newline_of(own)
            assert with_newlines(text[:300], newline) in own
            assert ("\r\n" in own) == (newline == "\r\n")
            if path != "new.py":
                assert prompts.asked(before, after, 32) == at
    strange = "fn main() {\r\n    nothing_of_this();\r\n}\r\n"
    for builder in (prompts, PromptBuilder(tokenizer, 1024)):
        assert "\r" not in tokenizer.decode(builder.asked(strange, None, 32).ids)


def test_a_file_on_disk_is_shown_as_git_stores_it(tmp_path: Path, tokenizer: RepoTokenizer) -> None:
    tree = read_tree(tmp_path / "repo", CRLF, tokenizer)
    file = tree.folder / "unix1.py"
    file.write_bytes(module("unix1").replace("\n", "\r\n").encode())
    position = read_position(file, 12, None, None, None)
    assert position.before.count("\r\n") == 11 and position.after and position.after.startswith("\r\n")
    prompt = PromptBuilder(tokenizer, 1024, tree).at(position.path, position.before, position.after, 32)
    assert "\r" not in tokenizer.decode(prompt.ids).rpartition("<|FILE_START|>")[2]
