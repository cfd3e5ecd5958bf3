"""Addresses and the names that git knows; commit messages; what a cache may rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_helper import Made, make_repo

from longrepo.redaction.redactor import Redactor
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
    ("text", "expected"),
    [
        ("Written by ada.b+c@analytical.co.uk.", "Written by <EMAIL>."),
        ('author = "X <joe@acme.net>"', 'author = "X <EMAIL>"'.replace("<EMAIL>", "<<EMAIL>>")),
        ('s = "a\\njoe@acme.net"', 's = "a\\n<EMAIL>"'),
        ("mailto:joe@acme.photography>", "mailto:joe@acme.photography>"),
        ("<joe@acme.photography>", "<<EMAIL>>"),
    ],
)
def test_addresses_go(text: str, expected: str) -> None:
    assert Redactor([]).text(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png lodash@4.17.21 pkg@1.x",
        "git clone git@github.com:acme/app.git",
        "ssh://me@git.acme.net/app",
        "joe@example.com, joe@mail.example.org, root@localhost, x@y.test",
        "y = a@b.T + c@d",
        "@app.route('/')\n@pytest.fixture",
        "- (void)go:(id)x { [self @selector] }",
        "https://medium.com/@joe.doe",
    ],
)
def test_what_is_no_persons_address_stays(text: str) -> None:
    assert Redactor([]).text(text).text == text


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


def test_a_stored_result_holds_until_a_name_in_it_becomes_known() -> None:
    text = "By Ada Lovelace and Mary Somerville\n@nyov\n"
    stored = Redactor(PEOPLE[:1]).text(text, "Text")
    assert stored.names == Redactor(PEOPLE[:1]).current_names(stored.candidates)
    for people in (PEOPLE[:3], [*PEOPLE[:1], ("Mary Somerville", "")], PEOPLE, []):
        now = Redactor(people)
        fresh = now.text(text, "Text")
        assert fresh.candidates == stored.candidates
        assert fresh.names == now.current_names(stored.candidates)
        assert (fresh.names == stored.names) == (fresh.text == stored.text)
    assert list(stored.candidates) == sorted(set(stored.candidates))
    assert all(0 <= key < 2**64 for key in stored.candidates)


def test_a_message_keeps_its_prose_and_loses_its_people() -> None:
    message = (
        "Fix the mill\n\nAs Ada Lovelace (ada@analytical.org) said:\nit turns.\n\n\n"
        "Signed-off-by: Joe <joe@acme.net>\nCo-authored-by: X Y <x@y.org>\nReported-by: Z\nCc: all\nChange-Id: I9\n"
    )
    redacted = Redactor(PEOPLE).message(message)
    assert redacted.text == "Fix the mill\n\nAs <NAME> (<EMAIL>) said:\nit turns."
    assert [(finding.kind, finding.line) for finding in redacted.findings] == [
        ("name", 3),
        ("email", 3),
        *(("name", line) for line in (7, 8, 9, 10)),
    ]


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
