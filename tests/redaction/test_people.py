"""The names that git knows, in their spellings; paths; commit messages; what a cache may rely on."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from pathlib import Path

import pytest
from git_helper import Made, make_repo

from longrepo.redaction.redactor import Redactor, trailer_start
from longrepo.repository.repository import Repository

PEOPLE = [
    ("Ada Lovelace", "ada@analytical.org"),
    ("Jörg van den Berg", "jorg@berg.nl"),
    ("Łukasz Żak", "lz@zak.pl"),
    ("Adrian", "adrian@home.org"),
    ("nyov", "n@nyov.org"),
    ("Grace H", "12345+grace-h@users.noreply.github.com"),
    ("Test", "t@t.org"),
    ("Will", "will@will.org"),
    ("GitHub Actions", "actions@github.com"),
    ("dependabot[bot]", "bot@github.com"),
]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("Python", "# Ada Lovelace's idea", "# <NAME>'s idea"),
        ("Text", "Thanks, Ada Lovelace, Jorg van den Berg.", "Thanks, <NAME>, <NAME>."),
        ("Text", "ADA LOVELACE and Lukasz Zak", "<NAME> and <NAME>"),
        ("Python", "# Copyright (c) 2015-2019 Adrian\n", "# Copyright (c) 2015-2019 <NAME>\n"),
        ("Python", "# Author: nyov", "# Author: <NAME>"),
        ("Markdown", "Fixed by @nyov and @grace-h (by Adrian)", "Fixed by @<NAME> and @<NAME> (by <NAME>)"),
        # Words, bots, and single names where nothing says that a person is meant.
        ("Java", "@Test\nvoid go() {} // by Test", "@Test\nvoid go() {} // by Test"),
        ("Text", "By Will of the people; Will it work? Test it.", "By Will of the people; Will it work? Test it."),
        ("YAML", "name: GitHub Actions", "name: GitHub Actions"),
        ("Python", "@nyov\ndef adrian(): Adrian = Lovelace", "@nyov\ndef adrian(): Adrian = Lovelace"),
        ("Text", "Grace Hopper and Ada Byron", "Grace Hopper and Ada Byron"),
    ],
)
def test_names_that_git_knows_go(language: str, text: str, expected: str) -> None:
    assert Redactor(PEOPLE).text(text, language).text == expected


DECOMPOSED = unicodedata.normalize("NFD", "# Zoë Brontë, 김철수, Søren Ångström")
SPELLINGS = [
    # Scripts: Han, kana, Hangul, Hebrew, Arabic, Devanagari, Tamil, Thai, Armenian, Georgian, Greek, Cyrillic.
    ("山田 太郎", "# 担当: 山田 太郎", "# 担当: <NAME>"),
    ("山田 太郎", "# 山田太郎さん", "# <NAME>さん"),
    ("山田太郎", "# 山田 太郎", "# <NAME>"),
    ("王小明", "// 感谢王小明的帮助", "// 感谢<NAME>的帮助"),
    ("王芳", "// 作者：王芳 2021", "// 作者：<NAME> 2021"),
    ("김 철수", "# 담당자 김철수가", "# 담당자 <NAME>가"),
    ("김철수", "# 김 철수", "# <NAME>"),
    ("דוד כהן", "# תודה לדוד כהן", "# תודה <NAME>"),
    ("محمد العلي", "# كتبه محمد العلي", "# كتبه <NAME>"),
    ("राम कुमार", "# लेखक राम कुमार ने", "# लेखक <NAME> ने"),
    ("கமல் குமார்", "# கமல் குமார்", "# <NAME>"),
    ("สมชาย ใจดี", "# โดยสมชาย ใจดี", "# โดย<NAME>"),
    ("Արամ Պետրոսյան", "# ԱՐԱՄ ՊԵՏՐՈՍՅԱՆ", "# <NAME>"),
    ("გიორგი ბერიძე", "# გიორგი ბერიძემ", "# <NAME>"),
    ("Γιώργος Παπαδόπουλος", "# Γιώργος Παπαδόπουλος", "# <NAME>"),
    ("Иван Петров", "# спасибо Ивану Петрову", "# спасибо <NAME>"),
    ("Taro Yamanaka (山中 太郎)", "# 山中太郎, Taro Yamanaka", "# <NAME>, <NAME>"),
    # Order, initials, particles, apostrophes, accents.
    ("Marrow, Quilla", "# Marrow, Quilla asked", "# <NAME> asked"),
    ("Marrow, Quilla", "# written by Quilla Marrow", "# written by <NAME>"),
    ("MARROW Quilla", "# Quilla Marrow's", "# <NAME>'s"),
    ("Quilla J. Marrow", "# Quilla Marrow", "# <NAME>"),
    ("Quilla Marrow", "# Quilla J.K. Marrow", "# <NAME>"),
    ("Quilla Marrow", "# Q. Marrow, or Marrow, Q.", "# <NAME>, or <NAME>."),
    ("Quilla Anne Marrow", "# Quilla Marrow", "# <NAME>"),
    ("Quilla d'Ambre", "# Quilla d’Ambre", "# <NAME>"),
    ("Quilla O'Brien", "# Quilla O'Brien", "# <NAME>"),
    ("Ludwig van der Hoogen", "# van der Hoogen, Ludwig", "# <NAME>"),
    ("Jean-Luc Pickard", "# Jean Luc Pickard", "# <NAME>"),
    ("Zoë Brontë", DECOMPOSED, DECOMPOSED.replace(unicodedata.normalize("NFD", "Zoë Brontë"), "<NAME>")),
    ("Jörg Müllerson", "# Joerg Muellerson", "# <NAME>"),
    ("Joerg Muellerson", "# Jörg Müllerson", "# <NAME>"),
    ("Nguyễn Văn Anh", "# Văn Anh Nguyễn", "# <NAME>"),
    ("Əli Məmmədov", "# Əli Məmmədov", "# <NAME>"),
    # Names with a word that is also a tool's; roles and brackets in the author's field.
    ("Claude Marchand", "# Claude Marchand", "# <NAME>"),
    ("Ruby Okafor", "# Ruby Okafor", "# <NAME>"),
    ("Dev Patelson", "# Dev Patelson", "# <NAME>"),
    ("Quilla Marrow (ACME)", "# Quilla Marrow", "# <NAME>"),
    ("Dr. Quilla Marrow via GitHub", "# Quilla Marrow", "# <NAME>"),
    # Places: lower case, handles, two lines, string escapes.
    ("Quilla Marrow", "# quilla marrow", "# <NAME>"),
    ("Quilla Marrow", "# github.com/quilla-marrow/x", "# github.com/<NAME>/x"),
    ("Quilla Marrow", "# github.com/QuillaMarrow", "# github.com/<NAME>"),
    ("Quilla Marrow", "# Quilla\n# Marrow wrote it", "# <NAME>\n# <NAME> wrote it"),
    ("Quilla Marrow", 's = "a\\nQuilla Marrow"', 's = "a\\n<NAME>"'),
    ("Quilla Marrow", "# Quilla\u00a0Marrow", "# <NAME>"),
    ("nyov", "path = '/home/nyov/src'", "path = '/home/<NAME>/src'"),
]


@pytest.mark.parametrize(("author", "text", "expected"), SPELLINGS)
def test_a_name_goes_in_every_spelling(author: str, text: str, expected: str) -> None:
    redacted = Redactor([(author, "someone@corp.invalid")]).text(text + "\n", "Python").text
    assert redacted == expected + "\n"


def test_an_addresss_own_name_counts_if_it_is_the_authors() -> None:
    assert Redactor([("qm", "quilla.marrow@corp.io")]).text("# Quilla Marrow").text == "# <NAME>"
    # A real author of numpy: mbyt <random.seed@…>
    assert Redactor([("mbyt", "random.seed@corp.io")]).text("# Random seed: random.seed(1)").text[2:8] == "Random"


@pytest.mark.parametrize(
    ("author", "text"),
    [
        ("Mark Long", "# mark long lines"),
        ("Max Value", "x = max value"),
        ("Adam Long", "# A long time, A Long Story"),
        ("Quilla Marrow", "marrow = quilla(1); Quilla, Marrow and others; test_quilla_marrow(); quilla.marrow()"),
        ("이수정", "# 이 수정은 버그를 고친다"),
        ("大家", "// 感谢大家的帮助"),
        ("Test User", "name = 'Test User'"),
        ("Pallets Team", "# Pallets Team"),
        ("Claude Code", "# Claude Code"),
        ("Google LLC", "# Copyright Google LLC"),
        ("dependabot[bot]", "# dependabot[bot]"),
    ],
)
def test_other_words_stay(author: str, text: str) -> None:
    assert Redactor([(author, "someone@corp.invalid")]).text(text, "Python").text == text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("people/Quilla Marrow/a.py", "people/<NAME>/a.py"),
        ("docs/_authors/quilla-marrow.md", "docs/_authors/<NAME>.md"),
        ("src/quilla_marrow.py", "src/<NAME>.py"),
        ("users/joe@acme.io/x.py", "users/<EMAIL>/x.py"),
        ("メモ/山田太郎.md", "メモ/<NAME>.md"),
        ("people/nyov.yml", "people/<NAME>.yml"),
        ("src/marrow.py", "src/marrow.py"),
        ("pkg@2.0/@scope.name/index.js", "pkg@2.0/@scope.name/index.js"),
    ],
)
def test_names_in_paths_go(path: str, expected: str) -> None:
    people = [("Quilla Marrow", "quilla@corp.io"), ("nyov", "n@nyov.org"), ("山田 太郎", "t@corp.io")]
    assert Redactor(people).path(path) == expected


def test_a_stored_result_holds_until_a_name_in_it_becomes_known() -> None:
    text = "By Ada Lovelace and Mary Somerville\n@nyov\n"
    stored = Redactor(PEOPLE[:1]).text(text, "Text")
    assert stored.names == Redactor(PEOPLE[:1]).current_names(stored.candidates)
    for people in (PEOPLE[:3], [*PEOPLE[:1], ("Mary Somerville", "")], PEOPLE, []):
        now = Redactor(people)
        fresh = now.text(text, "Text")
        assert fresh.candidates == stored.candidates
        assert fresh.names == now.current_names(stored.candidates)
        assert fresh.names != stored.names or fresh.text == stored.text
    assert list(stored.candidates) == sorted(set(stored.candidates))
    assert all(0 <= key < 2**32 for key in stored.candidates)


def test_a_message_keeps_everything_but_its_people() -> None:
    message = (
        "Fix the mill\n\nAs Ada Lovelace (ada@analytical.org) said:\nit turns.\n\n\n"
        "Fixes: #12\nSigned-off-by: Joe <joe@acme.net>\nCo-authored-by: X Y <x@y.org>\nReported-by: Z\n"
        "Reviewed-by: @someone\nReviewed-by: https://acme.net/1\nCc: stable@acme.net\nChange-Id: I9\n"
    )
    redacted = Redactor(PEOPLE).message(message)
    assert redacted.text == (
        "Fix the mill\n\nAs <NAME> (<EMAIL>) said:\nit turns.\n\n"
        "Fixes: #12\nSigned-off-by: <NAME> <<EMAIL>>\nCo-authored-by: <NAME> <<EMAIL>>\nReported-by: <NAME>\n"
        "Reviewed-by: @<NAME>\nReviewed-by: https://acme.net/1\nCc: <EMAIL>\nChange-Id: I9"
    )
    assert [finding.line for finding in redacted.findings if finding.kind == "name"] == [3, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "message",
    [
        "Sort-by: order the list by size",  # the subject is never a trailer
        "Stand-by: wait\nfor the mill",
        "Add sorting\n\nGroup-by: rows are grouped by key\nand sorted.",  # a paragraph that is mostly prose
        "Add sorting\n\nReviewed-by: nobody yet\n\nMore prose.",  # not the last paragraph
    ],
)
def test_a_line_that_only_looks_like_a_trailer_stays(message: str) -> None:
    assert Redactor(PEOPLE).message(message).text == message


TRAILERS = [
    "Subject\n\nSigned-off-by: X <x@y.org>",
    "Subject\n\nProse.\n\nFixes: #1\nReviewed-by: X",
    "Subject\n\nProse.\nReviewed-by: X",
    "Subject\n\nOne\ntwo\nthree\nSigned-off-by: X",
    "Subject\n\nOne\ntwo\nthree\nfour\nSigned-off-by: X",
    "Subject\n\nA-key: value\n continued\nB : value\n\n  \n",
    "Reviewed-by: X\nCc: Y",
    "Subject\n\n(cherry picked from commit 123)\nReviewed-by: X",
    "Subject\n\nReviewed-by: X\n\nConflicts:\n\ta.py\n\tb.py\n",
    "Subject\n\nhttps://acme.net: down\n",
]


@pytest.mark.parametrize("message", TRAILERS)
def test_trailers_are_those_that_git_finds(message: str) -> None:
    command = ["git", "interpret-trailers", "--parse", "--no-divider"]
    told = subprocess.run(command, input=message, capture_output=True, text=True, check=True).stdout
    keys = [line.partition(":")[0].strip() for line in told.splitlines() if ":" in line]
    block = message[trailer_start(message) :].splitlines()
    found = [line.partition(":")[0].strip() for line in block if re.match(r"[\w-]+ *:", line)]
    assert [key for key in found if key != "Conflicts"] == keys


def test_nothing_of_a_repositorys_secrets_is_left_in_any_version(tmp_path: Path) -> None:
    password, token = "uV3-" + "F3YluFJax1", "gh" + "p_" + "a1B2c3D4e5" * 4
    made = make_repo(
        tmp_path / "repo",
        [
            Made({"a.py": f'password = "{password}"\n# Ada Lovelace\n'}),
            Made({"a.py": "password = read()\n"}, f"Drop {token}\n\nSigned-off-by: Ada Lovelace <ada@analytical.org>"),
        ],
    )
    redactor = Redactor(PEOPLE)
    emitted = []
    with Repository.open(made) as repository:
        for commit in repository.commits(repository.resolve()):
            emitted.append(redactor.message(commit.message).text)
            for change in commit.changes:
                emitted += [redactor.text(text, "Python").text for text in (change.before, change.after) if text]
    whole = "\n".join(emitted)
    assert "<PASSWORD>" in whole and "Drop <KEY>" in whole and "# <NAME>" in whole
    assert not any(value in whole for value in (password, token, "Lovelace", "analytical"))
