"""E-mail addresses, and code that looks like one."""

from __future__ import annotations

import pytest

from longrepo.redaction.redactor import Redactor


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
    ("language", "code"),
    [
        ("Python", "s = q@k.mT * 0.5"),
        ("Python", "h = s@w.to(device)"),
        ("Python", "g = h@mask.at[2].set(1)"),
        ("Python", "y = weights@model.is + left@right.io"),
        ("Python", "return state@cov.name"),
        ("Python", "assert allclose(first@record.id, second)"),
        ("Python", "yield left@right.to"),
        ("Python", "# h = s@w.to(device)"),
        ("Python", 'f"{left@right.id}"'),
        ("Markdown", "`h = s@w.to(device)`"),
        ("R", "ids <- object@meta.id"),
        ("OCaml", "let all = first@record.name in"),
        ("Kotlin", "val c = this@Outer.name"),
        ("Objective-C", '[self go:@selector(x:)]; NSString *s = @"a.b";'),
        ("Ruby", "@user.name = user; puts(@a.id)"),
        ("Perl", "my @list = @$self.to; print @names.in;"),
    ],
)
def test_code_with_an_at_sign_stays(language: str, code: str) -> None:
    assert Redactor([]).text(code + "\n", language).text == code + "\n"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("Python", "# Ask joe@acme.io first", "# Ask <EMAIL> first"),
        (
            "Python",
            "# Ask me and joe@acme.io, or if it is late joe@acme.me",
            "# Ask me and <EMAIL>, or if it is late <EMAIL>",
        ),
        ("Python", "# joe@acme.io - author", "# <EMAIL> - author"),
        ("JavaScript", "// joe@acme.me\n/* joe@acme.io */\n  * joe@acme.at", "// <EMAIL>\n/* <EMAIL> */\n  * <EMAIL>"),
        ("Rust", "/// joe@acme.co.in", "/// <EMAIL>"),
        ("Perl", "=pod\n\njoe@acme.at wrote it\n\n=cut\n", "=pod\n\n<EMAIL> wrote it\n\n=cut\n"),
        ("Java", "/* Known in joe@acme.is, not joe@acme.at */", "/* Known in <EMAIL>, not <EMAIL> */"),
        ("Python", 'send("joe@acme.to")', 'send("<EMAIL>")'),
        (
            "Python",
            '"""Tools.\n\nContact (joe@acme.name) for help.\n"""',
            '"""Tools.\n\nContact (<EMAIL>) for help.\n"""',
        ),
        ("C", "/* Tools.\n   By joe@acme.is\n*/", "/* Tools.\n   By <EMAIL>\n*/"),
        ("Perl", "=head1 AUTHOR\n\njoe@mail.acme.ch (Joe Acme)\n", "=head1 AUTHOR\n\n<EMAIL> (Joe Acme)\n"),
        ("JavaScript", "<p>joe@acme.at</p>", "<p><EMAIL></p>"),
        ("Shell", "EMAIL=joe@acme.in", "EMAIL=<EMAIL>"),
        ("YAML", "owner: joe@acme.no", "owner: <EMAIL>"),
        ("Perl", 'my $to = "joe\\@acme.com";', 'my $to = "<EMAIL>";'),
        ("Text", "https://acme.com/?to=joe%40acme.com&x=1", "https://acme.com/?to=<EMAIL>&x=1"),
        ("Text", "Joe@Acme.Com and jörg@müller.de", "<EMAIL> and <EMAIL>"),
    ],
)
def test_addresses_go_from_comments_strings_and_settings(language: str, text: str, expected: str) -> None:
    assert Redactor([]).text(text, language).text == expected
